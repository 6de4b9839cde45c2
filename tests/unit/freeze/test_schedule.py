"""Schedules of phases against independent statements of what they mean, and the sentences about wrong ones."""

import random

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping
from rigs import SGD, Rig

from frostline.depth import Outline, Place, Role
from frostline.freeze.drawing import depths
from frostline.freeze.phases import Phase, Plateau
from frostline.freeze.schedule import Schedule
from frostline.freeze.selector import selects
from frostline.freeze.strategy import Progress
from frostline.plan import as_text

STAGES = depths(["stem", "body1", "body2", "head"])
PLACES = [
    Place(stage=stage, role=role, name=f"{name}.{kind}")
    for stage, name in zip(STAGES, ["conv", "layer.1", "layer.10", "fc"], strict=True)
    for role, kind in [(Role.WEIGHT, "weight"), (Role.BIAS, "bias"), (Role.NORM, "norm.weight")]
    if (stage.name, role) != ("head", Role.NORM)
]
OUTLINE = Outline(stages=STAGES, places=PLACES)
HEAD = Phase(train=["head"])


def at(epoch: int, monitored: dict[int, float] | None = None, epochs: int = 20) -> Progress:
    return Progress(epoch=epoch, epochs=epochs, step=epoch, steps=epochs, monitored=monitored or {})


def trains(schedule: Schedule, progress: Progress) -> dict[str, float]:
    return {place.name: scale for place in PLACES if (scale := schedule.scale_of(place, progress))}


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("body1", {"layer.1.weight", "layer.1.bias", "layer.1.norm.weight"}),
        ("role:norm", {"conv.norm.weight", "layer.1.norm.weight", "layer.10.norm.weight"}),
        ("body2.norm", {"layer.10.norm.weight"}),
        ("all", {place.name for place in PLACES}),
        (r"re:layer\.1\..*", {"layer.1.weight", "layer.1.bias", "layer.1.norm.weight"}),
        (r"re:layer\.\d+\.bias", {"layer.1.bias", "layer.10.bias"}),
        (r"re:layer\.1", set()),
        (r"re:weight", set()),
        ("body", set()),
        ("norm", set()),
    ],
)
def test_a_selector_takes_what_it_says_and_nothing_by_a_common_beginning_t9(selector: str, names: set[str]) -> None:
    assert {place.name for place in PLACES if selects(selector, place)} == names


def test_phases_narrow_widen_repeat_and_freeze_again_at_their_rates() -> None:
    wide = {"train": ["head", "body2"], "rate": [1.0, 0.1]}
    schedule = Schedule(
        phases=[
            {"train": ["head"]},
            {**wide, "epoch": 2},
            {"train": ["stem"], "epoch": 3, "rate": 0.5},
            {**wide, "epoch": 5},
        ]
    )
    head = {"fc.weight": 1.0, "fc.bias": 1.0}
    both = head | {"layer.10.weight": 0.1, "layer.10.bias": 0.1, "layer.10.norm.weight": 0.1}
    stem = {"conv.weight": 0.5, "conv.bias": 0.5, "conv.norm.weight": 0.5}
    assert [trains(schedule, at(epoch)) for epoch in range(7)] == [head, head, both, stem, stem, both, both]
    assert schedule.problems(OUTLINE, 7) == []


def stopped_after(values: list[float], *, patience: int, min_delta: float, mode: str) -> int | None:
    """The validations that Lightning's EarlyStopping sees before it stops."""
    stopping = EarlyStopping("m", patience=patience, min_delta=min_delta, mode=mode, check_finite=False)
    for seen, value in enumerate(values, start=1):
        stop, _ = stopping._evaluate_stopping_criteria(torch.tensor(value, dtype=torch.float64))
        if stop:
            return seen
    return None


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("min_delta", [0.0, 0.125])
@pytest.mark.parametrize("patience", [1, 2, 4])
def test_a_phase_begins_where_early_stopping_from_the_phase_before_would_stop(patience, min_delta, mode) -> None:
    draw, changes = random.Random(patience), 0
    phases = [
        HEAD,
        *(Phase(train=["all"], plateau=Plateau(patience=patience, min_delta=min_delta, mode=mode)) for _ in range(3)),
    ]
    schedule = Schedule(phases=phases)
    for _ in range(40):
        values = [draw.randrange(-8, 8) / 16 for _ in range(20)]
        begins, expected = 0, [0]
        while (seen := stopped_after(values[begins:], patience=patience, min_delta=min_delta, mode=mode)) and len(
            expected
        ) < 4:
            begins += seen
            expected.append(begins)
        found = [schedule._number(at(epoch, dict(enumerate(values[:epoch])))) for epoch in range(20)]
        assert found == [sum(start <= epoch for start in expected) - 1 for epoch in range(20)]
        changes += len(expected) - 1
    assert changes > 40


