"""Builds all that a run needs and finds what is wrong with the request, before anything is recorded or trained."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from omegaconf import DictConfig
from torch import nn

from frostline.batch import Batch
from frostline.cache.cuts import Cuts
from frostline.checkpoint import Carried
from frostline.config.build import build
from frostline.config.effective import WITHOUT_EFFECT, effective, plain, signature
from frostline.data.splitted import SplittedData
from frostline.digest import digest
from frostline.errors import ConfigError, Mistakes
from frostline.freeze.full import Full
from frostline.freeze.strategy import Strategy
from frostline.init_from import named_weights
from frostline.initial import Ingredients, Initial, Initials, drawn, example_of
from frostline.modules import FineTuning, Pretraining, Training
from frostline.nn.activation_checkpointing import recompute
from frostline.nn.adapters import Attached, attach, plain_name
from frostline.nn.backbone import Backbone
from frostline.nn.channels_last import lay_channels_last
from frostline.nn.stages import Stage
from frostline.optim.partition import outline, partition
from frostline.plan import Plan, as_text
from frostline.precision import autocast_of
from frostline.processes import processes_of
from frostline.record import Tracking
from frostline.refusals import (
    OF_A_CONFIG,
    refuse_batches_of_one,
    refuse_instead,
    refuse_other_tasks,
    refuse_random_parts,
    refuse_second_passes,
    refuse_unknown_metric,
)
from frostline.regularizers.regularizer import Start
from frostline.reuse import cuts_for
from frostline.seeds import stream
from frostline.store import Store

Verb = Literal["pretrain", "finetune"]
DELTA = "delta.safetensors"
"""The artifact that holds what a finished run changed of the weights that it was given."""


_NOT_OF_THE_NETWORK = frozenset(
    {
        "averaging",
        "cache",
        "cache_limit_gb",
        "experiment_name",
        "freeze",
        "optimizer",
        "regularizer",
        "scheduler",
        "stopping",
        "tracking",
    }
)
"""What of a config cannot change the network that is drawn, what is carried into it, nor the first batch."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A run that is ready to train: everything that can be wrong with the request has been found."""

    verb: Verb
    cfg: DictConfig
    data: SplittedData
    module: Training
    plan: Plan
    carried: Carried | None
    unfilled: frozenset[str]
    """Names of the parameters that no weights filled; where there was no `init_from`, of the head's alone."""
    signature: str
    apart_from_freeze: str
    """What the run shares with those that differ from it in the strategy alone: the signature without that."""
    weights: str
    fingerprints: Mapping[str, str]
    attached: Attached | None
    pairing: str
    cuts: Cuts | None
    """Where the network can do without computing its frozen stages again; None where that was not asked for."""
    first: Batch
    """The first batch of training."""

    @property
    def network(self) -> nn.Module:
        """The network, with the carried weights in."""
        return self.module.network

    @property
    def autocast(self) -> torch.dtype | None:
        """The type that mixed precision lets the network compute in beside float32; None if it is unknown here."""
        return autocast_of(self.cfg.trainer.get("precision"))


def open_store(cfg: DictConfig) -> Store:
    """Connect to the MLflow experiment that the config names."""
    return Store.open(tracking_of(cfg), cfg.experiment_name)


def tracking_of(cfg: DictConfig) -> Tracking:
    """Return where the config says that runs are logged."""
    tracking = build(cfg.tracking)
    assert isinstance(tracking, Tracking)
    return tracking


def prepare(
    cfg: DictConfig,
    verb: Verb,
    store: Store | None = None,
    *,
    awaited: bool = False,
    initials: Initials | None = None,
) -> Prepared:
    """Build all that a run needs and find what is wrong with the request, before anything is recorded or trained.

    Args:
        cfg: A checked config.
        verb: Which objective is minimised.
        store: Where `init_from` looks for a run's weights.
        awaited: Whether the weights are still to be trained, so that nothing is said of what they may lack.
        initials: Makes the networks of a study's runs; None where there is one run.

    Raises:
        RequestError: Data, weights, strategy and network do not go together; the sentence says how.
    """
    torch.manual_seed(stream(cfg.seed, "init"))
    given = _ingredients(cfg, store)
    _draw(given.data, given.model, cfg)
    start = _initial(cfg, given, initials, prefix=None if awaited else cfg.init_prefix)
    if cfg.channels_last:
        lay_channels_last(start.network)
    plan, attached = _plan(cfg, verb, start, given.data)
    unfilled = frozenset() if awaited else _unfilled(start.carried, plan.stages[-1], given)
    _refuse_a_wrong_plan(verb, cfg, plan, start, given, unfilled)
    module = _module(cfg, verb, start.network, given, plan)
    refuse_unknown_metric(plan, module)
    module.unmoving = _unmoving(cfg, plan, start)
    cuts = None
    if verb == "finetune":
        cuts = cuts_for(cfg, plan, start.network, given.data, given.objective, known=module.unmoving)
    content = _content(verb, start, given)
    _recompute_and_compile(cfg, start.network, plan)
    return Prepared(
        verb=verb,
        cfg=cfg,
        data=given.data,
        module=module,
        plan=plan,
        carried=start.carried,
        unfilled=unfilled,
        signature=_signature(cfg, plan, content),
        apart_from_freeze=signature(plain(cfg), exclude=WITHOUT_EFFECT | {"freeze"}, extra=content),
        weights=start.weights,
        fingerprints=start.fingerprints,
        attached=attached,
        pairing=start.pairing,
        cuts=cuts,
        first=start.first,
    )


