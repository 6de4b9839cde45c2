"""`frostline resume` as people use it: an interrupted run ends as if it had never stopped."""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from test_cli import LAST_LINE, environment, start, wait_for
from workplace import FOREIGN, TINY, Workplace

from frostline.cache.prefix_cache import PrefixCache
from frostline.data.whole import cache_folder
from frostline.interruption import position
from frostline.modules import Training
from frostline.record import RunRecord

pytestmark = FOREIGN
RUN = (*TINY, "data.digits=[3,4]", "freeze=gradual", "freeze.every=40", "trainer.max_epochs=120", "data.shots=8")


def interrupt(workplace: Workplace, number: int, *more: str, epochs: float = 0.3) -> str:
    """Begin a run in a process of its own, end it by a signal after a while, and return its id."""
    before = {run.info.run_id for run in workplace.runs()}
    with subprocess.Popen(
        start("finetune", *RUN, *more), cwd=workplace.folder, env=environment(), text=True, stderr=subprocess.PIPE
    ) as process:
        try:
            wait_for(lambda: list(workplace.folder.glob("outputs/*/last.ckpt")), process)
            time.sleep(epochs)
            process.send_signal(number)
            process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode in (130, -number)
    (run_id,) = {run.info.run_id for run in workplace.runs()} - before
    return run_id


def history(workplace: Workplace, run_id: str) -> dict[str, list[tuple[int, float]]]:
    """What a run has logged, without what it cost and what it audited when it was stopped."""
    metrics = [name for name in workplace.store.run(run_id).data.metrics if not name.startswith(("cost/", "audit/"))]
    return {n: [(m.step, m.value) for m in workplace.store.client.get_metric_history(run_id, n)] for n in metrics}


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)], ids=["ctrl-c", "sigkill"]
)
def test_a_resumed_run_is_the_uninterrupted_one_under_its_own_id_t37_t55(number: int, workplace: Workplace) -> None:
    run_id = interrupt(workplace, number)
    said = workplace.frostline("resume", run_id)
    assert said.code == 0, said.err
    assert re.fullmatch(LAST_LINE, said.out.splitlines()[-1])
    assert said.run_id == run_id
    whole = workplace.frostline("finetune", *RUN).run_id
    costs = [workplace.store.run(each).data.metrics for each in (run_id, whole)]
    assert costs[0]["cost/prefix_given"] == costs[1]["cost/prefix_given"] > 0
    for artifact in ("predictions.csv", "audit.json", "plan.txt"):
        assert workplace.artifact(run_id, artifact) == workplace.artifact(whole, artifact)
    weights = [workplace.store.fetch(each, "weights.safetensors").read_bytes() for each in (run_id, whole)]
    assert weights[0] == weights[1]
    assert history(workplace, run_id) == history(workplace, whole)
    for points in history(workplace, run_id).values():
        steps = [step for step, _ in points]
        assert steps == sorted(steps)
    assert len(workplace.runs()) == 2
    assert not (workplace.folder / "outputs").exists()


