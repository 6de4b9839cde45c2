"""Heads of a study that differ in their optimizer's settings train together, and come to what they would alone."""

import json
import os
import signal
from pathlib import Path

import pytest
from safetensors.torch import load_file
from test_beginnings_command import BASE, Elsewhere, by_arm, cost, history, no_two_points_at_one_time  # noqa: F401
from test_study_command import children, study
from torch.testing import assert_close
from workplace import FOREIGN, Workplace

from frostline import together
from frostline.init_from import WEIGHTS
from frostline.modules import Training

pytestmark = FOREIGN

ARMS = {
    "a_first": ["freeze=head", "optimizer.lr=0.001"],
    "b_full": ["freeze=full"],
    "c_slower": ["freeze=head", "optimizer.lr=0.0001"],
    "d_decayed": ["freeze=head", "optimizer.lr=0.001", "optimizer.weight_decay=0.5"],
    "e_plain": ["freeze=head", "optimizer.lr=0.0005", "optimizer.momentum=0.0"],
}
ALONG = ["c_slower", "d_decayed", "e_plain"]


SELDOM = (
    ["stopping=early"],
    ["regularizer=l2_sp"],
    ["trainer.accumulate_grad_batches=2"],
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


@pytest.mark.parametrize(
    "more",
    [
        (),
        pytest.param(("optimizer=adamw", "scheduler=cosine", "data.augment=true", "data.views=2")),
        pytest.param(("model=torchvision", "model.name=resnet18", "model.weights=null"), marks=pytest.mark.slow),
    ],
    ids=["sgd", "adamw", "resnet18"],
)
def test_each_run_is_the_run_made_alone(more: tuple[str, ...], workplace: Workplace, steps_trained: list[str]) -> None:
    """Six epochs of two steps a run; the runs that are taken along train the last one themselves."""
    momentum = [] if "optimizer=adamw" in more else ["optimizer.momentum=0.0"]
    arms = ARMS | {"e_plain": ["freeze=head", "optimizer.lr=0.0005", *momentum]}
    said = workplace.frostline("study", study(pretrain=None, reference="a_first", base=[*BASE, *more], arms=arms))
    assert said.code == 0, said.err
    runs = by_arm(workplace)
    assert len(runs) == 10
    assert len(steps_trained) == 2 * 2 * (6 + 6 + 3 * 1)
    elsewhere = Elsewhere(workplace)
    for (arm, seed), run in runs.items():
        alone = elsewhere.alone(arms[arm], seed, *more)
        ours, theirs = history(workplace, run), history(elsewhere, alone)
        assert {n: [s for s, _ in points] for n, points in ours.items()} == {
            n: [s for s, _ in points] for n, points in theirs.items()
        }
        for name, points in theirs.items():
            assert [v for _, v in ours[name]] == pytest.approx([v for _, v in points], rel=1e-5, abs=1e-6), (arm, name)
        files = [load_file(p.store.fetch(r.info.run_id, WEIGHTS)) for p, r in ((workplace, run), (elsewhere, alone))]
        assert_close(*files, rtol=1e-4, atol=1e-5)
        assert workplace.artifact(run.info.run_id, "audit.json") == elsewhere.artifact(alone.info.run_id, "audit.json")
        assert cost(run, "trainable_params") == cost(alone, "trainable_params")
        assert cost(run, "shared_flops") == 0
        if arm in ALONG:  # what is kept was computed by the first, here as there
            assert cost(run, "train_flops") == cost(alone, "train_flops")
        with_first = run.data.tags.get("frostline.trained_with")
        assert with_first == (runs["a_first", seed].info.run_id if arm in ALONG else None)


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
        *(pytest.param(base, marks=pytest.mark.slow) for base in SELDOM),
    ],
    ids=" ".join,
)
def test_what_makes_runs_go_their_own_ways_keeps_them_apart(
    base: list[str], workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[object] = []
    monkeypatch.setattr(together.TakingAlong, "__init__", lambda self, *_, **__: taken.append(self))
    arms = {arm: ARMS[arm] for arm in ("a_first", "c_slower")}
    said = workplace.frostline(
        "study", study(pretrain=None, reference="a_first", base=[*BASE, *base], arms=arms, seeds=[0])
    )
    assert said.code == 0, said.err
    assert not taken


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
    with monkeypatch.context() as patch:
        before = Training.on_train_epoch_end

        def interrupted(self: Training) -> None:
            before(self)
            if self.current_epoch == epoch and len(children(workplace)) == number:
                for _ in range(2):
                    os.kill(os.getpid(), signal.SIGINT)

        patch.setattr(Training, "on_train_epoch_end", interrupted)
        assert workplace.frostline("study", folder).code == 130
    said = workplace.frostline("study", folder)
    assert said.code == 0, said.err
    assert not list(Path("outputs").glob("*/beginnings"))
    elsewhere = Elsewhere(workplace)
    runs = by_arm(workplace)
    assert [arm for (arm, _), run in sorted(runs.items()) if "frostline.trained_with" in run.data.tags] == along
    for (arm, seed), run in runs.items():
        alone = elsewhere.alone(arms[arm], seed)
        ours, theirs = (
            dict(place.store.run(r.info.run_id).data.metrics) for place, r in ((workplace, run), (elsewhere, alone))
        )
        scores = [name for name in theirs if not name.startswith("cost/")]
        assert {n: ours[n] for n in scores} == pytest.approx({n: theirs[n] for n in scores}, rel=1e-5, abs=1e-6)


def test_runs_that_cannot_go_along_train_by_themselves(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("vmap: no")

    monkeypatch.setattr(together, "vmap", fails)
    said = workplace.frostline("study", study(pretrain=None, reference="a_first", base=BASE, arms=ARMS, seeds=[0]))
    assert said.code == 0, said.err
    assert [run for run in by_arm(workplace).values() if "frostline.trained_with" in run.data.tags] == []
    (parent,) = workplace.runs(phase="study")
    assert workplace.artifact(parent.info.run_id, "apart/a_first-seed0.txt") == "RuntimeError: vmap: no"
