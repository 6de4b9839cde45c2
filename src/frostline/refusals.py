"""What is refused before anything is recorded or trained, each in a sentence that names the key and the way out."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from omegaconf import DictConfig

from frostline.config.build import as_request, build
from frostline.config.effective import plain
from frostline.errors import Mistakes, RequestError
from frostline.modules import Training
from frostline.nearest import did_you_mean
from frostline.nn.adapters import plain_name
from frostline.objectives.objective import scalars
from frostline.plan import Plan
from frostline.processes import DATA_PARALLEL, processes_of, world


def _refuse_what_no_plan_can_hold(cfg: DictConfig) -> None:
    epochs = cfg.trainer.get("max_epochs")
    if not isinstance(epochs, int) or epochs < 0:
        raise RequestError(f"trainer.max_epochs: should be 0 or more, since a plan needs its length, got {epochs}")
    strategy = cfg.trainer.get("strategy") or "auto"
    if strategy not in DATA_PARALLEL:
        raise RequestError(
            f"trainer.strategy: a plan is held by {', '.join(DATA_PARALLEL)}, not by {strategy}: "
            "it must say which gradients the processes exchange"
        )
    if (asked := processes_of(plain(cfg.trainer))) > 1:
        _refuse_what_no_group_of_processes_can_do(cfg, asked)


def _refuse_what_no_group_of_processes_can_do(cfg: DictConfig, asked: int) -> None:
    started = world()
    if cfg.trainer.get("sync_batchnorm"):
        raise RequestError(
            "trainer.sync_batchnorm: would replace the layers that the plan speaks of; "
            "normalise per process, or choose freeze.norm_stats=frozen"
        )
    if started not in (1, asked):
        raise RequestError(f"trainer.devices: {started} processes were started for this run, which asks for {asked}")
    if started == 1 and cfg.trainer.get("num_nodes", 1) != 1:
        raise RequestError("trainer.num_nodes: the processes of several machines are started by torchrun")


def _refuse_other_lengths(cfg: DictConfig) -> None:
    for key in ("fast_dev_run", "max_steps", "max_time", "overfit_batches"):
        if cfg.trainer.get(key) not in (None, False, 0, 0.0, -1):
            raise RequestError(
                f"trainer.{key}: a plan counts epochs and their steps; choose trainer.max_epochs and "
                "trainer.limit_train_batches instead"
            )


def _refuse_another_logger(cfg: DictConfig) -> None:
    if cfg.trainer.get("logger") is not None:
        raise RequestError("trainer.logger: every run is logged to MLflow; choose where with tracking.uri")


def _refuse_another_average(cfg: DictConfig) -> None:
    named = [str(node.get("_target_", "")) for node in cfg.trainer.get("callbacks") or []]
    if wrong := [name for name in named if name.endswith(("EMAWeightAveraging", "StochasticWeightAveraging"))]:
        raise RequestError(
            f"trainer.callbacks: {wrong[0].rpartition('.')[2]} changes what is frozen; choose averaging=ema instead"
        )


def _refuse_optimizer(cfg: DictConfig) -> None:
    """Let the optimizer check its own ranges, before anything is read or built that takes long."""
    with as_request("optimizer"):
        build(cfg.optimizer, key="optimizer")([torch.zeros(1, requires_grad=True)])


def refuse_other_tasks(data: Any, model: Any, objective: Any) -> None:
    """Refuse data, model and objective that share no task; what names none, such as a user's own, suits any."""
    shared, mistakes = data.tasks, Mistakes()
    for key, part in (("objective", objective), ("model", model)):
        tasks = getattr(part, "tasks", shared)
        with mistakes.gathered():
            if set(shared).isdisjoint(tasks):
                its, wanted = " or ".join(tasks), " or ".join(shared)
                raise RequestError(f"{key}: is for {its}, but the data is for {wanted}; choose another {key}, or data")
            shared = tuple(task for task in shared if task in tasks)
    mistakes.refuse()


def refuse_random_parts(plan: Plan, new: frozenset[str]) -> None:
    """Refuse a strategy that would leave what no weights filled, mostly a new head, as it was drawn for good."""
    head = plan.stages[-1].parameters.keys()
    trains = plan.epochs or plan.strategy.reestimates is not None
    stuck = sorted(new & {plain_name(name) for name in plan.never_moves()}) if trains else []
    name = type(plan.strategy).__name__
    if stuck and head.isdisjoint(stuck):
        raise RequestError(
            f"init_from: the weights lack {', '.join(stuck[:5])}, and {name} would hold what was drawn instead frozen; "
            "take complete weights, or a strategy that trains these"
        )
    if stuck and plan.strategy.reestimates is not None:
        raise RequestError(
            f"freeze: the head knows nothing of these classes ({', '.join(stuck)}) and {name} trains nothing; "
            "carry weights whose head has these classes, or choose a strategy that trains"
        )
    if stuck:
        raise RequestError(
            f"freeze: the head knows nothing of these classes ({', '.join(stuck)}) and {name} never trains it; "
            "add 'head' to freeze.stages, or choose a strategy that trains the head"
        )


def refuse_unknown_metric(plan: Plan, module: Training) -> None:
    """Refuse a strategy that waits for a metric of validation that this objective does not measure."""
    metrics = ["val/loss", *(f"val/{name}" for name in scalars(module.val_metrics))]
    monitor, name = plan.strategy.monitor, type(plan.strategy).__name__
    if monitor is not None and monitor not in metrics:
        raise RequestError(
            f"freeze: nothing measures '{monitor}', which {name} waits for; {did_you_mean(monitor, metrics)}"
        )


OF_A_CONFIG: Sequence[Callable[[DictConfig], None]] = (
    _refuse_what_no_plan_can_hold,
    _refuse_other_lengths,
    _refuse_another_logger,
    _refuse_another_average,
    _refuse_optimizer,
)
"""Checks of a config alone, which read no data and build no network."""