def test_a_run_interrupted_while_its_record_was_opened_has_a_whole_one_in_the_end(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("finetune", *TINY, "data.digits=[3,4]", "trainer.max_epochs=1", "data.shots=2")
    text = RunRecord.text

    def interrupted(record: RunRecord, name: str, content: str) -> None:
        if name == "environment.txt":
            raise KeyboardInterrupt
        text(record, name, content)

    with monkeypatch.context() as patch:
        patch.setattr(RunRecord, "text", interrupted)
        assert workplace.frostline(*asked).code == 130
    (run,) = workplace.runs()
    assert workplace.frostline("resume", run.info.run_id).code == 0
    whole = workplace.frostline(*asked, "seed=1").run_id
    kept = [{each.path for each in workplace.store.client.list_artifacts(i)} for i in (run.info.run_id, whole)]
    assert kept[0] == kept[1]
    assert len(workplace.store.run(run.info.run_id).inputs.dataset_inputs) == 3


def given_in_the_look_before_training(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list to which each look at validation before training adds what it was given."""
    given, end = list[int](), PrefixCache.on_sanity_check_end

    def ended(self, *arguments) -> None:
        given.append(self.given - self._given_before)
        end(self, *arguments)

    monkeypatch.setattr(PrefixCache, "on_sanity_check_end", ended)
    return given


@pytest.mark.parametrize("epoch", [1, 3])
def test_a_run_that_goes_on_behind_an_epoch_counts_what_it_was_given_as_if_it_had_not_been_stopped(
    epoch: int, workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("finetune", *TINY, "data.digits=[3,4]", "data.shots=4", "freeze=lp_ft", "trainer.max_epochs=4")
    begin = PrefixCache.on_train_epoch_start

    def stopped(self, trainer, pl_module) -> None:
        if trainer.current_epoch == epoch:
            raise KeyboardInterrupt
        begin(self, trainer, pl_module)

    with monkeypatch.context() as patch:
        patch.setattr(PrefixCache, "on_train_epoch_start", stopped)
        assert workplace.frostline(*asked).code == 130
    (run,) = workplace.runs()
    looks = given_in_the_look_before_training(monkeypatch)
    assert workplace.frostline("resume", run.info.run_id).code == 0
    assert [given > 0 for given in looks] == [epoch < 2], "what is frozen is given in that look, too"
    shutil.rmtree(cache_folder() / "activations")  # so that the whole run computes what it keeps, too
    whole = workplace.frostline(*asked).run_id
    costs = [workplace.store.run(each).data.metrics for each in (run.info.run_id, whole)]
    for name in ("train_flops", "shared_flops", "prefix_given", "prefix_computed"):
        assert costs[0][f"cost/{name}"] == costs[1][f"cost/{name}"]
    assert costs[1]["cost/prefix_given"] > costs[1]["cost/prefix_computed"] > 0


def test_a_fused_optimizer_and_epochs_of_one_batch_leave_a_whole_record(workplace: Workplace) -> None:
    asked = ("data.digits=[3,4]", "data.shots=2", "data.batch_size=8", "trainer.max_epochs=3", "+optimizer.fused=true")
    run_id = workplace.train("finetune", *asked)
    assert [value for _, value in history(workplace, run_id)["epoch"]][:3] == [0, 1, 2]


def test_what_may_not_be_resumed_is_told_and_can_be_forked_t39(workplace: Workplace) -> None:
    """One interrupted run for all of this, because starting a process takes seconds."""
    run_id = interrupt(workplace, signal.SIGINT)
    said = workplace.frostline("resume", run_id, "optimizer.lr=0.5", "freeze=head", "data.num_workers=1")
    assert said.code == 2
    assert said.err.splitlines() == [
        f"run {run_id} was begun with another request:",
        "  freeze._target_: frostline.freeze.gradual.Gradual then, frostline.freeze.head.Head now",
        "  freeze.every: 40 then, None now",
        "  freeze.ratio: 2.6 then, None now",
        "  optimizer.lr: 0.01 then, 0.5 now",
        "resume it as it was, or add fork=true to go on from there as a new run",
    ]
    for change, sentence in {
        "freeze=lora": "freeze: gives the network other tensors than the checkpoint holds",
        "data.digits=[3,4,5]": "data: a fork goes on at a place in the data that the run was begun with",
    }.items():
        said = workplace.frostline("resume", run_id, change, "fork=true")
        way_out = f"; begin a new run with init_from={run_id} once that one has finished, or leave it as it was"
        assert (said.code, said.err.strip()) == (2, sentence + way_out)
    assert workplace.frostline("resume", run_id, "freeze=auto_rgn", "fork=true").code == 0  # another partition
    forked = workplace.frostline("resume", run_id, "optimizer.lr=0.5", "freeze=head", "fork=true")
    assert forked.code == 0, forked.err
    assert forked.run_id != run_id
    fork = workplace.store.run(forked.run_id)
    assert fork.data.tags["frostline.forked_from"] == run_id
    assert fork.data.tags["frostline.freeze"] == "head"
    assert fork.data.params["optimizer.lr"] == "0.5"
    assert workplace.store.run(run_id).info.status == "KILLED"
    again = workplace.frostline("resume", forked.run_id)
    assert (again.code, again.err.strip()) == (
        2,
        f"run {forked.run_id}: has finished; fork=true trains on from its end, with other settings",
    )


def test_a_fork_of_a_finished_run_trains_on_and_chooses_among_its_own_epochs(workplace: Workplace) -> None:
    run_id = workplace.train("finetune", "data.digits=[3,4]", "optimizer.lr=0.3", "trainer.max_epochs=3")
    forked = workplace.frostline("resume", run_id, "fork=true", "trainer.max_epochs=4", "optimizer.lr=1.0")
    assert forked.code == 0, forked.err
    metrics = workplace.store.run(forked.run_id).data.metrics
    assert metrics["best/epoch"] == 3
    assert 0 < metrics["cost/shared_flops"] < metrics["cost/train_flops"]


@contextmanager
def stopped_after(epoch: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ctrl-C twice at the end of an epoch, before its checkpoint is written."""
    ended = Training.on_train_epoch_end

    def interrupted(self: Training) -> None:
        ended(self)
        if self.current_epoch == epoch:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "on_train_epoch_end", interrupted)
        yield


def killed(workplace: Workplace) -> str:
    (run_id,) = [run.info.run_id for run in workplace.runs() if run.info.status == "KILLED"]
    return run_id


SHORT = ("data.digits=[3,4]", "freeze=last_k", "scheduler=constant", "optimizer.lr=0.02")


def test_a_fork_that_is_stopped_in_its_first_epoch_goes_on_from_where_it_was_forked(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = workplace.train("finetune", *SHORT, "trainer.max_epochs=2")
    forked = ("resume", base, "fork=true", "freeze=head", "trainer.max_epochs=4")
    whole = workplace.frostline(*forked)
    assert whole.code == 0, whole.err
    with stopped_after(2, monkeypatch):
        assert workplace.frostline(*forked).code == 130
    run_id = killed(workplace)
    assert workplace.frostline("resume", run_id).code == 0
    assert history(workplace, run_id) == history(workplace, whole.run_id)
    assert workplace.artifact(run_id, "predictions.csv") == workplace.artifact(whole.run_id, "predictions.csv")


def test_a_fork_without_any_checkpoint_is_not_begun_from_nothing(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = workplace.train("finetune", *SHORT, "trainer.max_epochs=2")
    with stopped_after(2, monkeypatch):
        assert workplace.frostline("resume", base, "fork=true", "trainer.max_epochs=4").code == 130
    run_id = killed(workplace)
    workplace.store.fetch(run_id, "checkpoints/last.ckpt").unlink()
    said = workplace.frostline("resume", run_id)
    assert (said.code, said.err.strip()) == (
        2,
        f"run {run_id}: is a fork of {base}, killed before it had a checkpoint; fork {base} again",
    )


def test_a_fork_of_a_finished_run_is_the_same_whether_or_not_that_was_interrupted(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("finetune", *TINY, *SHORT, "trainer.max_epochs=4")
    whole = workplace.frostline(*asked).run_id
    with stopped_after(2, monkeypatch):
        assert workplace.frostline(*asked).code == 130
    run_id = killed(workplace)
    before = workplace.artifact(run_id, "config.yaml")
    said = workplace.frostline("resume", run_id, "cache=off")  # what does not change the result may be another
    assert said.code == 0, said.err
    assert workplace.artifact(run_id, "config.yaml") == before
    forks = [
        workplace.frostline("resume", each, "fork=true", "optimizer.lr=10", "trainer.max_epochs=5").run_id
        for each in (whole, run_id)
    ]
    best = [workplace.store.run(fork).data.metrics["best/epoch"] for fork in forks]
    assert best == [4, 4]
    files = [workplace.artifact(fork, "predictions.csv") for fork in forks]
    assert files[0] == files[1]


def test_a_fork_may_freeze_what_was_trained_and_be_interrupted_itself(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it freezes is not what it was given: its checkpoints hold that, and what that gives has its own name."""
    trained = workplace.train(
        "finetune", "data.digits=[3,4]", "freeze=full", "optimizer.lr=0.02", "trainer.max_epochs=2"
    )
    forked = ("resume", trained, "fork=true", "freeze=head", "trainer.max_epochs=6")
    alone = workplace.frostline(*forked, "cache=off")
    assert alone.code == 0, alone.err
    workplace.train("finetune", "data.digits=[3,4]", "freeze=head", "cache=require", "trainer.max_epochs=2")
    shelf = Path(os.environ["XDG_CACHE_HOME"], "frostline", "activations")
    before = {entry: entry.stat().st_ino for entry in shelf.iterdir()}

    with stopped_after(3, monkeypatch):
        assert workplace.frostline(*forked, "cache=require").code == 130
    run_id = next(run.info.run_id for run in workplace.runs() if run.info.status == "KILLED")
    assert workplace.frostline("resume", run_id).code == 0

    assert {entry: entry.stat().st_ino for entry in before} == before
    assert len(list(shelf.iterdir())) > len(before)
    ours, theirs = history(workplace, run_id), history(workplace, alone.run_id)
    for name, points in theirs.items():
        assert [v for _, v in ours[name]] == pytest.approx([v for _, v in points], rel=1e-5, abs=1e-6), name


def test_a_broken_checkpoint_is_told_and_without_any_the_run_begins_anew(workplace: Workplace) -> None:
    run_id = workplace.train("finetune", "data.digits=[3,4]")
    before = workplace.artifact(run_id, "predictions.csv")
    workplace.store.client.set_terminated(run_id, "KILLED")
    (file,) = workplace.folder.glob(f"mlruns/{run_id}/artifacts/checkpoints/last.ckpt")
    file.write_bytes(file.read_bytes()[:1000])
    said = workplace.frostline("resume", run_id)
    assert said.code == 2
    assert said.err.strip().endswith("last.ckpt is truncated or no checkpoint; remove it to begin the run anew")
    assert workplace.store.run(run_id).info.status == "KILLED"
    file.unlink()
    again = workplace.frostline("resume", run_id)
    assert again.code == 0, again.err
    assert workplace.artifact(run_id, "predictions.csv") == before


def test_unknown_runs_and_foreign_code_are_refused(workplace: Workplace) -> None:
    workplace.train("finetune", "data.digits=[3,4]")
    said = workplace.frostline("resume", "0" * 32)
    assert said.code == 2
    assert "has none of this id; is tracking.uri where it was logged?" in said.err
    (run,) = workplace.runs()
    workplace.store.client.set_terminated(run.info.run_id, "KILLED")
    config = yaml.safe_load(workplace.artifact(run.info.run_id, "config.yaml"))
    config["objective"] = {"_target_": "os.system", "command": "touch owned"}
    workplace.store.client.log_text(run.info.run_id, yaml.safe_dump(config), "config.yaml")
    said = workplace.frostline("resume", run.info.run_id)
    assert said.code == 2
    assert "config.yaml: names 'os.system', which no file of conf/ names and no trusted package defines" in said.err
    assert not Path("owned").exists()


def test_the_last_epoch_is_kept_also_where_it_is_not_the_best(workplace: Workplace) -> None:
    run_id = workplace.train(
        "finetune", "freeze=head", "optimizer.lr=1e-12", "scheduler=constant", "trainer.max_epochs=3"
    )
    assert workplace.store.run(run_id).data.metrics["best/epoch"] == 0
    assert position(workplace.store.fetch(run_id, "checkpoints/last.ckpt")) == {"epoch": 3, "batch": 0}
