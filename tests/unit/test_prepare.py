"""What is known of a run before Lightning starts, against what Lightning then says."""

import pytest
from omegaconf import OmegaConf
from rigs import SGD, Rig

from frostline.freeze.full import Full
from frostline.prepare import steps_per_epoch


@pytest.mark.parametrize("limit", [None, 1, 2, 5, 0.5, 1.0])
@pytest.mark.parametrize("accumulate", [None, 2, 3])
def test_the_plan_counts_optimizer_steps_as_lightning_does_t22(limit: float | None, accumulate: int | None) -> None:
    asked = {"limit_train_batches": limit, "accumulate_grad_batches": accumulate}
    said = {key: value for key, value in asked.items() if value is not None}
    trainer = Rig(Full(), epochs=3, optimizer=SGD).fit(limit_val_batches=0, **said)
    planned = 3 * steps_per_epoch(OmegaConf.create(said), batches=2)
    assert planned == trainer.estimated_stepping_batches == trainer.global_step
