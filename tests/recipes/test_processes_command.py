"""Several processes as users start them: exactly one record for each run."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_cli import LAST_LINE, environment, start, wait_for
from workplace import FOREIGN, TINY, Workplace

pytestmark = FOREIGN
DDP = (*TINY, "trainer=ddp", "trainer.devices=2", "trainer.max_epochs=3", "trainer.accelerator=cpu", "freeze=gradual")


def ended(*command: str, cwd: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, env=environment(), text=True, capture_output=True, timeout=240)


def test_one_run_in_two_processes_is_one_record_t36(workplace: Workplace) -> None:
    said = ended(*start("finetune", *DDP, "data.digits=[3,4]"), cwd=workplace.folder)
    assert said.returncode == 0, said.stderr
    assert re.fullmatch(LAST_LINE, said.stdout.strip())
    (run,) = workplace.runs()
    assert run.info.status == "FINISHED"
    assert run.data.metrics["audit/frozen_intact"] == 1
    predictions = workplace.artifact(run.info.run_id, "predictions.csv").splitlines()
    ids = [line.partition(",")[0] for line in predictions[1:]]
    assert len(ids) == len(set(ids))  # T47: each test example once
    counts = re.search(r'"test": \{\s+"examples": (\d+)', workplace.artifact(run.info.run_id, "data.json"))
    assert counts is not None
    assert len(ids) == int(counts[1])


@pytest.mark.slow
def test_a_sweep_of_two_runs_in_two_processes_is_two_records(workplace: Workplace) -> None:
    said = ended(*start("finetune", "-m", *DDP, "data.digits=[3,4]", "seed=0,1"), cwd=workplace.folder)
    assert said.returncode == 0, said.stderr
    assert [re.fullmatch(LAST_LINE, line) is not None for line in said.stdout.splitlines()] == [True, True]
    assert sorted(run.data.tags["frostline.seed"] for run in workplace.runs()) == ["0", "1"]


@pytest.mark.slow
@pytest.mark.parametrize("sweep", [(), ("-m", "seed=0,1")], ids=["one", "sweep"])
def test_torchrun_starts_the_processes_itself(sweep: tuple[str, ...], workplace: Workplace) -> None:
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0")
    overrides = (*DDP, "data.digits=[3,4]")
    said = ended(*torchrun, "--standalone", "-m", "frostline", "finetune", *sweep, *overrides, cwd=workplace.folder)
    assert said.returncode == 0, said.stderr
    assert said.stdout.count("FINISHED") == len(workplace.runs()) == max(1, 2 * bool(sweep))


@pytest.mark.slow
def test_ctrl_c_stops_all_processes_at_one_step_and_the_run_can_be_resumed(workplace: Workplace) -> None:
    endless = (*DDP, "data.digits=[3,4]", "trainer.max_epochs=150", "experiment_name=frostline")
    with subprocess.Popen(
        start("finetune", *endless), cwd=workplace.folder, env=environment(), text=True, stderr=subprocess.PIPE
    ) as process:
        try:
            wait_for(lambda: list(workplace.folder.glob("outputs/*/last.ckpt")), process)
            time.sleep(0.2)
            process.send_signal(signal.SIGINT)
            _, error = process.communicate(timeout=90)
        finally:
            process.kill()
    (run,) = workplace.runs()
    assert process.returncode == 130, error
    assert run.info.status == "KILLED"
    assert f"frostline resume {run.info.run_id}" in error
    resumed = ended(*start("resume", run.info.run_id), cwd=workplace.folder)
    assert resumed.returncode == 0, resumed.stderr
    whole = ended(*start("finetune", *endless), cwd=workplace.folder)
    whole_id = whole.stdout.split()[1]
    weights = [workplace.store.fetch(i, "weights.safetensors").read_bytes() for i in (run.info.run_id, whole_id)]
    assert weights[0] == weights[1]


BROKEN = """
import os
import signal

from frostline.objectives.classification import Classification


class Broken(Classification):
    def loss(self, outputs, batch):
        if os.environ["RANK"] == "{rank}":
            {fault}
        return super().loss(outputs, batch)
"""


DRAWING = """
import os
import torch
from frostline.objectives.cross_entropy import CrossEntropy

class Drawing(CrossEntropy):
    def __call__(self, logits, targets):
        with open(f"draws{os.environ.get('RANK', 0)}", "a") as file:
            file.write(f"{torch.rand(())}\\n")
        return super().__call__(logits, targets)
"""


@pytest.mark.slow
def test_each_process_draws_its_own_chance(workplace: Workplace) -> None:
    (workplace.folder / "drawing.py").write_text(DRAWING)
    own = ("~objective.loss", "+objective.loss._target_=drawing.Drawing", "data.digits=[3,4]", "trainer.max_epochs=1")
    said = ended(*start("finetune", *DDP, *own), cwd=workplace.folder)
    assert said.returncode == 0, said.stderr
    first, second = ((workplace.folder / f"draws{rank}").read_text().split() for rank in (0, 1))
    assert len(first) - 1 == len(second) > 1  # the first one counts a step's FLOPs, once, for the record
    assert set(first).isdisjoint(second)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(
    ("fault", "end"),
    [
        ("raise ValueError('the fault')", "ended with code 1: the fault"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "was killed by SIGKILL"),
    ],
)
def test_the_process_that_failed_first_is_told_of_and_none_is_left(
    rank: int, fault: str, end: str, workplace: Workplace
) -> None:
    (workplace.folder / "broken.py").write_text(BROKEN.format(rank=rank, fault=fault))
    own = ("~objective.loss", "objective._target_=broken.Broken", "data.digits=[3,4]")
    said = ended(*start("finetune", *DDP, *own), cwd=workplace.folder)
    assert said.returncode == 1
    assert f"process {rank} of 2 {end}" in said.stderr.splitlines()[-1]
    (run,) = workplace.runs()
    recorder_was_killed = rank == 0 and not fault.startswith("raise")
    assert run.info.status in (("RUNNING",) if recorder_was_killed else ("FAILED", "KILLED"))
    left = subprocess.run(("pgrep", "-f", "frostline.rank"), text=True, capture_output=True, check=False).stdout
    started = [pid for pid in left.split() if str(workplace.folder) in Path(f"/proc/{pid}/environ").read_text()]
    assert started == []


def test_what_no_group_of_processes_can_do_is_refused_t35(workplace: Workplace) -> None:
    for override, sentence in {
        "trainer.strategy=fsdp": "trainer.strategy: a plan is held by auto, ddp, "
        "ddp_find_unused_parameters_true, not by fsdp: it must say which gradients the processes exchange",
        "trainer.sync_batchnorm=true": "trainer.sync_batchnorm: would replace the layers that the plan speaks of; "
        "normalise per process, or choose freeze.norm_stats=frozen",
        "trainer.num_nodes=2": "trainer.num_nodes: the processes of several machines are started by torchrun",
    }.items():
        said = workplace.frostline("finetune", *DDP, override)
        assert (said.code, said.err.strip()) == (2, sentence)
