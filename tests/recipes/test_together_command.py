"""Heads of a study that differ in their optimizer's settings train together, and come to what they would alone."""

import json
import os
import signal
import time
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_beginnings_command import BASE, Elsewhere, by_arm, cost, history, no_two_points_at_one_time  # noqa: F401
from test_study_command import children, study
from torch import Tensor
from torch.testing import assert_close
from workplace import FOREIGN, Workplace

from frostline.init_from import WEIGHTS
from frostline.interruption import LAST, read_checkpoint
from frostline.modules import Training
from frostline.store import Run
from frostline.together import heads, taking_along
from frostline.together.left import Host, checkpoints_of
from frostline.together.other import Other

pytestmark = FOREIGN

ARMS = {
    "a_first": ["freeze=head", "optimizer.lr=0.0001"],
    "b_full": ["freeze=full"],
    "c_slower": ["freeze=head", "optimizer.lr=0.00001"],
    "d_decayed": ["freeze=head", "optimizer.lr=0.0001", "optimizer.weight_decay=0.5"],
    "e_plain": ["freeze=head", "optimizer.lr=0.00005", "optimizer.momentum=0.0"],
}
"""Rates at which these heads, whose features are large, come to rest; at ten times as much, rounding would grow."""
ALONG = ["c_slower", "d_decayed", "e_plain"]


SELDOM = (
    ["stopping=early"],
    ["regularizer=l2_sp"],
    ["trainer.accumulate_grad_batches=2"],
    ["trainer.val_check_interval=1"],
    ["trainer.max_epochs=2"],
)