@pytest.mark.parametrize(
    ("metric", "mode", "rising_is_better"),
    [
        ("val/loss", None, False),
        ("val/accuracy", None, True),
        ("val/loss", "max", True),
        ("val/accuracy", "min", False),
    ],
)
def test_a_metric_improves_in_its_usual_direction_unless_told(metric: str, mode, rising_is_better: bool) -> None:
    rising = dict(enumerate([0.1, 0.2, 0.3, 0.4]))
    end = Plateau(metric=metric, mode=mode, patience=2).end(rising, since=0, soonest=False)
    assert end == (float("inf") if rising_is_better else 3)


def test_what_is_not_a_number_is_no_improvement_and_is_improved_on() -> None:
    plateau, nan = Plateau(patience=2), float("nan")
    assert plateau.end({0: 1.0, 1: nan, 2: nan}, since=0, soonest=False) == 3
    assert plateau.end({0: nan, 1: 9.0, 2: 9.0}, since=0, soonest=False) == float("inf")


def test_beside_a_plateau_the_epoch_is_the_latest() -> None:
    schedule = Schedule(phases=[HEAD, Phase(train=["stem"], epoch=5, plateau=Plateau(patience=1))])
    flat, falling = dict.fromkeys(range(20), 1.0), {epoch: -float(epoch) for epoch in range(20)}
    for values, start in ((flat, 2), (falling, 5)):
        numbers = [schedule._number(at(e, {k: v for k, v in values.items() if k < e})) for e in range(8)]
        assert numbers == [int(epoch >= start) for epoch in range(8)]


def test_a_phase_lasts_an_epoch_though_the_next_is_overdue() -> None:
    late = [HEAD, Phase(train=["stem"], plateau=Plateau(patience=5)), Phase(train=["all"], epoch=3)]
    flat = dict.fromkeys(range(20), 1.0)
    assert Schedule(phases=late)._starts(flat, soonest=False) == [0, 6, 7]


def test_what_is_unknown_begins_where_a_plateau_could_and_ends_where_all_is_sure() -> None:
    waits = Phase(train=["stem"], epoch=6, plateau=Plateau(patience=2))
    schedule = Schedule(phases=[HEAD, waits])
    assert [schedule.known(at(epoch)) for epoch in range(8)] == [True] * 3 + [False] * 3 + [True] * 2
    seen = {0: 1.0, 1: 0.9, 2: 0.8}
    assert [schedule.known(at(epoch, seen)) for epoch in range(3, 8)] == [True, True, False, True, True]
    every_other = {1: 1.0, 3: 0.9}
    assert schedule.known(at(5, every_other))
    assert schedule.known(at(4, {1: 1.0, 3: 2.0}))


WAIT = Plateau()


@pytest.mark.parametrize(
    ("phases", "sentences"),
    [
        (
            [Phase(train=["bdy1", "head"])],
            ["freeze.phases.0.train: the network has no stage 'bdy1'; did you mean 'body1'?"],
        ),
        (
            [HEAD, Phase(train=["body1.nrm"], epoch=1)],
            ["freeze.phases.1.train: the stage 'body1' has no role 'nrm'; did you mean 'norm'?"],
        ),
        (
            [HEAD, Phase(train=["role:adapter"], epoch=1)],
            ["freeze.phases.1.train: no parameter has the role 'adapter'; there are bias, norm, weight"],
        ),
        (
            [Phase(train=["fc.weight"])],
            [r"freeze.phases.0.train: 'fc.weight' is a parameter, not a stage; write 're:fc\.weight'"],
        ),
        (
            [Phase(train=[r"re:layer\.1"])],
            [
                r"freeze.phases.0.train: 're:layer\.1' matches no whole name; "
                r"for all that begins so write 're:layer\.1.*'"
            ],
        ),
        (
            [Phase(train=[r"re:fc\.wieght"])],
            [r"freeze.phases.0.train: 're:fc\.wieght' matches no parameter; the nearest is 'fc.weight'"],
        ),
        (
            [Phase(train=["re:("])],
            [
                "freeze.phases.0.train: 're:(' is no regular expression: "
                "missing ), unterminated subpattern at position 0"
            ],
        ),
        (
            [Phase(train=["all", "head"], rate=[0.1, 1.0])],
            [
                "freeze.phases.0.rate: 'fc.weight' is taken by selectors of different rates; "
                "let one rule take each parameter"
            ],
        ),
        (
            [Phase(train=["stem", "head"], rate=[0.1])],
            ["freeze.phases.0.rate: should be one number, or one for each of the 2 selectors; got [0.1]"],
        ),
        ([Phase(train=["head"], epoch=2)], ["freeze.phases.0.epoch: the first phase begins at epoch 0, got 2"]),
        (
            [Phase(train=["head"], plateau=WAIT)],
            ["freeze.phases.0.plateau: the first phase begins with the run; there is nothing to wait for"],
        ),
        ([HEAD, Phase(train=["all"])], ["freeze.phases.1: say when it begins, by epoch or by plateau"]),
        (
            [HEAD, Phase(train=["all"], epoch=4), HEAD, Phase(train=["all"], epoch=4)],
            [
                "freeze.phases.2: say when it begins, by epoch or by plateau",
                "freeze.phases.3.epoch: should be more than the 4 of phase 1, got 4",
            ],
        ),
        (
            [HEAD, Phase(train=["all"], epoch=0)],
            ["freeze.phases.1.epoch: should be more than the 0 of phase 0, got 0"],
        ),
        (
            [HEAD, Phase(train=["all"], epoch=9)],
            ["freeze.phases.1: begins at epoch 9 at the earliest, and the run has 8 epochs"],
        ),
        (
            [HEAD, Phase(train=["all"], plateau=WAIT), Phase(train=["head"], plateau=WAIT)],
            ["freeze.phases.2: begins at epoch 8 at the earliest, and the run has 8 epochs"],
        ),
        (
            [HEAD, Phase(train=["all"], plateau=Plateau(metric="train/loss"))],
            ["freeze.phases.1.plateau.metric: should be one of validation, such as val/loss; got 'train/loss'"],
        ),
        (
            [HEAD, Phase(train=["all"], plateau=WAIT), Phase(train=["all"], plateau=Plateau(metric="val/accuracy"))],
            ["freeze.phases.2.plateau.metric: another phase waits for 'val/loss'; let all wait for one metric"],
        ),
    ],
)
def test_a_wrong_schedule_is_told_in_sentences(phases: list[Phase], sentences: list[str]) -> None:
    assert Schedule(phases=phases).problems(OUTLINE, 8) == sentences


