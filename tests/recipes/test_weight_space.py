"""Paths and soups of finished runs, through the command line, against the definition."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from workplace import FOREIGN, TINY, Workplace

from frostline.nn.weights import read_weights

pytestmark = FOREIGN


def weights(workplace: Workplace, run_id: str) -> dict[str, torch.Tensor]:
    return read_weights(workplace.store.fetch(run_id, "weights.safetensors"))


def test_a_path_of_a_run_whose_head_was_carried_begins_at_its_start(workplace: Workplace) -> None:
    same = ("data.digits=[0,1]", "data.shots=6")
    source = workplace.train("pretrain", *same)
    tuned = workplace.train("finetune", *same, f"init_from={source}", "freeze=head", "optimizer.lr=0.5")
    said = workplace.frostline("wise_ft", tuned, "steps=3")
    assert said.code == 0, said.err
    assert [line.split()[0] for line in said.out.splitlines()[:3]] == ["0.00", "0.50", "1.00"]
    assert len(re.findall("chosen", said.out)) == 1
    path = {m.step: m.value for m in workplace.store.client.get_metric_history(said.run_id, "val/accuracy")}
    for run_id, share in ((source, 0), (tuned, 100)):
        metrics = workplace.store.run(run_id).data.metrics
        last = workplace.store.client.get_metric_history(run_id, "val/accuracy")[-1].value
        assert path[share] == last, metrics
    run = workplace.store.run(said.run_id)
    share = run.data.metrics["wise_ft/share"]
    assert path[round(100 * share)] == max(path.values())
    assert run.data.tags["frostline.source_run"] == tuned
    mixed, start, end = (weights(workplace, i) for i in (said.run_id, source, tuned))
    for name in mixed:
        if mixed[name].is_floating_point():
            torch.testing.assert_close(mixed[name], (1 - share) * start[name] + share * end[name])


def test_a_new_head_is_held_along_the_path_and_statistics_are_taken_anew(workplace: Workplace) -> None:
    source = workplace.train("pretrain", "data.digits=[0,1,2]")
    tuned = workplace.train("finetune", "data.digits=[3,4]", f"init_from={source}")
    said = workplace.frostline("wise_ft", tuned, "steps=2")
    assert said.code == 0, said.err
    assert said.out.splitlines()[0] == "the run's head was new: the trained one is held along the path"
    mixed, end = weights(workplace, said.run_id), weights(workplace, tuned)
    assert torch.equal(mixed["linear.weight"], end["linear.weight"])
    assert not torch.equal(mixed["bn1.running_mean"], end["bn1.running_mean"])


def study(workplace: Workplace, **changes: object) -> str:
    asked = {
        "question": "Do soups help?",
        "base": [*TINY, "data.digits=[3,4]"],
        "arms": {"full": ["freeze=full"], "last": ["freeze=last_k"], "head": ["freeze=head"]},
        "seeds": [0, 1],
        "reference": "full",
    }
    Path("arms").mkdir()
    Path("arms/study.yaml").write_text(yaml.safe_dump(asked | changes))
    said = workplace.frostline("study", "arms")
    assert said.code == 0, said.err
    return "arms"


def test_soups_of_a_studys_runs_are_the_means_of_one_starts_weights_t28(workplace: Workplace) -> None:
    said = workplace.frostline("soup", study(workplace))
    assert said.code == 0, said.err
    kinds = [line.split()[2] for line in said.out.splitlines()]
    assert kinds == ["best", "uniform", "greedy"] * 2
    runs = {
        (run.data.tags["frostline.arm"], run.data.tags["frostline.seed"]): run.info.run_id
        for run in workplace.runs(phase="finetune")
    }
    for soup in workplace.runs(phase="soup"):
        if soup.data.tags["frostline.soup"] == "uniform":
            parts = [
                weights(workplace, runs[arm, soup.data.tags["frostline.seed"]]) for arm in ("full", "last", "head")
            ]
            mixed = weights(workplace, soup.info.run_id)
            for name in mixed:
                if mixed[name].is_floating_point() and "running" not in name:
                    torch.testing.assert_close(mixed[name], sum(part[name] for part in parts) / 3)
    by_kind = {
        (run.data.tags["frostline.seed"], run.data.tags["frostline.soup"]): run.data.metrics["val/accuracy"]
        for run in workplace.runs(phase="soup")
    }
    for seed in ("0", "1"):
        assert by_kind[seed, "greedy"] >= by_kind[seed, "best"]


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (("soup", "nothing"), "study 'nothing': none of its runs has finished; run `frostline study` first"),
        (("soup", "nothing", "arms=full"), "arms: soup takes arm"),
        (
            ("wise_ft", "{run}", "steps=1"),
            "steps: a path has both its ends and at most a point for each percent, 2 to 101; got 1",
        ),
        (("wise_ft", "{run}", "step=5"), "step: wise_ft takes steps"),
    ],
)
def test_wrong_requests_are_told(command: tuple[str, ...], sentence: str, workplace: Workplace) -> None:
    run_id = workplace.train("finetune", "data.digits=[3,4]")
    said = workplace.frostline(*(part.format(run=run_id) for part in command))
    assert (said.code, said.err.strip()) == (2, sentence)


def test_runs_of_one_arm_with_new_heads_have_no_start_in_common(workplace: Workplace) -> None:
    said = workplace.frostline("soup", study(workplace), "arm=full")
    assert (said.code, said.err.strip()) == (
        2,
        "study 'arms': no two runs of arm 'full' start from the same weights, head included; nothing to average",
    )
