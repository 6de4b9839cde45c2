"""Runs of a study that begin alike share their beginning, and are the runs that they would be alone."""

import itertools
import json
import os
import signal
import time
from pathlib import Path

import pytest
from test_study_command import children, study
from workplace import FOREIGN, TINY, Workplace

from frostline import beginnings, prepare, run_logger, study_configs
from frostline.init_from import WEIGHTS
from frostline.modules import Training
from frostline.store import Run

pytestmark = FOREIGN

BASE = [*TINY, "data.digits=[3,4]", "trainer.max_epochs=6", "data.batch_size=2"]
"""Runs of two steps an epoch."""
ARMS = {  # in the order in which they run, that of their names
    "full": ["freeze=full"],
    "gradual": ["freeze=gradual", "freeze.every=2"],
    "gradual_alike": ["freeze=gradual", "freeze.every=2", "freeze.ratio=1.0"],
    "probe": ["freeze=lp_ft", "freeze.probe=0.34"],
    "probe_slowly": ["freeze=lp_ft", "freeze.probe=0.34", "freeze.rate=0.1"],
}
SHARING = [arm for arm in ARMS if arm != "full"]
FILES = ("predictions.csv", "audit.json", "plan.txt", "config.yaml", "data.json")


def by_arm(workplace: Workplace) -> dict[tuple[str, str], Run]:
    return {(run.data.tags["frostline.arm"], run.data.tags["frostline.seed"]): run for run in children(workplace)}


def cost(run: Run, name: str) -> float:
    return float(run.data.metrics[f"cost/{name}"])


def history(workplace: Workplace, run: Run) -> dict[str, list[tuple[int, float]]]:
    """What a run has logged, without its seconds and megabytes and what depends on what other runs have kept."""
    points = workplace.store.history(run.info.run_id)
    return {name: found for name, found in points.items() if not name.startswith("cost/")}


def assert_same(one: tuple[Workplace, Run], other: tuple[Workplace, Run]) -> None:
    """Compare the results of two runs byte for byte, and all that they have logged."""
    (here, run), (there, alone) = one, other
    assert history(here, run) == history(there, alone)
    for artifact in FILES:
        assert here.artifact(run.info.run_id, artifact) == there.artifact(alone.info.run_id, artifact), artifact
    files = [place.store.fetch(each.info.run_id, WEIGHTS).read_bytes() for place, each in (one, other)]
    assert files[0] == files[1]


@pytest.fixture(autouse=True)
def no_two_points_at_one_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow takes a point that is logged twice within a millisecond for one; on a slow machine it would be two."""
    milliseconds = itertools.count(int(time.time() * 1000))
    monkeypatch.setattr("frostline.record.time", lambda: next(milliseconds) / 1000)


@pytest.fixture
def epochs_trained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The epoch of each epoch that is really trained."""
    trained: list[int] = []
    before = Training.on_train_epoch_end

    def noticing(self: Training) -> None:
        trained.append(self.current_epoch)
        before(self)

    monkeypatch.setattr(Training, "on_train_epoch_end", noticing)
    return trained


class Elsewhere(Workplace):
    """Another folder and store, in which the same arms run alone."""

    def __init__(self, workplace: Workplace) -> None:
        self.__dict__ |= workplace.__dict__
        self.enter(workplace.folder / "elsewhere")

    def alone(self, overrides: list[str], seed: str, *more: str) -> Run:
        said = self.frostline("finetune", *study_configs.QUIET, *BASE, *overrides, f"seed={seed}", *more)
        assert said.code == 0, said.err
        return self.store.run(said.run_id)


SELDOM = (
    (("cache=off",), 2),
    (("cache=require",), 2),
    (("cache=off", "optimizer=adamw", "scheduler=cosine"), 2),
    (("cache=off", "averaging=ema", "data.augment=true"), 2),
    (("cache=off", "stopping=early", "stopping.patience=2", "optimizer.lr=0.5"), 2),
)


