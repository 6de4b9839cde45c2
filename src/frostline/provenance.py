"""Where a run came from: the machine, the packages, the commit and what differed from it."""

import os
import platform
import shlex
import shutil
import subprocess
import sys
from functools import cache
from importlib.metadata import distributions

import torch


@cache
def environment() -> str:
    """Return interpreter, machine, threads, accelerator and every installed package, a line each."""
    accelerator = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    machine = [
        f"python {platform.python_version()}",
        f"platform {platform.platform()}",
        f"processor {hardware()}",
        f"torch threads {torch.get_num_threads()}",
        f"accelerator {accelerator}",
    ]
    packages = sorted({f"{d.metadata['Name']}=={d.version}" for d in distributions()}, key=str.lower)
    return "\n".join([*machine, *packages]) + "\n"


@cache
def hardware() -> str:
    """Return the processor's model and how many cores this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{_model()}, {cores} cores"


def _model() -> str:
    try:
        with open("/proc/cpuinfo") as lines:  # noqa: PTH123 (a file of the kernel, where there is one)
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


@cache
def commit() -> str:
    """Return the commit of the working directory's repository, marked `-dirty` where files differ; "" without git."""
    head = _git("rev-parse", "HEAD").strip()
    return f"{head}-dirty" if head and _git("status", "--porcelain", "--untracked-files=no").strip() else head


@cache
def diff() -> str:
    """Return what differs from the commit in the files that git tracks."""
    return _git("diff", "HEAD")


def command() -> str:
    """Return the command line as it was typed; the verbs hand a rewritten one on to Hydra."""
    return os.environ.get("FROSTLINE_COMMAND") or shlex.join(["frostline", *sys.argv[1:]])


def _git(*arguments: str) -> str:
    git = shutil.which("git")
    if git is None:
        return ""
    done = subprocess.run([git, *arguments], capture_output=True, text=True, check=False, errors="replace")  # noqa: S603
    return done.stdout if done.returncode == 0 else ""
