"""Re-estimated statistics as an arm like any other."""

import json

import torch
from workplace import FOREIGN, TINY, Workplace

from frostline.nn.weights import read_weights

pytestmark = FOREIGN


def test_only_statistics_move_and_the_audit_says_so(workplace: Workplace) -> None:
    source = workplace.train("pretrain", "data.digits=[2,3]")
    run_id = workplace.train("finetune", "data.digits=[2,3]", "seed=1", f"init_from={source}", "freeze=bn_stats")
    before, after = (read_weights(workplace.store.fetch(i, "weights.safetensors")) for i in (source, run_id))
    moved = {name.rpartition(".")[2] for name in before if not before[name].equal(after[name])}
    assert moved == {"running_mean", "running_var"}
    (audit,) = json.loads(workplace.artifact(run_id, "audit.json"))
    assert (audit["span"], audit["intact"]) == ("re-estimation", True)
    assert "re-estimated on the training split, where the stored ones count for 16" in workplace.artifact(
        run_id, "plan.txt"
    )
    metrics = workplace.store.run(run_id).data.metrics
    assert metrics["audit/frozen_intact"] == 1
    assert metrics["cost/train_flops"] > 0
    assert metrics["cost/trainable_params"] == 0
    assert "train/loss" not in metrics


def test_statistics_are_those_of_the_precision_that_is_asked_for(workplace: Workplace) -> None:
    source = workplace.train("pretrain", "data.digits=[2,3]")
    asked = ("data.digits=[2,3]", f"init_from={source}", "freeze=bn_stats", "freeze.pseudo_count=0")
    runs = [workplace.train("finetune", *asked, f"trainer.precision={each}") for each in ("32-true", "bf16-mixed")]
    single, mixed = (read_weights(workplace.store.fetch(i, "weights.safetensors")) for i in runs)
    means = [name for name in single if name.endswith("running_mean")]
    assert not any(single[name].equal(mixed[name]) for name in means)
    for name in means:
        torch.testing.assert_close(mixed[name], single[name], rtol=0.05, atol=0.05)


def test_a_new_head_is_refused(workplace: Workplace) -> None:
    said = workplace.frostline("plan", "model=resnet20", "data=digits", "freeze=bn_stats")
    assert (said.code, said.err.strip()) == (
        2,
        "freeze: the head (linear.bias, linear.weight) knows nothing of these classes and BnStats trains nothing; "
        "carry weights whose head has "
        "these classes, or choose a strategy that trains",
    )


def test_a_network_without_statistics_is_refused(workplace: Workplace) -> None:
    said = workplace.frostline(
        "plan", "model=torchvision", "model.name=alexnet", "model.weights=null", "data=digits", "freeze=bn_stats",
        "data.image_size=64",
    )  # fmt: skip
    assert said.code == 2
    assert (
        said.err.splitlines()[1] == "  freeze: bn_stats needs layers that store statistics, and this network has none"
    )


def test_statistics_are_taken_in_one_pass_of_which_nothing_is_kept(workplace: Workplace) -> None:
    asked = ("plan", *TINY, f"init_from={workplace.train('pretrain')}", "freeze=bn_stats")
    said = workplace.frostline(*asked)
    assert said.code == 0, said.err
    assert "in every epoch" not in said.out
    said = workplace.frostline(*asked, "cache=require")
    problem = "cache=require: bn_stats passes once through the whole network; choose cache=auto\n"
    assert (said.code, said.err) == (2, problem)
