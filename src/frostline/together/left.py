"""The checkpoints from which a run that was taken along goes on: those of the run that took it, with its own parts."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from frostline.interruption import BEST, LAST, OURS, random_states_of, read_checkpoint
from frostline.modules import NETWORK
from frostline.seeds import stream
from frostline.together.other import Other

_COUNTERS = ("state_dict", "batch_progress", "scheduler_progress", "automatic_optimization.optim_progress")
"""Where Lightning's loop over an epoch counts its steps."""


@dataclass(frozen=True, kw_only=True)
class Host:
    """The run that took others along, before its last epoch.

    Attributes:
        path: Its last checkpoint.
        seed: Its seed.
        per_epoch: Its optimizer steps of an epoch.
        examples: Examples that it has trained on, each time counted.
        seconds: What was spent on each of the others.
    """

    path: Path
    seed: int
    per_epoch: int
    examples: int
    seconds: float


def checkpoints_of(other: Other, host: Host) -> dict[str, dict[str, Any]]:
    """Return the last checkpoint of a run as if it had come here alone, and that of its best epoch, by file."""
    checkpoint = read_checkpoint(host.path)
    epochs = checkpoint[OURS]["position"]["epoch"]
    checkpoint["state_dict"] |= _in_module(other.parameters)
    checkpoint["optimizer_states"] = [other.optimizer.state_dict()]
    checkpoint["lr_schedulers"] = [other.schedule.state_dict()]
    checkpoint["global_step"] = epochs * other.per_epoch
    _count_steps(checkpoint["loops"]["fit_loop"], host.per_epoch, other.per_epoch)
    _put_own_part(checkpoint[OURS], other, host, last_step=epochs * other.per_epoch - 1)
    _put_own_bill(checkpoint["callbacks"], other, host)
    _put_own_choice(checkpoint["callbacks"], other)
    best = deepcopy(checkpoint)
    best["epoch"] = other.best[1]
    best["state_dict"] |= _in_module(other.best[2])
    return {LAST: checkpoint, BEST: best}


def _count_steps(loop: dict[str, Any], ours: int, theirs: int) -> None:
    """Let Lightning's loop have taken as many steps as the other run would: both stand at the end of an epoch."""
    for part in _COUNTERS:
        loop[f"epoch_loop.{part}"] = _in_proportion(loop[f"epoch_loop.{part}"], ours, theirs)


def _in_proportion(node: Any, ours: int, theirs: int) -> Any:
    if isinstance(node, Mapping):
        return {name: _in_proportion(part, ours, theirs) for name, part in node.items()}
    if isinstance(node, bool) or not isinstance(node, int):
        return node
    assert node % ours == 0, "the last checkpoint is not that of the end of an epoch"
    return node // ours * theirs


def _put_own_part(part: dict[str, Any], other: Other, host: Host, *, last_step: int) -> None:
    last = other.last
    part["metrics"] = {name: last[name] for name in part["metrics"]}
    part["metrics_step"] = last_step
    part["waiting"] = []  # it stands in what is told of the beginning
    if other.seed != host.seed:
        part["random"] = [_own_randomness(part["random"], other, host)]


def _own_randomness(states: Any, other: Other, host: Host) -> dict[str, Any]:
    """Return the generators of another seed; nobody knows them where something has drawn from them in training."""
    before = random_states_of(stream(host.seed, "train"))
    if not all(
        _same(states[0][name], before[name]) for name in before if name != "cuda"
    ):  # which heads alone would use
        raise ValueError("random numbers were drawn in training, and those of other seeds are not known")
    return random_states_of(stream(other.seed, "train"))


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return torch.equal(one, other) if isinstance(one, Tensor) else bool(one == other)


def _put_own_bill(states: dict[str, Any], other: Other, host: Host) -> None:
    """Bill what the run would have spent alone, on its own examples; what is kept was spent once, by one of them."""
    bill, company = states["Meter"], other.company
    shared = company.kept - (company.spent if other.pays else 0.0)
    steps = (bill["flops"] - bill["spent"]) * company.examples / host.examples
    bill |= {"flops": steps + company.kept, "spent": company.kept, "steps": [], "wall": host.seconds}
    bill["shared"] = {"flops": shared, "wall": 0.0}
    states["PrefixCache"] |= company.cache.state_dict() | ({} if other.pays else {"computed": 0})


def _put_own_choice(states: dict[str, Any], other: Other) -> None:
    """Put the run's best epoch in place of the other one's."""
    choosing = states[next(key for key in states if key.startswith("ModelCheckpoint") and "'val/loss'" in key)]
    loss, path = torch.tensor(other.best[0]), str(Path(choosing["dirpath"]) / BEST)
    choosing |= {
        "best_model_score": loss,
        "best_model_path": path,
        "current_score": loss,  # Lightning notes it only where it saves
        "best_k_models": {path: loss},
        "kth_best_model_path": path,
        "kth_value": loss,
    }


def _in_module(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{NETWORK}{name}": tensor.detach().cpu().clone() for name, tensor in tensors.items()}
