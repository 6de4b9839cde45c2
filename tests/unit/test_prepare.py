"""What is known of a run before Lightning starts, against what Lightning then says."""

import re

import pytest
from omegaconf import OmegaConf
from rigs import SGD, Rig

from frostline.errors import RequestError
from frostline.freeze.full import Full
from frostline.freeze.phases import Phase, Plateau
from frostline.freeze.schedule import Schedule
from frostline.prepare import steps_per_epoch
from frostline.refusals import refuse_unknown_metric


@pytest.mark.parametrize("limit", [None, 1, 2, 5, 0.5, 1.0])
@pytest.mark.parametrize("accumulate", [None, 2, 3])
def test_the_plan_counts_optimizer_steps_as_lightning_does_t22(limit: float | None, accumulate: int | None) -> None:
    asked = {"limit_train_batches": limit, "accumulate_grad_batches": accumulate}
    said = {key: value for key, value in asked.items() if value is not None}
    trainer = Rig(Full(), epochs=3, optimizer=SGD).fit(limit_val_batches=0, **said)
    planned = 3 * steps_per_epoch(OmegaConf.create(said), batches=2)
    assert planned == trainer.estimated_stepping_batches == trainer.global_step


def waiting_for(metric: str) -> Rig:
    phases = [Phase(train=["head"]), Phase(train=["all"], plateau=Plateau(metric=metric))]
    return Rig(Schedule(phases=phases), epochs=9, optimizer=SGD)


def test_a_strategy_may_wait_for_what_is_measured_and_for_nothing_else() -> None:
    for metric in ("val/loss", "val/accuracy"):
        rig = waiting_for(metric)
        refuse_unknown_metric(rig.plan, rig.module)
    rig = waiting_for("val/acuracy")
    sentence = "freeze: nothing measures 'val/acuracy', which Schedule waits for; did you mean 'val/accuracy'?"
    with pytest.raises(RequestError, match=re.escape(sentence)):
        refuse_unknown_metric(rig.plan, rig.module)
