"""The top-level keys of a config: the few that are values, and the groups that a class is chosen for."""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le

Fraction = Annotated[float, Ge(0), Le(1)]


@dataclass(frozen=True, kw_only=True)
class Pretrain:
    """What `frostline pretrain` reads.

    Attributes:
        model: A network from a batch to features and a head.
        data: The examples to train, validate and test on.
        objective: The loss to minimise, and the metrics to report.
        optimizer: An optimizer that waits for its parameters.
        scheduler: A learning-rate schedule that waits for its optimizer.
        trainer: Lightning's trainer.
        stopping: When to stop before the last epoch.
        averaging: What stands for the weights when they are validated and kept.
        tracking: Where runs are logged.
        seed: Where every random stream of the run starts.
        init_from: A run's id, a file, a folder of transformers or `models:/NAME/VERSION` of the model registry, whose
            weights are carried into the network.
        init_prefix: What the names of the weights begin with that are carried, where a file holds several networks.
        min_coverage: The share of the backbone's parameters that `init_from` must carry.
        compile: A backend of torch.compile, such as `inductor`, to compile the network with.
        activation_checkpointing: Whether the body's activations are computed again in the backward pass, not kept.
        channels_last: Whether convolutions have their weights, and so the maps that they give, in memory with the
            channels last; many processors convolve faster so, and sums differ in their last bits.
        experiment_name: The MLflow experiment that the run is logged to.
    """

    model: Any
    data: Any
    objective: Any
    optimizer: Any
    scheduler: Any
    trainer: Any
    tracking: Any
    stopping: Any = None
    averaging: Any = None
    seed: Annotated[int, Ge(0)] = 0
    init_from: str | None = None
    init_prefix: str | None = None
    min_coverage: Fraction = 0.9
    compile: str | None = None
    activation_checkpointing: bool = False
    channels_last: bool = False
    experiment_name: str = "frostline"


@dataclass(frozen=True, kw_only=True)
class Finetune(Pretrain):
    """What `frostline finetune` and `frostline plan` read.

    Attributes:
        freeze: Which stages train when.
        regularizer: What is added to the loss.
        cache: Whether what frozen stages give is computed once for each example and kept: `auto`, where that is exact
            and pays; `off`; or `require`, which refuses where it is not exact.
        cache_limit_gb: How much may be kept on disk, by all runs together; what was used least goes first.
    """

    freeze: Any
    regularizer: Any = None
    cache: Literal["auto", "off", "require"] = "auto"
    cache_limit_gb: Annotated[float, Gt(0)] = 20.0


SKELETONS: Mapping[str, type[Pretrain]] = {"pretrain": Pretrain, "finetune": Finetune}


def groups_of(skeleton: type[Pretrain]) -> list[str]:
    """Return the keys that a class is chosen for."""
    return sorted(field.name for field in fields(skeleton) if field.type is Any)


def required_groups(skeleton: type[Pretrain]) -> list[str]:
    """Return the keys that a class must be chosen for."""
    return sorted(field.name for field in fields(skeleton) if field.default is MISSING)


def values_of(skeleton: type[Pretrain]) -> dict[str, Any]:
    """Return every key with its default, `???` where there is none."""
    return {field.name: "???" if field.default is MISSING else field.default for field in fields(skeleton)}
