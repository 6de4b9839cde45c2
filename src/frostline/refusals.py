"""What is refused before anything is recorded or trained, each in a sentence that names the key and the way out."""

from collections.abc import Callable, Sequence, Sized
from typing import Any, cast

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from frostline.batch import Batch
from frostline.config.build import as_request, build
from frostline.config.effective import plain
from frostline.data.splitted import SplittedData
from frostline.errors import Mistakes, RequestError, counted
from frostline.freeze.only import Only
from frostline.freeze.strategy import Reestimation, Solution
from frostline.modules import Training
from frostline.nearest import did_you_mean
from frostline.nn.adapters import plain_name
from frostline.nn.batch_statistics import of_one_value, storing
from frostline.nn.ridge import linear_head
from frostline.objectives.objective import Objective, scalars
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


def _refuse_other_precisions(cfg: DictConfig) -> None:
    """Refuse a precision that exchanges layers, or that Lightning would exchange while the record named it."""
    accelerator, precision = cfg.trainer.get("accelerator") or "auto", cfg.trainer.get("precision")
    if str(precision).startswith("transformer-engine"):
        raise RequestError(
            f"trainer.precision={precision}: would replace the layers that the plan speaks of; "
            "choose trainer.precision=bf16-mixed"
        )
    on_processor = accelerator == "cpu" or (accelerator == "auto" and not torch.accelerator.is_available())
    if on_processor and str(precision) in ("16", "16-mixed"):
        raise RequestError(
            f"trainer.precision={precision}: is for a GPU; choose trainer.precision=bf16-mixed, or a machine with one"
        )


def _refuse_unknown_backend(cfg: DictConfig) -> None:
    if cfg.compile is not None:
        usual, known = torch.compiler.list_backends(), torch.compiler.list_backends(exclude_tags=())
        if cfg.compile not in known:
            raise RequestError(f"compile: torch has no backend '{cfg.compile}'; {did_you_mean(cfg.compile, usual)}")


def _refuse_optimizer(cfg: DictConfig) -> None:
    """Let the optimizer check its own ranges, before anything is read or built that takes long."""
    if cfg.optimizer.get("differentiable"):
        raise RequestError(
            "optimizer.differentiable: is for a gradient through the optimizer's own steps, which no run takes; "
            "leave it out"
        )
    with as_request("optimizer"):
        make = build(cfg.optimizer, key="optimizer")
        try:
            make([torch.zeros(1, requires_grad=True)])
        except RuntimeError as error:  # of torch's, on ways to compute that exclude each other
            raise RequestError(f"optimizer: {error}") from error


def refuse_other_tasks(data: Any, model: Any, objective: Any) -> None:
    """Refuse data, model and objective that share no task; what names none, such as a user's own, suits any."""
    shared, mistakes = data.tasks, Mistakes()
    for key, part in (("objective", objective), ("model", model)):
        tasks = getattr(part, "tasks", shared)
        with mistakes.gathered():
            if set(shared).isdisjoint(tasks):
                its, wanted = " or ".join(tasks), " or ".join(shared)
                other = "data" if shared == data.tasks else "objective"
                whose = "the data is" if other == "data" else "data and objective are"
                raise RequestError(f"{key}: is for {its}, but {whose} for {wanted}; choose another {key}, or {other}")
            shared = tuple(task for task in shared if task in tasks)
    mistakes.refuse()


def refuse_random_parts(plan: Plan, new: frozenset[str]) -> None:
    """Refuse a strategy that would leave what no weights filled, mostly a new head, as it was drawn for good."""
    trains = plan.epochs or plan.strategy.instead is not None
    stuck = sorted(new & {plain_name(name) for name in plan.never_moves()}) if trains else []
    head, mistakes = [name for name in stuck if name in plan.stages[-1].parameters], Mistakes()
    with mistakes.gathered():
        _refuse_missing_weights(plan, [name for name in stuck if name not in head])
    with mistakes.gathered():
        _refuse_a_new_head(plan, head)
    mistakes.refuse()


def _refuse_missing_weights(plan: Plan, stuck: Sequence[str]) -> None:
    if stuck:
        raise RequestError(
            f"init_from: the weights lack {', '.join(stuck[:5])}, and {type(plan.strategy).__name__} would hold what "
            "was drawn instead frozen; take complete weights, or a strategy that trains these"
        )