@pytest.mark.parametrize(
    ("more", "seeds"), [(("cache=off",), 1), *(pytest.param(*each, marks=pytest.mark.slow) for each in SELDOM)]
)
def test_each_run_of_a_study_is_the_run_made_alone_and_the_probe_is_trained_once(
    more: tuple[str, ...], seeds: int, workplace: Workplace, epochs_trained: list[int]
) -> None:
    """Six epochs a run; of the four runs of a seed that probe, the first trains the two epochs of the probe."""
    cache = [] if more == ("cache=require",) else more
    arms = {arm: [*overrides, *([] if arm == "full" else more)] for arm, overrides in ARMS.items()}
    said = workplace.frostline("study", study(pretrain=None, base=[*BASE, *cache], arms=arms, seeds=[*range(seeds)]))
    assert said.code == 0, said.err
    assert [epochs_trained.count(epoch) for epoch in range(3)] == [2 * seeds, 2 * seeds, 5 * seeds]
    runs = by_arm(workplace)
    assert len(runs) == 5 * seeds
    assert not list(Path("outputs").glob("*/beginnings"))
    for seed in "01"[:seeds]:
        first = runs["gradual", seed]
        assert "frostline.forked_from" not in first.data.tags
        assert cost(first, "shared_flops") == cost(runs["full", seed], "shared_flops") == 0
        for arm in SHARING[1:]:
            run = runs[arm, seed]
            assert run.data.tags["frostline.forked_from"] == first.info.run_id
            assert 0 < cost(run, "shared_flops") < cost(run, "train_flops")
            assert 0 < cost(run, "shared_wall_s") < cost(run, "wall_s")
    elsewhere = Elsewhere(workplace)
    for (arm, seed), run in runs.items():
        alone = elsewhere.alone(ARMS[arm], seed, *(more if arm != "full" else cache))
        assert_same((workplace, run), (elsewhere, alone))
        if "cache=off" in more:
            assert cost(run, "train_flops") == cost(alone, "train_flops")
            assert cost(run, "trainable_params") == cost(alone, "trainable_params")


def test_the_record_of_the_study_says_what_was_shared(workplace: Workplace) -> None:
    arms = {arm: ARMS[arm] for arm in ("full", "gradual", "probe")}
    said = workplace.frostline("study", study(pretrain=None, base=BASE, arms=arms))
    assert said.code == 0, said.err
    (parent,) = workplace.runs(phase="study")
    runs = by_arm(workplace)
    shared = json.loads(workplace.artifact(parent.info.run_id, "shared.json"))
    for seed, each in enumerate(shared):
        run = runs["probe", str(seed)]
        assert each == {
            "run": run.info.run_id,
            "arm": "probe",
            "seed": seed,
            "from": runs["gradual", str(seed)].info.run_id,
            "step": 4,
            "flops": cost(run, "shared_flops"),
            "wall_s": cost(run, "shared_wall_s"),
        }
    assert len(shared) == 2
    metrics = parent.data.metrics
    assert metrics["study/shared_flops"] == sum(each["flops"] for each in shared) > 0
    given = sum(cost(run, "prefix_given") for run in runs.values())
    assert metrics["study/prefix_given"] == given > 0
    lines = [line for line in said.out.splitlines() if "from step 4 of gradual" in line]
    assert ["probe seed" in line for line in lines] == [True, True]
    again = workplace.frostline("study", study(pretrain=None, base=BASE, arms=arms))
    assert again.code == 0, again.err
    assert json.loads(workplace.artifact(parent.info.run_id, "shared.json")) == shared


