"""Start the processes of a run in which it has several devices, and wait for them.

Lightning would start this command line again in each process, a whole sweep with it; here each process gets the one
run that it belongs to, as a file.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, sleep
from typing import Any

from frostline.errors import IntegrityError, ProcessError, RequestError

GRACE = 30.0
"""Seconds that the other processes have to end when one has."""


def launch(task: Mapping[str, Any], *, processes: int) -> dict[str, Any]:
    """Run a task in several processes of this machine and return what the first one came to.

    Args:
        task: What `frostline.rank` reads, in plain types.
        processes: How many.

    Raises:
        ProcessError: One of them failed; the record holds the traceback of the first process.
        KeyboardInterrupt: A person interrupted, and all have stopped at the same step.
    """
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "task.json").write_text(json.dumps(task))
        port = _free_port()
        started: list[subprocess.Popen[bytes]] = []
        with _handing_on_interrupts(started):
            try:
                started.extend(_start(folder, rank, processes, port) for rank in range(processes))
                codes = _wait(started)
            finally:
                _end(started)
        return _result(folder, codes)


def _start(folder: Path, rank: int, processes: int, port: int) -> subprocess.Popen[bytes]:
    """Start one process, in a session of its own: a terminal's Ctrl-C reaches it through this one alone."""
    known = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes, "NODE_RANK": 0}
    environment = os.environ | {key: str(value) for key, value in known.items()}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "FROSTLINE_PARENT": str(os.getpid())}
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    command = [sys.executable, "-m", "frostline.rank", str(folder)]
    with (folder / f"rank{rank}.txt").open("wb") as said:
        heard = None if rank == 0 else said
        return subprocess.Popen(command, env=environment, stderr=heard, start_new_session=True)  # noqa: S603 (our own)


def _wait(started: Sequence[subprocess.Popen[bytes]]) -> list[int | None]:
    """Wait until all have ended, or until the others have had time to when one has failed."""
    failed: float | None = None
    while any(process.poll() is None for process in started):
        if failed is None and any(process.poll() for process in started):
            failed = monotonic()
        if failed is not None and monotonic() - failed > GRACE:
            break
        sleep(0.05)
    return [process.poll() for process in started]


@contextmanager
def _handing_on_interrupts(started: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Let Ctrl-C, and SIGTERM, stop the processes, which write a checkpoint; this one waits for them."""

    def hand_on(*_: object) -> None:
        for process in started:
            process.send_signal(signal.SIGINT)

    heard = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, hand_on) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(started: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()


def _result(folder: Path, codes: Sequence[int | None]) -> dict[str, Any]:
    """Return what the first process came to, or raise why the one that failed before the others did."""
    told = [_told(folder / f"rank{rank}.json") for rank in range(len(codes))]
    if not {130, -signal.SIGINT}.isdisjoint(codes):
        raise KeyboardInterrupt(told[0].get("message", ""))
    if not any(codes):
        return told[0]
    rank = _first_to_fail(told, codes)
    kinds: dict[str, type[Exception]] = {"RequestError": RequestError, "IntegrityError": IntegrityError}
    if told[rank].get("error") in kinds:
        raise kinds[told[rank]["error"]](told[rank]["message"])
    reason = told[rank].get("message") or _last_words(folder / f"rank{rank}.txt")
    raise ProcessError(f"process {rank} of {len(codes)} {_end_of(codes[rank])}: {reason}")


def _end_of(code: int | None) -> str:
    """Say how a process ended, as a person would."""
    if code is None:
        return "did not end with the others"
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"


def _told(file: Path) -> dict[str, Any]:
    """Return what a process wrote at its end; one that was killed wrote nothing."""
    told: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return told


def _first_to_fail(told: Sequence[Mapping[str, Any]], codes: Sequence[int | None]) -> int:
    """Return whose failure the others only followed, when they lost their connection to it."""
    failed = [rank for rank, code in enumerate(codes) if code]
    return min(failed, key=lambda rank: told[rank].get("failed_at", 0.0))


def _last_words(file: Path) -> str:
    """Return the end of what a process wrote to its standard error, which is the terminal for the first."""
    return " / ".join(file.read_text(errors="replace").strip().splitlines()[-3:]) or "it said nothing"


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