def _refuse_a_new_head(plan: Plan, stuck: Sequence[str]) -> None:
    knows_nothing = f"freeze: the head ({', '.join(stuck)}) knows nothing of these classes"
    if stuck and isinstance(plan.strategy.instead, Reestimation):
        raise RequestError(
            f"{knows_nothing} and {type(plan.strategy).__name__} trains nothing; "
            "carry weights whose head has these classes, or choose a strategy that trains"
        )
    if stuck:
        named = "add 'head' to freeze.stages, or " if isinstance(plan.strategy, Only) else ""
        raise RequestError(
            f"{knows_nothing} and {type(plan.strategy).__name__} never trains it; "
            f"{named}choose a strategy that trains the head"
        )


def refuse_instead(plan: Plan, network: nn.Module, objective: Objective, first: Batch) -> None:
    """Refuse what cannot be done in place of training: the network or the data is not made for it."""
    instead = plan.strategy.instead
    if isinstance(instead, Reestimation) and not storing(network):
        raise RequestError("freeze: bn_stats needs layers that store statistics, and this network has none")
    if isinstance(instead, Solution):
        linear_head(plan.stages)
        if not objective.tells_classes_apart or not _are_labels(first.targets):
            raise RequestError("freeze: ridge is for labels of whole examples; choose freeze=head, which trains on any")


def _are_labels(targets: Any) -> bool:
    """Tell whether each example has one class (B,), or a mark for each (B, C)."""
    return isinstance(targets, Tensor) and targets.ndim == 1 + targets.is_floating_point()


def refuse_unknown_metric(plan: Plan, module: Training) -> None:
    """Refuse a strategy that waits for a metric of validation that this objective does not measure."""
    metrics = ["val/loss", *(f"val/{name}" for name in scalars(module.val_metrics))]
    monitor, name = plan.strategy.monitor, type(plan.strategy).__name__
    if monitor is not None and monitor not in metrics:
        raise RequestError(
            f"freeze: nothing measures '{monitor}', which {name} waits for; {did_you_mean(monitor, metrics)}"
        )


def refuse_batches_of_one(verb: str, plan: Plan, network: nn.Module, data: SplittedData) -> None:
    """Refuse batches of one example where batch normalisation is to train on what is pooled to one value of each."""
    loader = data.train_dataloader()
    if min(data.batch_size, len(cast(Sized, loader.sampler))) > 1 or not plan.epochs:
        return
    alone = of_one_value(network, next(iter(data.val_dataloader())).part(slice(1)).inputs)
    if any(phase.modes.get(name) for phase in plan.phases for name in alone):
        raise batches_of_one(verb, data)


def batches_of_one(verb: str, data: SplittedData) -> RequestError:
    """Return the refusal of batches on which batch normalisation cannot train."""
    share = len(cast(Sized, data.train_dataloader().sampler))
    key, way_out = "data.batch_size", f"choose one of at least {max(2, data.batch_size + 1)}"
    if share == 1:
        each = f", at least 2 for each of {data.world} processes" if data.world > 1 else ""
        key, way_out = "data", f"take more than {counted(len(data.drawn('train')), 'example')} to train on{each}"
    frozen = ", or freeze.norm_stats=frozen" if verb == "finetune" else ""
    problem = "batch normalisation cannot train on one value per channel, and this network pools an image to one"
    return RequestError(f"{key}: {problem}; {way_out}{frozen}")


def refuse_second_passes(verb: str, cfg: DictConfig, plan: Plan, network: nn.Module) -> None:
    """Refuse to compute again, in the backward pass, what would count the same batch twice."""
    if not cfg.activation_checkpointing or plan.strategy.norm_stats == "frozen" or not plan.epochs:
        return
    names = storing(network).keys() & {name for stage in plan.stages[1:-1] for name in stage.modules}
    if names and (plan.horizon < plan.end or any(phase.modes[name] for phase in plan.phases for name in names)):
        frozen = "add freeze.norm_stats=frozen, or " if verb == "finetune" else ""
        raise RequestError(
            "activation_checkpointing: a second pass would update the statistics of normalisation layers twice; "
            f"{frozen}do without"
        )


OF_A_CONFIG: Sequence[Callable[[DictConfig], None]] = (
    _refuse_what_no_plan_can_hold,
    _refuse_other_lengths,
    _refuse_another_logger,
    _refuse_another_average,
    _refuse_other_precisions,
    _refuse_unknown_backend,
    _refuse_optimizer,
)
"""Checks of a config alone, which read no data and build no network."""
