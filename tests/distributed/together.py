"""Run a function in several forked processes that know each other, as those of one run do."""

import os
import socket
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def together(count: int, function: Callable[[int], Any]) -> list[Any]:
    """Return what the function returns in each process, by rank; an exception is returned, not raised."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        children = [_fork(rank, count, port, function, Path(folder)) for rank in range(count)]
        for child in children:
            os.waitpid(child, 0)
        return [torch.load(Path(folder) / str(rank), weights_only=False) for rank in range(count)]


def _fork(rank: int, count: int, port: int, function: Callable[[int], Any], folder: Path) -> int:
    child = os.fork()
    if child:
        return child
    try:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count), NODE_RANK="0")
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        torch.set_num_threads(1)
        try:
            result = function(rank)
        except BaseException as error:
            result = f"{type(error).__name__}: {error}"
            (folder / f"trace{rank}").write_text(traceback.format_exc())
        torch.save(result, folder / str(rank))
    finally:
        os._exit(0)
