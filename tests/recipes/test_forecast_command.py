"""What `frostline plan` says of costs, for one run and for a study, on the real command line."""

import re

import pytest
from test_study_command import study
from workplace import FOREIGN, TINY, Workplace

pytestmark = FOREIGN


def test_the_plan_of_a_run_ends_with_what_it_costs(workplace: Workplace) -> None:
    said = workplace.frostline("plan", *TINY, "trainer.max_epochs=2", "freeze=lp_ft")
    assert said.code == 0, said.err
    assert re.search(r"^epochs 1: .* per example, .* in all\n  .FLOP per example +forward  input grad", said.out, re.M)
    assert re.search(r"^  stem +0\.\d+ +- +0\.\d+$", said.out, re.M), "nothing goes into the images"
    assert re.search(r"^in all: [\d.]+ .FLOP of training$", said.out, re.M)
    assert re.search(r"^  time    [\d.]+ s: .*steps [\d.]+ s, validation and checkpoints [\d.]+ s", said.out, re.M)
    assert max(map(len, said.out.splitlines())) <= 120
    assert workplace.runs() == []


def test_the_bill_of_a_study_knows_what_is_recorded(workplace: Workplace) -> None:
    folder = study()
    said = workplace.frostline("plan", folder)
    assert said.code == 0, said.err
    lines = said.out.splitlines()
    assert lines[0] == "study 'question': 5 runs, 0 recorded, 5 to run"
    assert lines[-2:] == ["  first: pre-training", "  seed 0, seed 1: full, head"]
    assert "pre-training has not run: part of the bill" in said.out
    assert workplace.runs() == []
    assert workplace.frostline("study", study(seeds=[0])).code == 0
    lines = workplace.frostline("plan", study()).out.splitlines()
    assert lines[0] == "study 'question': 5 runs, 3 recorded, 2 to run"
    assert re.fullmatch(r"pre-training +1 +1 +0 +- +-", lines[2])
    assert re.fullmatch(r"full +2 +1 +1 +[\d.]+ .FLOP +[\d.]+ s +[\d.]+ .FLOP +[\d.]+ s", lines[3])
    assert lines[-1] == "  seed 1: full, head"
    lines = workplace.frostline("plan", study(seeds=[0])).out.splitlines()
    assert lines[-2:] == ["order of runs:", "  none: every run is recorded"]


def test_a_bill_in_a_new_experiment_reads_the_runs_of_others(workplace: Workplace) -> None:
    started = workplace.train("pretrain", *TINY)
    folder = study(pretrain=None, base=[*TINY, f"init_from={started}"], arms={"full": []})
    said = workplace.frostline("plan", folder, "experiment_name=another")
    assert said.code == 0, said.err
    assert said.out.startswith("study 'question': 2 runs, 0 recorded, 2 to run\n")
    assert workplace.store.client.get_experiment_by_name("another") is None


def test_a_bill_tells_all_that_is_wrong_with_any_run(workplace: Workplace) -> None:
    arms = {"full": ["init_from=nowhere"], "only": ["freeze=only", "freeze.stages=[body9]"], "head": ["freeze=head"]}
    said = workplace.frostline("plan", study(pretrain=None, arms=arms))
    assert said.code == 2
    assert [line.partition(":")[0] for line in said.err.splitlines()[1:]] == ["  arm 'full'", "  arm 'only'"]
    several = {"labels": ["objective=multilabel"], "full": []}
    said = workplace.frostline("plan", study(pretrain=None, arms=several, metric="test/accuracy"))
    assert said.err.startswith("arm 'labels': metric: no run logs 'test/accuracy'; ")


def test_the_bill_of_arms_that_take_no_step_has_a_time(workplace: Workplace) -> None:
    arms = {"full": [], "ridge": ["freeze=ridge"], "statistics": ["freeze=bn_stats"]}
    said = workplace.frostline("plan", study(pretrain=[*TINY], base=[*TINY], arms=arms))
    assert said.code == 0, said.err
    _, _, _, *rows, whole, _, note = said.out.splitlines()[:9]
    for arm, row in zip(arms, rows, strict=True):
        assert re.fullmatch(rf"{arm} +2 +0 +2 +[\d.]+ .FLOP +[\d.]+ s +[\d.]+ .FLOP +[\d.]+ s", row)
    assert re.fullmatch(r"in all +7 +0 +7 +[\d.]+ .FLOP +[\d.]+ s", whole)
    assert note == "each run is billed as if it were alone: what runs share of this is spent once"


def test_the_bill_of_an_arm_that_trains_nothing_has_no_time_and_says_so(workplace: Workplace) -> None:
    said = workplace.frostline("plan", study(pretrain=None, arms={"full": [], "none": ["trainer.max_epochs=0"]}))
    assert said.code == 0, said.err
    _, _, _, none, whole, *_ = said.out.splitlines()
    assert re.fullmatch(r"none +2 +0 +2 +[\d.]+ FLOP +\? +[\d.]+ FLOP +\?", none)
    assert re.fullmatch(r"in all +4 +0 +4 +[\d.]+ .FLOP +>= [\d.]+ s", whole)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere"], "nowhere: holds no study.yaml"),
        (["question", "seed=1"], "seed=1: a study's seeds stand in its study.yaml; change them there"),
        (["question", "optimizer.lrr=1"], "optimizer.lrr: unknown to"),
    ],
)
def test_a_wrong_request_gets_its_sentence(workplace: Workplace, arguments: list[str], sentence: str) -> None:
    study()
    said = workplace.frostline("plan", *arguments)
    assert (said.code, sentence in said.err) == (2, True), said.err