@pytest.fixture
def steps_trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A mark for each step that a run of its own really takes."""
    taken: list[str] = []
    before = Training.training_step

    def noticing(self: Training, batch: object, batch_idx: int) -> object:
        taken.append("step")
        return before(self, batch, batch_idx)

    monkeypatch.setattr(Training, "training_step", noticing)
    return taken


def assert_as_alone(one: tuple[Workplace, Run], other: tuple[Workplace, Run]) -> None:
    """Compare all that two runs have logged, at which steps, and what they come to, but for rounding."""
    ours, theirs = history(*one), history(*other)
    assert {n: [s for s, _ in points] for n, points in ours.items()} == {
        n: [s for s, _ in points] for n, points in theirs.items()
    }
    for name, points in theirs.items():
        assert [v for _, v in ours[name]] == pytest.approx([v for _, v in points], rel=1e-5, abs=1e-6), name
    files = [load_file(place.store.fetch(run.info.run_id, WEIGHTS)) for place, run in (one, other)]
    assert_close(*files, rtol=1e-4, atol=1e-5)
    audits = [place.artifact(run.info.run_id, "audit.json") for place, run in (one, other)]
    assert audits[0] == audits[1]
    assert cost(one[1], "trainable_params") == cost(other[1], "trainable_params")


def assert_same_scores(one: tuple[Workplace, Run], other: tuple[Workplace, Run]) -> None:
    """Compare what two runs have come to, of which one was interrupted, but for rounding."""
    ours, theirs = (dict(place.store.run(run.info.run_id).data.metrics) for place, run in (one, other))
    scores = [name for name in theirs if not name.startswith("cost/")]
    assert {n: ours[n] for n in scores} == pytest.approx({n: theirs[n] for n in scores}, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(
    ("more", "seeds"),
    [
        ((), 1),
        pytest.param((), 2, marks=pytest.mark.slow),
        pytest.param(
            ("optimizer=adamw", "scheduler=cosine", "data.augment=true", "data.views=2"), 2, marks=pytest.mark.slow
        ),
        pytest.param(("model=torchvision", "model.name=resnet18", "model.weights=null"), 2, marks=pytest.mark.slow),
        pytest.param(("channels_last=true",), 1, marks=pytest.mark.slow),
    ],
    ids=["sgd", "sgd, two seeds", "adamw", "resnet18", "channels last"],
)
def test_each_run_is_the_run_made_alone(
    more: tuple[str, ...], seeds: int, workplace: Workplace, steps_trained: list[str]
) -> None:
    """Six epochs of two steps a run; the runs that are taken along train the last one themselves."""
    momentum = [] if "optimizer=adamw" in more else ["optimizer.momentum=0.0"]
    arms = ARMS | {"e_plain": ["freeze=head", "optimizer.lr=0.00005", *momentum]}
    asked = {"base": [*BASE, *more], "arms": arms, "seeds": [*range(seeds)]}
    said = workplace.frostline("study", study(pretrain=None, reference="a_first", **asked))
    assert said.code == 0, said.err
    runs = by_arm(workplace)
    assert len(runs) == 5 * seeds
    assert len(steps_trained) == seeds * 2 * (6 + 6 + 3 * 1)
    elsewhere = Elsewhere(workplace)
    for (arm, seed), run in runs.items():
        alone = elsewhere.alone(arms[arm], seed, *more)
        assert_as_alone((workplace, run), (elsewhere, alone))
        assert cost(run, "train_flops") == cost(alone, "train_flops")
        if arm in ALONG:  # what is kept was computed by the first, here as there
            assert cost(run, "shared_flops") == cost(alone, "shared_flops") > 0
        with_first = run.data.tags.get("frostline.trained_with")
        assert with_first == (runs["a_first", seed].info.run_id if arm in ALONG else None)


def test_what_training_together_took_is_divided_among_those_who_were_taken_along(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three epochs two are trained together; each of the three who are taken along bears a third of them."""
    long, looking, looks = 1.0, heads.Heads.look, list[float]()

    def slowly(self: heads.Heads, *seen: object) -> object:
        looks.append(long)
        time.sleep(long)
        return looking(self, *seen)

    monkeypatch.setattr(heads.Heads, "look", slowly)
    asked = {"base": [*BASE, "trainer.max_epochs=3"], "arms": ARMS, "seeds": [0]}
    said = workplace.frostline("study", study(pretrain=None, reference="a_first", **asked))
    assert said.code == 0, said.err
    walls = {arm: cost(run, "wall_s") for (arm, _), run in by_arm(workplace).items() if arm in ALONG}
    assert walls.keys() == set(ALONG)
    share = sum(looks) / len(ALONG)
    assert share <= min(walls.values())
    assert max(walls.values()) < 2 * share


def test_the_record_of_the_study_says_who_trained_together(workplace: Workplace) -> None:
    said = workplace.frostline("study", study(pretrain=None, reference="a_first", base=BASE, arms=ARMS))
    assert said.code == 0, said.err
    (parent,) = workplace.runs(phase="study")
    told = json.loads(workplace.artifact(parent.info.run_id, "shared.json"))
    runs = by_arm(workplace)
    assert sorted((each["arm"], each["seed"], each["trained_with"], each["until_step"]) for each in told) == sorted(
        (arm, seed, runs["a_first", str(seed)].info.run_id, 10) for arm in ALONG for seed in (0, 1)
    )


@pytest.mark.parametrize(
    "base",
    [
        ["cache=off"],
        ["trainer.gradient_clip_val=1.0"],
        ["trainer.precision=bf16-mixed"],
        *(pytest.param(base, marks=pytest.mark.slow) for base in SELDOM),
    ],
    ids=" ".join,
)
def test_what_makes_runs_go_their_own_ways_keeps_them_apart(
    base: list[str], workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[object] = []
    monkeypatch.setattr(taking_along.TakingAlong, "__init__", lambda self, *_, **__: taken.append(self))
    arms = {arm: ARMS[arm] for arm in ("a_first", "c_slower")}
    said = workplace.frostline(
        "study", study(pretrain=None, reference="a_first", base=[*BASE, *base], arms=arms, seeds=[0])
    )
    assert said.code == 0, said.err
    assert not taken


def interrupt_twice(
    workplace: Workplace, folder: str, monkeypatch: pytest.MonkeyPatch, *, epoch: int, runs: int
) -> None:
    """Run a study up to the end of an epoch of the run that is the last of so many."""
    before = Training.on_train_epoch_end

    def interrupted(self: Training) -> None:
        before(self)
        if self.current_epoch == epoch and len(children(workplace)) == runs:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "on_train_epoch_end", interrupted)
        assert workplace.frostline("study", folder).code == 130


