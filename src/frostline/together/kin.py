"""Which runs may train together: heads on one frozen network, of any seed, shots and settings of the optimizer."""

from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property

from omegaconf import DictConfig
from torch import nn

from frostline.beginnings import is_known_beforehand
from frostline.cache.cuts import NotKept
from frostline.config.effective import WITHOUT_EFFECT, plain, signature
from frostline.plan import Plan
from frostline.precision import is_single
from frostline.prepare import Prepared

FEWEST_EPOCHS = 3
"""Epochs below which there is too little to share."""

_OWN = frozenset({"seed", "data.seed", "data.shots", "optimizer"})
"""What runs may have of their own, as long as it is the same kind of optimizer; each sees its own batches then."""


def kin_of(cfg: DictConfig) -> str:
    """Return what the configs of runs share that may train together: all but seed, shots and optimizer's settings."""
    tree = plain(cfg)
    return signature(tree, exclude=WITHOUT_EFFECT | _OWN, extra={"optimizer": tree["optimizer"]["_target_"]})


class ToCome:
    """The runs of a study that are still to come, and those among them that may train together.

    Args:
        configs: By arm and seed, in the order in which they run.
    """

    def __init__(self, configs: Mapping[tuple[str, int], DictConfig]) -> None:
        self._all = configs
        self._configs = dict(configs)
        self._apart: set[str] = set()

    def begins(self, arm: str, seed: int) -> None:
        """Note that the turn of a run has come."""
        del self._configs[arm, seed]

    @cached_property
    def _kin(self) -> dict[tuple[str, int], str]:
        return {run: kin_of(cfg) for run, cfg in self._all.items()}

    def kin(self, arm: str, seed: int) -> dict[tuple[str, int], DictConfig]:
        """Return the runs to come that may train together with one, as far as their configs tell."""
        shared = self._kin[arm, seed]
        if shared in self._apart:
            return {}
        return {run: cfg for run, cfg in self._configs.items() if self._kin[run] == shared}

    def keep_apart(self, arm: str, seed: int) -> None:
        """Note that it has been tried in vain to train others together with this run."""
        self._apart.add(self._kin[arm, seed])


def takes_others(prepared: Prepared) -> bool:
    """Tell whether a run can train along with others: the head alone trains, on kept features, whatever happens."""
    if prepared.verb == "pretrain":
        return False
    cfg, plan = prepared.cfg, prepared.plan
    own_ways = [cfg.stopping, cfg.regularizer, cfg.trainer.get("gradient_clip_val")]
    own_ways.append(not is_single(cfg.trainer.get("precision")))  # 16 bits are rounded otherwise in a stack
    if (
        any(own_ways)
        or not _validates_by_the_epoch(cfg.trainer)
        or plan.epochs < FEWEST_EPOCHS
        or not is_known_beforehand(prepared)
    ):
        return False
    (phase, *others) = plan.phases
    if others or prepared.cuts is None or plan.frozen_prefix(phase) != len(plan.stages) - 1:
        return False
    if plan.stages[-1].buffers:  # a step would write into them, such as the statistics of normalisation
        return False
    with suppress(NotKept):
        return bool(prepared.cuts.of(plan, phase))
    return False


def _validates_by_the_epoch(trainer: DictConfig) -> bool:
    """Tell whether a batch is a step and an epoch ends in a validation; to Lightning 1.0 is an epoch, and 1 a batch."""
    every = trainer.get("val_check_interval")
    usual = all(trainer.get(key) in (None, 1) for key in ("accumulate_grad_batches", "check_val_every_n_epoch"))
    return usual and (every is None or (isinstance(every, float) and every == 1.0))


def goes_with(prepared: Prepared, other: Prepared) -> bool:
    """Tell whether another run can train along with one: what is frozen is the same, to the bit, in both."""
    return takes_others(other) and _frozen(prepared) == _frozen(other)


def share_what_is_frozen(prepared: Prepared, other: Prepared) -> None:
    """Let a run that goes with another one hold what is frozen where that one does: it is equal, and nobody changes it.

    Many runs that wait for their turn then need little more memory than one.
    """
    held, trains = prepared.network.state_dict(), trained(prepared.plan)
    for name, tensor in other.network.state_dict(keep_vars=True).items():
        if name not in trains:
            tensor.data = held[name]


def trained(plan: Plan) -> dict[str, nn.Parameter]:
    """Return the parameters that train in the only phase of a plan, by name."""
    return plan.training(plan.phases[0].scales)


def _frozen(prepared: Prepared) -> dict[str, str]:
    trains = trained(prepared.plan)
    return {name: each for name, each in prepared.fingerprints.items() if name not in trains}