def test_what_is_not_alike_is_not_shared_and_nothing_is_left_for_nobody(
    workplace: Workplace, epochs_trained: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[str] = []
    monkeypatch.setattr(beginnings.Beginnings, "leave", lambda self, name, *_: left.append(name))
    arms = {
        "full": ["freeze=full"],
        "probe": ["freeze=lp_ft"],
        "faster": ["freeze=gradual", "freeze.every=2", "optimizer.lr=0.5"],
        "statistics": ["freeze=lp_ft", "freeze.norm_stats=running"],
        "adapted": ["freeze=lora"],
        "longer": ["freeze=lp_ft", "trainer.max_epochs=8"],
        "signals": ["freeze=auto_rgn"],
        "watched": ["freeze=gradual", "+trainer.callbacks=[{_target_: pytorch_lightning.callbacks.Timer}]"],
    }
    said = workplace.frostline("study", study(pretrain=None, base=BASE, arms=arms, seeds=[0]))
    assert said.code == 0, said.err
    assert epochs_trained.count(0) == 8
    assert not left
    assert not [run for run in children(workplace) if "frostline.forked_from" in run.data.tags]


@pytest.mark.parametrize("steps", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_run_begins_from_the_longest_beginning_that_it_shares(
    steps: int, workplace: Workplace, epochs_trained: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All four probe for an epoch; the last two go on probing for two more. Metrics are written at once."""
    monkeypatch.setattr(run_logger, "_PAUSE", 0.0)
    base = [*BASE, f"data.batch_size={4 // steps}"]
    arms = {
        "brief": ["freeze=lp_ft", "freeze.probe=0.17", "cache=off"],
        "early": ["freeze=gradual", "freeze.every=1", "cache=off"],
        "late": ["freeze=lp_ft", "freeze.probe=0.5", "cache=off"],
        "later": ["freeze=lp_ft", "freeze.probe=0.67", "cache=off"],
    }
    said = workplace.frostline("study", study(pretrain=None, base=base, arms=arms, seeds=[0], reference="brief"))
    assert said.code == 0, said.err
    assert [epochs_trained.count(epoch) for epoch in range(6)] == [1, 3, 3, 4, 4, 4]
    runs = by_arm(workplace)
    taken = {arm: run.data.tags.get("frostline.forked_at") for (arm, _), run in runs.items()}
    assert taken == {"brief": None, "early": f"{steps}", "late": f"{steps}", "later": f"{3 * steps}"}
    elsewhere = Elsewhere(workplace)
    for (arm, seed), run in runs.items():
        assert_same((workplace, run), (elsewhere, elsewhere.alone(arms[arm], seed, base[-1])))


@pytest.mark.parametrize(
    ("number", "epoch", "hard", "left"),
    [
        pytest.param(1, 0, False, 0, marks=pytest.mark.slow),
        pytest.param(2, 3, False, 1, marks=pytest.mark.slow),
        (2, 2, True, 1),
    ],
    ids=["in the probe", "after it", "before the first checkpoint after it"],
)
def test_an_interrupted_study_goes_on_from_what_it_has(
    number: int, epoch: int, hard: bool, left: int, workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C once or twice, in the run that leaves its beginning or in one that began from it: all end as if alone."""
    arms = {arm: ARMS[arm] for arm in ("gradual", "probe", "probe_slowly")}
    folder = study(pretrain=None, base=BASE, arms=arms, seeds=[0], reference="probe")
    with monkeypatch.context() as patch:
        before = Training.on_train_epoch_end

        def interrupted(self: Training) -> None:
            before(self)
            if self.current_epoch == epoch and len(children(workplace)) == number:
                os.kill(os.getpid(), signal.SIGINT)
                if hard:
                    os.kill(os.getpid(), signal.SIGINT)

        patch.setattr(Training, "on_train_epoch_end", interrupted)
        said = workplace.frostline("study", folder)
    assert said.code == 130
    assert len(list(Path("outputs").glob("*/beginnings/*"))) == left
    said = workplace.frostline("study", folder)
    assert said.code == 0, said.err
    assert not list(Path("outputs").glob("*/beginnings"))
    runs = by_arm(workplace)
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert len(children(workplace)) == 3
    first = runs["gradual", "0"]
    for arm in ("probe", "probe_slowly"):
        assert runs[arm, "0"].data.tags["frostline.forked_from"] == first.info.run_id
        assert cost(runs[arm, "0"], "shared_flops") > 0
    elsewhere = Elsewhere(workplace)
    for (arm, seed), run in runs.items():
        same = history(workplace, run), history(elsewhere, alone := elsewhere.alone(ARMS[arm], seed))
        for points in same:
            points.pop("audit/frozen_intact")  # an interrupted run tells of it twice
        assert same[0] == same[1]
        for artifact in ("predictions.csv", "plan.txt"):
            assert workplace.artifact(run.info.run_id, artifact) == elsewhere.artifact(alone.info.run_id, artifact)


def test_a_beginning_for_which_there_is_no_room_costs_nothing_but_time(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(beginnings.shutil, "copy", full)
    arms = {arm: ARMS[arm] for arm in ("probe", "gradual")}
    said = workplace.frostline("study", study(pretrain=None, base=BASE, arms=arms, seeds=[0], reference="probe"))
    assert said.code == 0, said.err
    assert not [run for run in children(workplace) if "frostline.forked_at" in run.data.tags]


def test_arms_of_one_network_that_are_wrong_with_another_seed_fail_when_their_turn_comes(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = prepare.prepare

    def broken(cfg, *arguments, **options):
        if cfg.seed == 1 and "gradual" in cfg.freeze["_target_"]:
            raise ArithmeticError("not with this seed")
        return before(cfg, *arguments, **options)

    monkeypatch.setattr(prepare, "prepare", broken)
    arms = {arm: ARMS[arm] for arm in ("probe", "gradual")}
    said = workplace.frostline("study", study(pretrain=None, base=BASE, arms=arms, reference="probe"))
    assert said.code == 1
    assert "gradual seed 1           FAILED: not with this seed" in said.out
