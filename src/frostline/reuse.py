"""Whether a config lets what frozen stages give be kept, and where."""

import json
from collections.abc import Mapping

from omegaconf import DictConfig
from torch import nn

from frostline.cache.cuts import Cuts
from frostline.cache.find_cut import judge_of
from frostline.cache.prefix_cache import is_all
from frostline.config.effective import plain
from frostline.data.splitted import SplittedData
from frostline.data.whole import cache_folder
from frostline.errors import RequestError
from frostline.freeze.strategy import Reestimation, Solution
from frostline.objectives.objective import Objective
from frostline.plan import Plan
from frostline.precision import autocast_of, is_single
from frostline.processes import processes_of

_LIGHTNING = ("pytorch_lightning.callbacks.", "lightning.pytorch.callbacks.")


def cuts_for(
    cfg: DictConfig,
    plan: Plan,
    network: nn.Module,
    data: SplittedData,
    objective: Objective,
    *,
    known: Mapping[str, str],
) -> Cuts | None:
    """Return where a run can do without computing its frozen stages again; None where that was not asked for.

    Args:
        cfg: The run's config.
        plan: What trains when.
        network: The network.
        data: What it is trained on.
        objective: What must be the same with and without.
        known: Digests of the network's tensors that are as the run was given them and stay so; looked at when needed.

    Raises:
        RequestError: It is required, and cannot be.
    """
    if cfg.cache == "off":
        return None
    cuts = Cuts(
        network=network,
        data=data,
        known=known,
        judge=judge_of(objective),
        policy=cfg.cache,
        folder=cache_folder() / "activations",
        limit=int(cfg.cache_limit_gb * 1e9),
        recipe=json.dumps([plain(cfg.model), cfg.objective["_target_"], cfg.channels_last], default=str),
        autocast=autocast_of(cfg.trainer.get("precision")),
        obstacle=_in_the_way_of_a_cut(cfg),
    )
    if cfg.cache == "require":
        _refuse_what_is_not_kept(cuts, plan)
    return cuts


def _in_the_way_of_a_cut(cfg: DictConfig) -> str:
    """Return what in a config keeps a network from being cut, in words; nothing where it can be."""
    trainer, precision = cfg.trainer, cfg.trainer.get("precision")
    partial = [key for key in ("limit_train_batches", "limit_val_batches") if not is_all(trainer.get(key))]
    ways = {
        "several processes share the data": processes_of(plain(trainer)) > 1,
        "what is compiled is not cut": cfg.compile is not None,
        "activation_checkpointing runs the network's parts again": cfg.activation_checkpointing,
        "averaging lets other weights stand for the network's": cfg.averaging is not None,
        f"nothing is kept in trainer.precision={precision}, but in 32-true and bf16-mixed": not (
            is_single(precision) or autocast_of(precision)
        ),
        f"trainer.{partial[0] if partial else ''} leaves examples out": bool(partial),
        "trainer.plugins may compute in another precision": bool(trainer.get("plugins")),
        "trainer.callbacks of one's own may change what the network sees": any(
            not str(each.get("_target_")).startswith(_LIGHTNING) for each in trainer.get("callbacks") or []
        ),
    }
    return next((way for way, stands in ways.items() if stands), "")


def _refuse_what_is_not_kept(cuts: Cuts, plan: Plan) -> None:
    if isinstance(plan.strategy.instead, Reestimation):
        raise RequestError("cache=require: bn_stats passes once through the whole network; choose cache=auto")
    if not plan.epochs and not isinstance(plan.strategy.instead, Solution):
        raise RequestError("cache=require: nothing trains in trainer.max_epochs=0; choose cache=auto")
    if not any(plan.frozen_prefix(phase) for phase in plan.phases):
        raise RequestError("cache=require: the first stage trains from the start; choose cache=auto, or another freeze")
    for reason in cuts.refusals(plan):
        raise RequestError(f"cache=require: {reason}; mend that, or choose cache=auto")
