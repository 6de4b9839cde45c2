"""A head solved in closed form, as an arm like any other."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from workplace import FOREIGN, TINY, Workplace

from frostline.config.compose import compose
from frostline.instead import _Probe
from frostline.nn.weights import read_weights
from frostline.prepare import prepare

pytestmark = FOREIGN
SMALL = ("data.digits=[2,3,4]", "data.shots=12", "seed=1")


def features_of(network: torch.nn.Module, data: object) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return, by split, the features and the classes, taken by hand."""
    found = {}
    head, network.linear = network.linear, torch.nn.Identity()
    for split, loader in (("train", data.reference_dataloader()), ("val", data.val_dataloader())):
        with torch.no_grad():
            parts = [(network.eval()(batch.inputs), batch.targets) for batch in loader]
        found[split] = tuple(torch.cat(part).double().numpy() for part in zip(*parts, strict=True))
    network.linear = head
    return found


def test_the_head_is_the_one_that_val_chooses_among_those_of_scikit_learn(workplace: Workplace) -> None:
    source = workplace.train("pretrain", "data.digits=[0,1,5]")
    asked = (*SMALL, f"init_from={source}", "freeze=ridge", "freeze.strengths=[0.1,10,1000]")
    run_id = workplace.train("finetune", *asked)

    cfg = compose("finetune", [*TINY, *asked])
    prepared = prepare(cfg, "finetune", workplace.store)
    found = features_of(prepared.network, prepared.data)
    (x, y), (others, classes) = found["train"], found["val"]
    heads = {s: Ridge(alpha=s).fit(x, np.eye(3)[y.astype(int)]) for s in (0.1, 10.0, 1000.0)}
    scores = {s: float((head.predict(others).argmax(1) == classes).mean()) for s, head in heads.items()}
    best = max(scores, key=lambda strength: (scores[strength], strength))

    metrics = workplace.store.run(run_id).data.metrics
    assert metrics["best/strength"] == best
    assert {s: metrics[f"ridge/{s:g}"] for s in scores} == pytest.approx(scores)
    assert metrics["val/accuracy"] == pytest.approx(scores[best])
    weights = read_weights(workplace.store.fetch(run_id, "weights.safetensors"))
    np.testing.assert_allclose(weights["linear.weight"].numpy(), heads[best].coef_, atol=1e-4)
    np.testing.assert_allclose(weights["linear.bias"].numpy(), heads[best].intercept_, atol=1e-4)


def test_only_the_head_moves_and_the_record_says_so(workplace: Workplace) -> None:
    source = workplace.train("pretrain", "data.digits=[0,1,5]")
    run_id = workplace.train("finetune", *SMALL, f"init_from={source}", "freeze=ridge")
    before, after = (read_weights(workplace.store.fetch(i, "weights.safetensors")) for i in (source, run_id))
    assert {name for name in before if not before[name].equal(after[name])} == {"linear.weight", "linear.bias"}
    (audit,) = json.loads(workplace.artifact(run_id, "audit.json"))
    assert (audit["span"], audit["intact"]) == ("solution", True)
    assert "the head is solved by ridge regression" in workplace.artifact(run_id, "plan.txt")
    metrics = workplace.store.run(run_id).data.metrics
    head = after["linear.weight"].numel() + after["linear.bias"].numel()
    assert (metrics["audit/frozen_intact"], metrics["cost/trainable_params"]) == (1, head)
    assert metrics["cost/train_flops"] == metrics["cost/predicted_train_flops"] > 0
    assert "train/loss" not in metrics


def test_kept_features_give_the_same_head(
    workplace: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "kept"))
    source = workplace.train("pretrain", "data.digits=[0,1,5]")
    asked = (*SMALL, f"init_from={source}", "freeze=ridge")
    runs = [
        workplace.train("finetune", *asked, "cache=off"),
        workplace.train("finetune", *asked, "cache=require"),
        workplace.train("finetune", *asked, "cache=require", "freeze.strengths=[1]"),
    ]
    computed, first, second = (workplace.store.run(each).data.metrics for each in runs)
    # Each split is looked at once, and val once more with the head that it has chosen.
    assert first["cost/prefix_given"] - first["cost/prefix_computed"] == len(validated(workplace, runs[1]))
    assert (second["cost/prefix_given"], second["cost/prefix_computed"]) == (first["cost/prefix_given"], 0)
    assert 0 == first["cost/shared_flops"] < second["cost/shared_flops"] < second["cost/train_flops"]
    for each in (first, second):
        assert each["cost/train_flops"] == first["cost/train_flops"] == each["cost/predicted_train_flops"]
    assert first["best/strength"] == computed["best/strength"]
    assert first["test/loss"] == pytest.approx(computed["test/loss"], rel=1e-5)


def validated(workplace: Workplace, run_id: str) -> range:
    """Return the places of the examples of val."""
    return range(json.loads(workplace.artifact(run_id, "data.json"))["splits"]["val"]["examples"])


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (
            ("model=torchvision", "model.name=googlenet", "model.weights=null", "data=digits", "data.image_size=64"),
            "freeze: ridge solves a head of one linear layer, and this network's is made of "
            "Dropout, Linear, InceptionAux, BasicConv2d, Conv2d, BatchNorm2d; "
            "choose freeze=head, which trains any",
        ),
        (
            ("model=resnet20", "data=digits", "objective=rotation"),
            "freeze: ridge is for labels of whole examples; choose freeze=head, which trains on any",
        ),
        (
            ("model=resnet20", "data=digits", "freeze.strengths=[]"),
            "1 problem(s) in the config:\n  freeze.strengths: name at least one; 1.0 is a usual one",
        ),
        (
            ("model=resnet20", "data=digits", "freeze.strengths=[-1]"),
            "1 problem(s) in the config:\n  freeze.strengths.0: should be greater than or equal to 0, got -1",
        ),
    ],
)
def test_what_cannot_be_solved_is_refused(workplace: Workplace, asked: tuple[str, ...], sentence: str) -> None:
    said = workplace.frostline("plan", *asked, "freeze=ridge")
    assert (said.code, said.err.strip()) == (2, sentence)


def test_a_strength_is_not_chosen_by_what_is_no_number(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    source = workplace.train("pretrain", "data.digits=[0,1,5]")
    asked = ("finetune", *TINY, *SMALL, f"init_from={source}", "freeze=ridge", "freeze.strengths=[1,10]")
    scores = iter([float("nan"), 0.5, float("nan"), float("nan")])
    monkeypatch.setattr(_Probe, "score", lambda *_: next(scores))
    said = workplace.frostline(*asked)
    assert workplace.store.run(said.run_id).data.metrics["best/strength"] == 10
    said = workplace.frostline(*asked)
    assert said.code == 1
    assert "freeze=ridge: accuracy is nan on val, by which no strength can be chosen" in said.err


@pytest.mark.parametrize("views", [[], ["data.views=2"]])
def test_nothing_is_kept_of_examples_that_are_augmented_and_the_plan_says_why(
    views: list[str], workplace: Workplace
) -> None:
    asked = (*TINY, *SMALL, "freeze=ridge", "data.augment=true", *views)
    reason = "they look at examples as evaluation shows them, of which nothing is kept with data.augment"
    said = workplace.frostline("plan", *asked)
    assert reason in said.out
    said = workplace.frostline("plan", *asked, "cache=require")
    assert (said.code, said.err.count(reason)) == (2, 1)
    run_id = workplace.train("finetune", *asked[len(TINY) :])
    metrics = workplace.store.run(run_id).data.metrics
    assert metrics["cost/train_flops"] == metrics["cost/predicted_train_flops"]