class Preparing:
    """Prepares the runs of a study: those that begin alike begin with copies of one network.

    Args:
        store: Where `init_from` looks for a run's weights.
    """

    def __init__(self, store: Store | None) -> None:
        self._store = store
        self._initials = Initials()

    def __call__(self, cfg: DictConfig, verb: Verb = "finetune", *, awaited: bool = False) -> Prepared:
        """Return what `prepare` would."""
        return prepare(cfg, verb, self._store, awaited=awaited, initials=self._initials)

    def clear(self) -> None:
        """Keep no network any more."""
        self._initials.clear()


def plan_text(prepared: Prepared) -> str:
    """Return what `frostline plan` prints: the plan, what is kept of its frozen stages, and the weights carried in."""
    text = plan_with_cuts(prepared, prepared.plan)
    return text if prepared.carried is None else f"{text}\n{prepared.carried}\n"


def plan_with_cuts(prepared: Prepared, plan: Plan) -> str:
    """Return a plan of a prepared run, and whether what its frozen stages give is kept."""
    text = as_text(plan, lr=learning_rate(prepared.cfg))
    told = list(prepared.cuts.told(plan)) if prepared.cuts else []
    return "\n".join([text, *told, ""]) if told else text


def _ingredients(cfg: DictConfig, store: Store | None) -> Ingredients:
    """Return data, model, objective and weights to carry, each as its key asks; what is wrong is said at once."""
    mistakes = Mistakes()
    for check in OF_A_CONFIG:
        with mistakes.gathered():
            check(cfg)
    data, model, objective, weights = None, None, None, None
    with mistakes.gathered():
        data = build(cfg.data)
        data.check()
    with mistakes.gathered():
        model = build(cfg.model)
    with mistakes.gathered():
        objective = build(cfg.objective, key="objective")
    with mistakes.gathered():
        weights = named_weights(cfg.init_from, store)
    mistakes.refuse()
    assert data is not None
    assert model is not None
    assert objective is not None
    refuse_other_tasks(data, model, objective)
    return Ingredients(data=data, model=model, objective=objective, weights=weights)


def _draw(data: SplittedData, model: Backbone, cfg: DictConfig) -> None:
    """Draw the splits of what the model can take, for all processes of the run."""
    data.expect(model.input)
    data.world = processes_of(plain(cfg.trainer))
    data.setup()


def _initial(cfg: DictConfig, given: Ingredients, initials: Initials | None, *, prefix: str | None) -> Initial:
    """Return the network with the carried weights in, drawn or as another run has it that began alike."""
    make = partial(drawn, given, min_coverage=cfg.min_coverage, prefix=prefix)
    if initials is None:
        return make()
    known = {"data": given.data.fingerprint(), "prefix": prefix}
    return initials.of(signature(plain(cfg), exclude=_NOT_OF_THE_NETWORK, extra=known), make)


def _strategy(cfg: DictConfig, verb: Verb, parts: Sequence[Stage]) -> Strategy:
    strategy: Strategy = build(cfg.freeze, key="freeze") if verb == "finetune" else Full()
    if problems := strategy.problems(outline(partition(parts)), cfg.trainer.max_epochs):
        raise ConfigError(problems)
    return strategy


def _attach(
    network: nn.Module, parts: tuple[Stage, ...], strategy: Strategy, data: SplittedData, *, seed: int
) -> tuple[Attached | None, tuple[Stage, ...]]:
    """Add what the strategy adds, drawn from a stream of its own, so that the arms of a seed share all the rest."""
    if strategy.adapter is None:
        return None, parts
    return attach(network, parts, strategy.adapter, example=example_of(data), seed=stream(seed, "adapter"))


def _content(verb: Verb, start: Initial, given: Ingredients) -> dict[str, str]:
    """Return what a config stands for here and now."""
    return {
        "verb": verb,
        "data": given.data.fingerprint(),
        "weights": start.weights,
        "network": start.layers,
        "input": repr(given.model.input),
    }


