"""A study as people run it: all arms and seeds, once, whatever interrupts it, and a comparison at the end."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from test_cli import environment, start, wait_for
from workplace import FOREIGN, TINY, Workplace

from frostline.data.images import ImageData
from frostline.modules import Training
from frostline.store import Run

pytestmark = FOREIGN
HALF_BROKEN = """
from frostline.objectives.classification import Classification
class HalfBroken(Classification):
    def loss(self, outputs, batch):
        raise ArithmeticError("no value")
"""
INTERRUPTING = """
from frostline.objectives.classification import Classification
class Interrupting(Classification):
    def loss(self, outputs, batch):
        raise KeyboardInterrupt
"""


def study(folder: Path = Path("question"), **changes: object) -> str:
    """Write a small study; return its folder."""
    said: dict[str, object] = {
        "question": "Which part is worth training?",
        "pretrain": [*TINY, "data.digits=[0,1,2]"],
        "base": [*TINY, "data.digits=[3,4]"],
        "arms": {"full": ["freeze=full"], "head": ["freeze=head"]},
        "seeds": [0, 1],
        "reference": "full",
        "margin": 0.1,
    }
    folder.mkdir(exist_ok=True)
    (folder / "study.yaml").write_text(yaml.safe_dump(said | changes))
    return str(folder)


def children(workplace: Workplace) -> list[Run]:
    return [run for run in workplace.runs() if run.data.tags["frostline.phase"] != "study"]


def test_every_arm_runs_with_every_seed_under_one_parent_and_is_compared(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    looked: list[str] = []
    for where, name in ((ImageData, "test_dataloader"), (Training, "on_fit_end"), (Training, "on_test_end")):
        monkeypatch.setattr(where, name, noticing(getattr(where, name), name, looked))
    said = workplace.frostline("study", study())
    assert said.code == 0, said.err
    assert looked == ["on_fit_end", "test_dataloader", "on_test_end"] * 5, "the test split is touched once, at the end"
    (parent,) = workplace.runs(phase="study")
    assert parent.info.status == "FINISHED"
    runs = children(workplace)
    assert {run.data.tags["mlflow.parentRunId"] for run in runs} == {parent.info.run_id}
    arms = sorted((run.data.tags["frostline.arm"], run.data.tags["frostline.seed"]) for run in runs)
    assert arms == [("full", "0"), ("full", "1"), ("head", "0"), ("head", "1"), ("pretrain", "0")]
    pairings = {seed: {r.data.tags["frostline.pairing"] for r in runs if r.data.tags["frostline.seed"] == seed
                       and r.data.tags["frostline.phase"] == "finetune"} for seed in "01"}  # fmt: skip
    assert [len(found) for found in pairings.values()] == [1, 1], "arms of a seed share data, order and head"
    assert pairings["0"] != pairings["1"]
    assert "5 runs (0 recorded before), 0 failed" in said.out
    written = json.loads(Path("outputs/question/compare.json").read_text())
    assert {path.name for path in Path("outputs/question").iterdir()} >= {"compare.json", "compare.md", "report.html"}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    uri = f"tracking.uri=sqlite:///{tmp_path / 'mlflow.db'}"
    said = workplace.frostline("compare", "question", uri, "out=report")
    assert said.code == 0, said.err
    assert json.loads(Path("report/compare.json").read_text()) == written
    assert sorted(path.name for path in elsewhere.iterdir()) == ["report"]


def test_a_study_that_chooses_by_val_leaves_the_test_split_alone(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []
    monkeypatch.setattr(ImageData, "test_dataloader", noticing(ImageData.test_dataloader, "test", looked))
    said = workplace.frostline("study", study(metric="val/accuracy", seeds=[0], pretrain=None))
    assert said.code == 0, said.err
    assert looked == []
    for run in children(workplace):
        assert not [name for name in run.data.metrics if name.startswith("test/")]
        best, losses = (
            run.data.metrics["best/val_loss"],
            workplace.store.client.get_metric_history(run.info.run_id, "val/loss"),
        )
        assert min(entry.value for entry in losses) == pytest.approx(best)
        assert run.data.metrics["val/loss"] == pytest.approx(best), "the last value is that of the chosen weights"


@pytest.mark.parametrize(
    ("changes", "override", "sentence"),
    [
        ({}, "seed=3", "seed=3: a study's seeds stand in its study.yaml; change them there"),
        (
            {"arms": {"full": ["freeze=ful"], "bad": ["optimzer.lr=1"]}},
            "min_coverage=0.5",
            "2 problem(s) in the config:\n  arm 'bad': optimzer: unknown key; did you mean 'optimizer'?\n"
            "  arm 'full': freeze=ful: no such option; did you mean 'full'?",
        ),
        ({"seeds": [0, 0]}, "min_coverage=0.5", "seeds: each should stand once, got [0, 0]"),
        (
            {"arms": {"full": [], "bad": ["freeze=only", "freeze.stages=[body9]"]}},
            "min_coverage=0.5",
            "arm 'bad': freeze.stages: the network has no stage 'body9'; did you mean 'body3'?",
        ),
    ],
)
def test_a_wrong_study_gets_its_sentence(
    changes: dict[str, object], override: str, sentence: str, workplace: Workplace
) -> None:
    said = workplace.frostline("study", study(**changes, pretrain=None), override)
    assert said.code == 2
    assert sentence in said.err


def test_what_is_wrong_with_every_arm_is_told_once(workplace: Workplace) -> None:
    said = workplace.frostline("study", study(arms={"full": [], "bad": ["freeze.k=1"]}), "optimzer.lr=1")
    assert said.code == 2
    assert said.err == (
        "2 problem(s) in the config:\n"
        "  optimzer: unknown key; did you mean 'optimizer'?\n"
        "  arm 'bad': freeze.k: unknown to Full; it takes norm_affine, norm_stats\n"
    )
    said = workplace.frostline("study", study(pretrain=None), "trainer.max_steps=60")
    assert said.code == 2
    assert said.err == (
        "trainer.max_steps: a plan counts epochs and their steps; choose trainer.max_epochs and "
        "trainer.limit_train_batches instead\n"
    )


def test_a_study_that_another_process_is_running_is_refused(workplace: Workplace) -> None:
    folder = study(pretrain=None)
    record = workplace.store.record("question", tags={"phase": "study", "study": "question"})
    said = workplace.frostline("study", folder)
    assert (said.code, said.err.strip()) == (
        2,
        f"study 'question': process {os.getpid()} is running it; wait for it or end it first",
    )
    record.close("KILLED")


def test_a_study_of_which_nothing_has_finished_cannot_be_compared(workplace: Workplace) -> None:
    with workplace.store.record("o'hare", tags={"phase": "study", "study": "o'hare"}):
        pass
    said = workplace.frostline("compare", "o'hare")
    assert (said.code, said.err.strip()) == (
        2,
        "study 'o'hare': none of its runs has finished; run `frostline study` first",
    )


def noticing(method: object, name: str, looked: list[str]) -> object:
    def noticed(self: object, *arguments: object) -> object:
        looked.append(name)
        return method(self, *arguments)

    return noticed


def test_a_second_launch_runs_nothing_and_a_widened_study_only_what_is_new(workplace: Workplace) -> None:
    assert workplace.frostline("study", study()).code == 0
    first = {run.info.run_id for run in children(workplace)}
    again = workplace.frostline("study", study())
    assert again.code == 0
    assert again.out.count("recorded before") == 6, "five runs and the sum"
    assert {run.info.run_id for run in children(workplace)} == first
    arms = {"full": ["freeze=full"], "head": ["freeze=head"], "last": ["freeze=last_k"]}
    assert workplace.frostline("study", study(arms=arms, seeds=[0, 1, 2])).code == 0
    new = [run for run in children(workplace) if run.info.run_id not in first]
    found = sorted((run.data.tags["frostline.arm"], run.data.tags["frostline.seed"]) for run in new)
    assert found == [("full", "2"), ("head", "2"), ("last", "0"), ("last", "1"), ("last", "2")]
    assert len(workplace.runs(phase="study")) == 1


def test_one_failing_arm_is_counted_and_shown_and_the_rest_go_on(workplace: Workplace) -> None:
    Path("half_broken.py").write_text(HALF_BROKEN)
    broken = ["freeze=head", "objective._target_=half_broken.HalfBroken"]
    said = workplace.frostline("study", study(arms={"broken": broken, "full": ["freeze=full"]}, pretrain=None))
    assert said.code == 1
    assert said.out.count("FAILED: no value") == 2
    assert "2 failed" in said.out
    statuses = sorted((run.data.tags["frostline.arm"], run.info.status) for run in children(workplace))
    assert statuses == [("broken", "FAILED")] * 2 + [("full", "FINISHED")] * 2
    assert "broken" in Path("outputs/question/compare.md").read_text()
    (parent,) = workplace.runs(phase="study")
    assert "ArithmeticError" in workplace.artifact(parent.info.run_id, "failed/broken-seed0.txt")
    assert parent.data.metrics["study/failed"] == 2


def test_a_study_of_which_nothing_finished_says_so(workplace: Workplace) -> None:
    Path("all_broken.py").write_text(HALF_BROKEN)
    broken = ["objective._target_=all_broken.HalfBroken"]
    said = workplace.frostline("study", study(arms={"full": broken}, seeds=[0], pretrain=None))
    assert (said.code, said.err) == (1, "")
    assert said.out.splitlines()[-1] == "1 run (0 recorded before), 1 failed"
    assert not Path("outputs").exists(), "there is nothing to compare"


def test_an_arm_that_is_wrong_stops_the_study_before_any_runs(workplace: Workplace) -> None:
    arms = {"full": ["freeze=full"], "only": ["freeze=only", "freeze.stages=[body9]"]}
    said = workplace.frostline("study", study(arms=arms, pretrain=None))
    assert said.code == 2
    assert "freeze.stages: the network has no stage 'body9'; did you mean 'body3'?" in said.err
    assert children(workplace) == []
    said = workplace.frostline("study", study(arms=arms | {"only": ["freze=only"]}, pretrain=None))
    assert said.code == 2
    assert "freze: unknown key; did you mean 'freeze'?" in said.err


def test_compare_names_the_studies_there_are(workplace: Workplace) -> None:
    assert workplace.frostline("study", study(seeds=[0], arms={"full": []}, pretrain=None)).code == 0
    said = workplace.frostline("compare", "questoin")
    assert (said.code, said.err.strip()) == (2, "study 'questoin': MLflow has none of this name; it has question")


def newer(since: float) -> list[Path]:
    """The checkpoints that were written since then."""
    return [file for file in Path("outputs").glob("*/last.ckpt") if file.stat().st_mtime > since]


@pytest.mark.slow
def test_ctrl_c_and_a_killed_process_leave_a_study_that_goes_on(workplace: Workplace) -> None:
    """Both ends in one study, because starting a process takes seconds: first SIGKILL, then Ctrl-C, then the rest."""
    folder = study(pretrain=None, base=[*TINY, "data.digits=[3,4]", "trainer.max_epochs=60"], seeds=[0])
    for number, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)):
        begun = time.time()
        with subprocess.Popen(start("study", folder), env=environment(), text=True, stderr=subprocess.PIPE,
                              stdout=subprocess.PIPE) as process:  # fmt: skip
            try:
                wait_for(lambda since=begun: newer(since), process)
                time.sleep(0.2)
                os.kill(process.pid, number)
                process.communicate(timeout=60)
            finally:
                process.kill()
        assert process.returncode == code
    (run,) = children(workplace)  # the second process went on with the run of the first
    assert run.info.status == "KILLED"
    (parent,) = workplace.runs(phase="study")
    assert parent.info.status == "KILLED"
    said = workplace.frostline("study", folder, "trainer.max_epochs=60")
    assert said.code == 0, said.err
    assert sorted(run.info.status for run in children(workplace)) == ["FINISHED", "FINISHED"]
    assert workplace.runs(phase="study")[0].info.status == "FINISHED"


@pytest.mark.parametrize("phase", ["pretrain", "base"])
def test_who_interrupts_a_study_is_told_how_to_go_on_with_all_of_it(phase: str, workplace: Workplace) -> None:
    Path("interrupting.py").write_text(INTERRUPTING)
    said = [*TINY, "objective._target_=interrupting.Interrupting"]
    told = workplace.frostline("study", study(**{phase: said}), "optimizer.lr=0.02", "data.digits=[3, 4]")
    assert (told.code, told.err.splitlines()[-1]) == (
        130,
        "interrupted; go on with: frostline study question optimizer.lr=0.02 'data.digits=[3, 4]'",
    )
    *before, last = reversed(children(workplace))
    assert (last.data.tags["frostline.phase"], last.info.status) == ({"base": "finetune"}.get(phase, phase), "KILLED")
    assert len(before) == (phase == "base")


def test_a_metric_that_no_run_logs_is_refused_before_any_runs(workplace: Workplace) -> None:
    said = workplace.frostline("study", study(metric="test/acuracy", pretrain=None))
    sentence = "metric: no run logs 'test/acuracy'; did you mean 'test/accuracy'?"
    assert (said.code, said.err.strip()) == (2, sentence)
    assert children(workplace) == []


def test_a_metric_of_another_task_is_refused_before_the_pretraining(workplace: Workplace) -> None:
    base = [*TINY, "objective=multilabel"]
    said = workplace.frostline("study", study(base=base, metric="test/accuracy"))
    assert (said.code, said.err.partition("; ")[0]) == (2, "metric: no run logs 'test/accuracy'")
    assert workplace.runs(phase="pretrain") == []


def test_what_is_wrong_with_any_run_is_told_before_the_pretraining(workplace: Workplace) -> None:
    arms = {
        "full": ["optimizer=sgd", "optimizer.momentum=-1"],
        "only": ["freeze=only", "freeze.stages=[body9]", "init_prefix=model"],
        "scratch": ["init_from=null", "optimizer=adamw", "optimizer.eps=-1"],
    }
    said = workplace.frostline("study", study(arms=arms))
    assert (said.code, said.err) == (
        2,
        "3 problem(s) in the config:\n"
        "  arm 'full': optimizer: Invalid momentum value: -1\n"
        "  arm 'only': freeze.stages: the network has no stage 'body9'; did you mean 'body3'?\n"
        "  arm 'scratch': optimizer: Invalid epsilon value: -1\n",
    )
    assert workplace.runs() == []


def test_what_is_wrong_with_any_pretraining_is_told_before_the_first_one(workplace: Workplace) -> None:
    pretrain = {"good": [*TINY], "bad": [*TINY, "optimizer=sgd", "optimizer.momentum=-1"]}
    folder = study(pretrain=pretrain, base=[*TINY, "init_from=study:good"])
    for verb in ("study", "plan"):
        said = workplace.frostline(verb, folder)
        assert (said.code, said.err) == (2, "pre-training bad: optimizer: Invalid momentum value: -1\n")
    assert workplace.runs() == []


def test_weights_that_are_still_to_be_trained_may_bring_a_head(workplace: Workplace) -> None:
    """An arm that trains nothing is right where the pre-training has the same classes, which only its weights tell."""
    arms = {"full": ["freeze=full"], "statistics": ["freeze=bn_stats"]}
    folder = study(pretrain=[*TINY], base=[*TINY], arms=arms, seeds=[0])
    for verb in ("plan", "study"):
        said = workplace.frostline(verb, folder)
        assert said.code == 0, said.err


def test_the_record_of_a_study_holds_the_command_as_it_was_typed(workplace: Workplace) -> None:
    assert workplace.frostline("study", study(seeds=[0], pretrain=None), "optimizer.lr=0.02").code == 0
    for run in children(workplace):
        command = workplace.artifact(run.info.run_id, "command.txt")
        assert command == "frostline study question optimizer.lr=0.02\n"


def test_arms_start_from_pre_trainings_of_their_own(workplace: Workplace) -> None:
    pretrain = {"digits": [*TINY, "data.digits=[0,1,2]"], "turns": [*TINY, "data.digits=[0,1,2]", "objective=rotation"]}
    arms = {name: [f"init_from=study:{name}", "min_coverage=0.9"] for name in pretrain} | {"scratch": []}
    said = workplace.frostline("study", study(pretrain=pretrain, arms=arms, seeds=[0], reference="scratch"))
    assert said.code == 0, said.err
    runs = {run.data.tags["frostline.arm"]: run for run in workplace.runs(phase="finetune")}
    started = {name: runs[name].data.tags["frostline.parent_weights"] for name in arms}
    turns, digits = (run.info.run_id for run in workplace.runs(phase="pretrain"))
    assert started == {"digits": digits, "turns": turns, "scratch": ""}
    named = {run.info.run_name for run in workplace.runs(phase="pretrain")}
    assert named == {"pretrain-digits", "pretrain-turns"}
    assert "5 runs (0 recorded before), 0 failed" in said.out


def test_an_arm_that_starts_from_a_pre_training_that_is_not_there_is_told_before_anything_runs(
    workplace: Workplace,
) -> None:
    pretrain = {"turns": [*TINY, "objective=rotation"]}
    said = workplace.frostline("study", study(pretrain=pretrain, arms={"full": ["init_from=study:turn"]}))
    assert said.code == 2
    assert said.err == (
        "arm 'full': init_from=study:turn: no such pre-training in study.yaml; did you mean 'study:turns'?\n"
    )
    assert not children(workplace)