@pytest.mark.parametrize(
    ("number", "epoch", "along"),
    [pytest.param(1, 2, ["d_decayed"], marks=pytest.mark.slow), (2, 5, ["c_slower", "d_decayed"])],
)
def test_an_interrupted_study_goes_on_from_what_it_has(
    number: int, epoch: int, along: list[str], workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C twice, in the run that takes the others along, whose part another one has then, or in one of these."""
    arms = {arm: ARMS[arm] for arm in ("a_first", "c_slower", "d_decayed")}
    folder = study(pretrain=None, reference="a_first", base=BASE, arms=arms, seeds=[0])
    interrupt_twice(workplace, folder, monkeypatch, epoch=epoch, runs=number)
    said = workplace.frostline("study", folder)
    assert said.code == 0, said.err
    assert not list(Path("outputs").glob("*/beginnings"))
    elsewhere = Elsewhere(workplace)
    runs = by_arm(workplace)
    assert [arm for (arm, _), run in sorted(runs.items()) if "frostline.trained_with" in run.data.tags] == along
    for (arm, seed), run in runs.items():
        alone = elsewhere.alone(arms[arm], seed)
        assert_same_scores((workplace, run), (elsewhere, alone))


def test_runs_that_cannot_go_along_train_by_themselves(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("vmap: no")

    monkeypatch.setattr(heads, "vmap", fails)
    said = workplace.frostline("study", study(pretrain=None, reference="a_first", base=BASE, arms=ARMS, seeds=[0]))
    assert said.code == 0, said.err
    assert [run for run in by_arm(workplace).values() if "frostline.trained_with" in run.data.tags] == []
    (parent,) = workplace.runs(phase="study")
    assert workplace.artifact(parent.info.run_id, "apart/a_first-seed0.txt") == "RuntimeError: vmap: no"


@pytest.fixture
def start(workplace: Workplace) -> str:
    """Weights to start from, so that what is frozen is the same for all seeds."""
    trained = workplace.train("pretrain", "data.digits=[0,1,2]")
    return f"init_from={workplace.store.fetch(trained, WEIGHTS)}"


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, object]]:
    """The last checkpoints that are left for others, by the signature of the run that goes on from it."""
    found: dict[str, dict[str, object]] = {}

    def noticing(other: Other, host: Host) -> dict[str, dict[str, object]]:
        made = checkpoints_of(other, host)
        found[other.prepared.signature] = deepcopy(made[LAST])
        return made

    monkeypatch.setattr(taking_along, "checkpoints_of", noticing)
    return found


@pytest.fixture
def before_the_last_epoch(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """The last checkpoint of each run as its last epoch begins."""
    found: list[dict[str, object]] = []
    before = Training.on_train_epoch_end

    def noticing(self: Training) -> None:
        before(self)
        last = Path(self.trainer.checkpoint_callback.dirpath) / LAST
        if self.current_epoch == self.trainer.max_epochs - 1 and last.exists():
            found.append(read_checkpoint(last))

    monkeypatch.setattr(Training, "on_train_epoch_end", noticing)
    return found


OWN = {"dirpath", "wall", "steps", "spent", "flops", "computed", "waiting"}
"""What depends on the folder, the machine, what other runs have kept, or when the record was last written."""


def without_paths(state: object) -> object:
    """Return a checkpoint without what need not be the same, and with the names of files in place of their paths."""
    if isinstance(state, Mapping):
        return {without_paths(key): without_paths(part) for key, part in state.items() if key not in OWN}
    if isinstance(state, list | tuple):
        return [without_paths(part) for part in state]
    return Path(state).name if isinstance(state, str) and state.startswith("/") else state


def differences(one: object, other: object, where: str = "") -> Iterator[str]:
    """Yield where two checkpoints differ, numbers by more than rounding."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        for key in one:
            yield from differences(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for place, pair in enumerate(zip(one, other, strict=True)):
            yield from differences(*pair, f"{where}/{place}")
    elif isinstance(one, Tensor) and isinstance(other, Tensor) and one.is_floating_point():
        if not torch.allclose(one, other, rtol=1e-4, atol=1e-5):
            yield f"{where}: {one} {other}"
    elif isinstance(one, Tensor) and isinstance(other, Tensor):
        if not torch.equal(one, other):
            yield f"{where}: {one} {other}"
    elif one != (pytest.approx(other, rel=1e-4, abs=1e-5) if isinstance(one, float) else other):
        yield f"{where}: {one} {other}"


RATES = {"a_fast": ["optimizer.lr=0.0001"], "b_slow": ["optimizer.lr=0.00001"]}
SHOTS = {"a_few": ["data.shots=2"], "b_more": ["data.shots=3"], "c_most": ["data.shots=4"]}
"""Of two classes, in batches of two: two steps an epoch, three, or four."""


@pytest.mark.parametrize(
    ("arms", "seeds", "more"),
    [
        (RATES, [0, 1, 2], ()),
        (SHOTS, [0, 1], ("scheduler=cosine", "optimizer.lr=0.0001")),
        pytest.param(RATES, [0, 1, 2], ("data.shots=null", "data.batch_size=50"), marks=pytest.mark.slow),
        pytest.param(
            RATES,
            [0, 1],
            ("optimizer=adamw", "scheduler=cosine", "data.augment=true", "data.views=2"),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["examples", "shots", "order", "adamw"],
)
def test_runs_of_other_seeds_and_shots_see_their_own_batches(
    arms: dict[str, list[str]],
    seeds: list[int],
    more: tuple[str, ...],
    workplace: Workplace,
    start: str,
    left: dict[str, dict[str, object]],
    before_the_last_epoch: list[dict[str, object]],
) -> None:
    """All that comes after the first run has its last epoch alone to train, from where it would stand alone."""
    arms = {arm: ["freeze=head", *overrides] for arm, overrides in arms.items()}
    base = [*BASE, start, *more]
    said = workplace.frostline(
        "study", study(pretrain=None, reference=next(iter(arms)), base=base, arms=arms, seeds=seeds)
    )
    assert said.code == 0, said.err
    runs = by_arm(workplace)
    del runs["full", "0"]  # the pre-training
    (first, *others) = sorted(runs, key=lambda run: run[::-1])
    assert len(left) == len(others) == len(arms) * len(seeds) - 1
    elsewhere = Elsewhere(workplace)
    for (arm, seed), run in runs.items():
        alone = elsewhere.alone(arms[arm], seed, start, *more)
        assert_as_alone((workplace, run), (elsewhere, alone))
        with_first = run.data.tags.get("frostline.trained_with")
        assert with_first == (runs[first].info.run_id if (arm, seed) != first else None)
        if with_first:
            states = (left[run.data.tags["frostline.signature"]], before_the_last_epoch[-1])
            assert not list(differences(*map(without_paths, states)))


@pytest.mark.parametrize(
    ("number", "epoch", "with_first", "with_next"),
    [(1, 2, 0, 4), pytest.param(3, 5, 5, 0, marks=pytest.mark.slow)],
    ids=["in the first run", "in one that it took along"],
)
def test_an_interrupted_study_of_several_seeds_goes_on_from_what_it_has(
    number: int,
    epoch: int,
    with_first: int,
    with_next: int,
    workplace: Workplace,
    start: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ctrl-C twice; the first run goes on without the others, whom the next one takes along then."""
    arms = {arm: ["freeze=head", *overrides] for arm, overrides in RATES.items()}
    folder = study(pretrain=None, reference="a_fast", base=[*BASE, start], arms=arms, seeds=[0, 1, 2])
    interrupt_twice(workplace, folder, monkeypatch, epoch=epoch, runs=1 + number)  # with the pre-training
    said = workplace.frostline("study", folder)
    assert said.code == 0, said.err
    assert not list(Path("outputs").glob("*/beginnings"))
    runs = by_arm(workplace)
    del runs["full", "0"]  # the pre-training
    hosts = [run.data.tags.get("frostline.trained_with") for run in runs.values()]
    assert hosts.count(runs["a_fast", "0"].info.run_id) == with_first
    assert hosts.count(runs["b_slow", "0"].info.run_id) == with_next
    (parent,) = workplace.runs(phase="study")
    told = json.loads(workplace.artifact(parent.info.run_id, "shared.json"))
    assert len(told) == with_first + with_next
    elsewhere = Elsewhere(workplace)
    for (arm, seed), run in runs.items():
        if seed != "1":
            assert_same_scores((workplace, run), (elsewhere, elsewhere.alone(arms[arm], seed, start)))


def test_seeds_whose_frozen_part_was_drawn_train_with_their_own_alone(workplace: Workplace) -> None:
    """Without weights to start from, what is frozen is another network for each seed."""
    arms = {arm: ["freeze=head", *overrides] for arm, overrides in RATES.items()}
    said = workplace.frostline("study", study(pretrain=None, reference="a_fast", base=BASE, arms=arms))
    assert said.code == 0, said.err
    runs = by_arm(workplace)
    hosts = {run: found.data.tags.get("frostline.trained_with") for run, found in runs.items()}
    assert {(arm, seed): hosts[arm, seed] for arm in RATES for seed in "01"} == {
        ("a_fast", "0"): None,
        ("a_fast", "1"): None,
        ("b_slow", "0"): runs["a_fast", "0"].info.run_id,
        ("b_slow", "1"): runs["a_fast", "1"].info.run_id,
    }


def test_runs_from_which_others_begin_train_by_themselves(workplace: Workplace, start: str) -> None:
    """The head at this rate is the probe of `lp_ft`, which so begins from it with every seed."""
    arms = {
        "a_fast": ["freeze=head"],
        "b_slow": ["freeze=head", "optimizer.lr=0.00001"],
        "c_probe": ["freeze=lp_ft", "freeze.probe=0.5"],
    }
    said = workplace.frostline("study", study(pretrain=None, reference="a_fast", base=[*BASE, start], arms=arms))
    assert said.code == 0, said.err
    runs = by_arm(workplace)
    tags = {run: found.data.tags for run, found in runs.items()}
    for seed in "01":
        assert tags["c_probe", seed]["frostline.forked_from"] == runs["a_fast", seed].info.run_id
        assert tags["b_slow", seed]["frostline.trained_with"] == runs["a_fast", "0"].info.run_id
        assert "frostline.trained_with" not in tags["a_fast", seed]


@pytest.mark.slow
def test_dropout_in_the_head_keeps_runs_apart(workplace: Workplace) -> None:
    arms = {arm: ["freeze=head", *overrides] for arm, overrides in RATES.items()}
    base = [*BASE, "data.image_size=32", "model=torchvision", "model.name=mobilenet_v2", "model.weights=null"]
    said = workplace.frostline("study", study(pretrain=None, reference="a_fast", base=base, arms=arms, seeds=[0]))
    assert said.code == 0, said.err
    (parent,) = workplace.runs(phase="study")
    assert "randomness" in workplace.artifact(parent.info.run_id, "apart/a_fast-seed0.txt")
    assert [run for run in by_arm(workplace).values() if "frostline.trained_with" in run.data.tags] == []
