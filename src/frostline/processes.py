"""One run in several processes: who this process is, and what the processes tell each other.

Every process holds a copy of the network and its own share of the data. They are started by `launch`, or by torchrun,
and know each other by torch's environment variables; one that has none is alone.
"""

import atexit
import os
from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

DATA_PARALLEL = ("auto", "ddp", "ddp_find_unused_parameters_true")
"""Lightning's names of strategies in which every process holds the whole network."""


def rank() -> int:
    """Return the place of this process among those of the run; the one of 0 records."""
    return int(os.environ.get("RANK", 0))


def world() -> int:
    """Return how many processes the run has been started in."""
    if dist.is_initialized():
        return dist.get_world_size()
    return int(os.environ.get("WORLD_SIZE", 1)) if "RANK" in os.environ else 1


def processes_of(trainer: Mapping[str, Any]) -> int:
    """Return how many processes a trainer's config asks for, one a device."""
    devices = trainer.get("devices", 1)
    if isinstance(devices, Sequence) and not isinstance(devices, str):
        return len(devices)
    if devices in ("auto", -1, "-1"):
        return max(1, torch.cuda.device_count()) if trainer.get("accelerator", "auto") in ("auto", "gpu", "cuda") else 1
    return int(devices) * int(trainer.get("num_nodes", 1))


def join() -> None:
    """Connect the processes of this run, where there are several; Lightning takes the connection over.

    It lasts until this process ends: the runs of a sweep that torchrun started follow each other over it.
    """
    if world() > 1 and not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        atexit.register(dist.destroy_process_group)


def told_by_the_first(value: Any = None) -> Any:
    """Return, in every process, what the first one has."""
    if not dist.is_initialized():
        return value
    held = [value]
    dist.broadcast_object_list(held)
    return held[0]


def everyones(value: Any) -> list[Any]:
    """Return what every process has, by rank."""
    if not dist.is_initialized():
        return [value]
    held: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(held, value)
    return held


def from_each(tensor: Tensor) -> list[Tensor]:
    """Return a tensor, of the same shape everywhere, as each process has it, by rank."""
    held = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(held, tensor.contiguous())
    return held


def anyone(said: bool) -> bool:
    """Tell, to every process alike, whether any has said yes."""
    if not dist.is_initialized():
        return said
    flag = torch.tensor(int(said), device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return bool(flag.item())


def share_buffers(network: nn.Module) -> None:
    """Give every process the buffers of the first one, such as the statistics of its batches."""
    if dist.is_initialized():
        for buffer in network.buffers():
            dist.broadcast(buffer, src=0)


def data_parallel(strategy: str) -> DDPStrategy:
    """Return Lightning's data-parallel strategy under this name, `ddp` or `ddp_find_unused_parameters_true`.

    Buffers are not broadcast at each pass: processes evaluate different numbers of batches, and would wait for each
    other. They are shared before each evaluation instead.
    """
    options = signature(DistributedDataParallel).parameters
    buffers: dict[str, Any] = {
        next(name for name in ("forward_sync_buffers", "broadcast_buffers") if name in options): False
    }
    return DDPStrategy(find_unused_parameters=strategy.endswith("_true"), **buffers)


def finds_unused(strategy: Any) -> bool:
    """Tell whether parameters may train and yet have no part in the loss."""
    return bool(strategy.model.find_unused_parameters) if isinstance(strategy.model, DistributedDataParallel) else True


def wrap_anew(strategy: Any) -> None:
    """Wrap the network again, so that exactly what requires a gradient now is communicated.

    DistributedDataParallel fixes at wrapping which gradients it averages: what thaws later would drift apart without
    a word, what freezes later would be waited for.
    """
    if isinstance(strategy, DDPStrategy):
        strategy.model = strategy.lightning_module
        strategy.configure_ddp()