def _signature(cfg: DictConfig, plan: Plan, content: Mapping[str, str]) -> str:
    """Return what two runs share that are the same: their configs, and what these stand for."""
    extra = dict(content)
    if plan.strategy.content:
        extra["freeze"] = plan.strategy.content
    return signature(plain(cfg), extra=extra)


def _plan(cfg: DictConfig, verb: Verb, start: Initial, data: SplittedData) -> tuple[Plan, Attached | None]:
    """Return the plan of the config's strategy over the network, and what the strategy has added to that."""
    strategy = _strategy(cfg, verb, start.parts)
    attached, parts = _attach(start.network, start.parts, strategy, data, seed=cfg.seed)
    steps = steps_per_epoch(cfg.trainer, batches=len(data.train_dataloader()))
    epochs = cfg.trainer.max_epochs if strategy.instead is None else 0
    groups = partition(parts, strategy.grain)
    return Plan(strategy=strategy, stages=parts, groups=groups, epochs=epochs, per_epoch=steps), attached


def steps_per_epoch(trainer: DictConfig, *, batches: int) -> int:
    """Return the optimizer steps of an epoch, as Lightning counts them: what is accumulated is stepped at its end."""
    seen = batches_seen(trainer, "train", batches=batches)
    return max(1, math.ceil(seen / int(trainer.get("accumulate_grad_batches", 1))))


def batches_seen(trainer: DictConfig, split: str, *, batches: int) -> int:
    """Return how many of a split's batches a trainer looks at in each pass."""
    limit = trainer.get(f"limit_{split}_batches")
    return batches if limit is None else min(batches, limit) if isinstance(limit, int) else int(batches * limit)


def _unfilled(carried: Carried | None, head: Stage, given: Ingredients) -> frozenset[str]:
    """Name what no weights filled; a head for other classes counts as drawn."""
    if carried is None:
        brought = given.objective.brings_head(given.model, given.data.class_names)
        return frozenset() if brought else frozenset(head.parameters)
    return carried.unfilled | frozenset(head.parameters if carried.other_classes else ())


def _refuse_a_wrong_plan(
    verb: Verb, cfg: DictConfig, plan: Plan, start: Initial, given: Ingredients, unfilled: frozenset[str]
) -> None:
    """Refuse a plan that the objective, the weights, the batches or what saves memory do not let succeed."""
    mistakes = Mistakes()
    with mistakes.gathered():
        refuse_instead(plan, start.network, given.objective, start.first)
    with mistakes.gathered():
        refuse_random_parts(plan, unfilled)
    with mistakes.gathered():
        refuse_batches_of_one(verb, plan, start.network, given.data)
    with mistakes.gathered():
        refuse_second_passes(verb, cfg, plan, start.network)
    mistakes.refuse()


def _recompute_and_compile(cfg: DictConfig, network: nn.Module, plan: Plan) -> None:
    """Spare memory and time as the config asks."""
    if cfg.activation_checkpointing:
        recompute(plan.stages)
    if cfg.compile is not None:
        network.compile(backend=cfg.compile)


def _unmoving(cfg: DictConfig, plan: Plan, start: Initial) -> dict[str, str]:
    """Return the digests of what no checkpoint need hold.

    All is held where other weights stand in, or other processes take part.
    """
    if cfg.averaging or processes_of(plain(cfg.trainer)) > 1 or not plan.epochs:
        return {}
    stays = plan.never_moves()
    tensors = {name: tensor for name, tensor in start.network.state_dict().items() if name in stays}
    return {name: start.fingerprints.get(plain_name(name)) or digest(each) for name, each in tensors.items()}


def _module(cfg: DictConfig, verb: Verb, network: nn.Module, given: Ingredients, plan: Plan) -> Training:
    data, objective = given.data, given.objective
    common: dict[str, Any] = {
        "groups": plan.groups,
        "optimizer": build(cfg.optimizer, key="optimizer"),
        "scheduler": build(cfg.scheduler, key="scheduler"),
        "classes": data.class_names,
    }
    if verb == "pretrain":
        return Pretraining(network, objective, **common)
    regularizer = build(cfg.regularizer, key="regularizer") if cfg.regularizer else None
    if regularizer is not None:
        batches = data.reference_dataloader
        regularizer.start(Start(network=network, stages=plan.stages, batches=batches, loss=objective.loss))
    return FineTuning(network, objective, regularizer=regularizer, **common)


def learning_rate(cfg: DictConfig) -> float:
    """Return the configured learning rate, before schedule and strategy."""
    return float(effective(plain(cfg))["optimizer"].get("lr", 1.0))