def test_a_mistake_that_phases_share_is_told_once_and_a_run_of_no_epochs_has_no_end_to_miss() -> None:
    wrong = Phase(train=["hed"], epoch=3)
    assert len(Schedule(phases=[Phase(train=["hed"]), wrong]).problems(OUTLINE, 0)) == 1


class Told(pl.Callback):
    """Report these numbers as the loss of validation, and note what trains in each epoch."""

    def __init__(self, values: list[float]) -> None:
        self.values = values
        self.trained: list[set[str]] = []

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pl_module.log("val/told", self.values[trainer.current_epoch])

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module, batch, batch_idx: int) -> None:
        if batch_idx == 0:
            self.trained.append({n for n, p in pl_module.network.named_parameters() if p.requires_grad})


def test_a_run_changes_phase_after_the_plateau_and_freezes_again() -> None:
    plateau = Plateau(metric="val/told", mode="min", patience=2)
    first = [Phase(train=["head", "re:second.conv.bias"]), Phase(train=["body3"], plateau=plateau)]
    rig = Rig(Schedule(phases=[*first, Phase(train=["head"], plateau=plateau)]), epochs=9, optimizer=SGD)
    head, body = {"fc.weight", "fc.bias"}, {f"third.{n}.{p}" for n in ("conv", "norm") for p in ("weight", "bias")}
    assert rig.plan.horizon == 3 * rig.plan.per_epoch
    assert [place for place, c in enumerate(rig.plan.columns) if c is None] == [3, 4, 5, 6, 7, 8]
    told = Told([5, 4, 4, 4, 9, 8, 8, 8, 1])
    rig.fit(told, num_sanity_val_steps=0)
    assert told.trained == [head | {"second.conv.bias"}] * 4 + [body] * 4 + [head]
    assert [audit["span"] for audit in rig.freezing.audit.findings] == ["epochs 0-3", "epochs 4-7", "epochs 8"]
    assert rig.freezing.audit.intact
    assert [phase.span for phase in rig.freezing.plan.phases] == ["epochs 0-3", "epochs 4-7", "epochs 8"]
    assert "?" not in rig.freezing.plan.picture()


def test_the_plan_says_what_a_phase_waits_for() -> None:
    waits = Phase(train=["head", "body3"], epoch=8, plateau=Plateau(min_delta=0.01))
    once = Phase(train=["all"], plateau=Plateau(patience=1))
    rig = Rig(Schedule(phases=[HEAD, waits, once]), epochs=10, optimizer=SGD)
    assert as_text(rig.plan, lr=0.1).split("\n\n")[-2].splitlines() == [
        "from step 8 on, what trains is decided while training",
        "phase 1 (head, body3) begins when val/loss has not improved by 0.01 for 3 validations, "
        "at epoch 8 at the latest",
        "phase 2 (all) begins when val/loss has not improved for 1 validation",
    ]
