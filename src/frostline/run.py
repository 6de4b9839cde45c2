"""One run, from a checked config to a closed record, in the order in which things happen."""

import csv
import hashlib
import io
import logging
import re
import shutil
import signal
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, ListConfig, OmegaConf
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from torch import Tensor, nn

from frostline import provenance
from frostline.checkpoint import Carried, carry, read_weights, save_weights, weights_hash
from frostline.config.build import as_request, build
from frostline.config.effective import effective, flatten, signature
from frostline.cost import Meter
from frostline.data.images import ImageData
from frostline.engine import Freezing, digest
from frostline.errors import ConfigError, RequestError
from frostline.freeze.full import Full
from frostline.freeze.strategy import Strategy
from frostline.modules import FineTuning, Pretraining, Training
from frostline.nn.stages import Stage, stages
from frostline.optim.partition import optimizer_over, partition
from frostline.plan import Plan, as_text
from frostline.plan_figure import save_figure
from frostline.record import RunRecord, Store, Tracking, masked
from frostline.run_logger import RunLogger
from frostline.seeds import stream

Verb = Literal["pretrain", "finetune"]
WEIGHTS = "weights.safetensors"
REMARKS = (
    ".*does not have many workers.*",  # small data are loaded faster without
    ".*smaller than the logging interval.*",  # metrics are logged by the epoch
    ".*in eval mode at the start of training.*",  # the engine sets every mode
    ".*LeafSpec.*",  # Lightning's own use of a deprecated name of torch
)
"""Lightning's remarks, as patterns, on what is chosen on purpose."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A run that is ready to train: everything that can be wrong with the request has been found."""

    verb: Verb
    cfg: DictConfig
    data: ImageData
    module: Training
    plan: Plan
    carried: Carried | None
    signature: str
    pairing: str

    @property
    def network(self) -> nn.Module:
        """The network, with the carried weights in."""
        return self.module.network


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a finished run came to."""

    run_id: str
    metrics: Mapping[str, float]


def open_store(cfg: DictConfig) -> Store:
    """Connect to the MLflow experiment that the config names."""
    return Store.open(tracking_of(cfg), cfg.experiment_name)


def tracking_of(cfg: DictConfig) -> Tracking:
    """Return where the config says that runs are logged."""
    tracking = build(cfg.tracking)
    assert isinstance(tracking, Tracking)
    return tracking


def prepare(cfg: DictConfig, verb: Verb, store: Store | None = None) -> Prepared:
    """Build all that a run needs and find what is wrong with the request, before anything is recorded or trained.

    Args:
        cfg: A checked config.
        verb: Which objective is minimised.
        store: Where `init_from` looks for a run's weights.

    Raises:
        RequestError: Data, weights, strategy and network do not go together; the sentence says how.
    """
    _refuse_many_processes(cfg)
    torch.manual_seed(stream(cfg.seed, "init"))
    data, model = build(cfg.data), build(cfg.model)
    data.expect(model.input)
    data.prepare_data()
    data.setup()
    network = model.network(len(data.classes))
    parts = stages(network, example=next(iter(data.val_dataloader())).inputs[:2])
    pairing = _pairing(data, parts[-1])
    weights = _weights(cfg.init_from, store)
    carried = _carry(network, weights, parts[-1], cfg.min_coverage)
    plan = _plan(cfg, verb, parts)
    _refuse_random_parts(plan, parts[-1], carried)
    extra = {"data": data.fingerprint(), "weights": weights_hash(weights) if weights else "", "verb": verb}
    return Prepared(
        verb=verb,
        cfg=cfg,
        data=data,
        module=_module(cfg, verb, network, plan, len(data.classes)),
        plan=plan,
        carried=carried,
        signature=signature(_plain(cfg), extra=extra),
        pairing=pairing,
    )


def execute(
    prepared: Prepared,
    store: Store,
    *,
    tags: Mapping[str, str] | None = None,
    parent: str | None = None,
    callbacks: Sequence[Callback] = (),
) -> Outcome:
    """Train, audit, test and record a prepared run.

    Args:
        prepared: What `prepare` returned; it is used up.
        store: Where the record goes.
        tags: More tags of the record, without their prefix.
        parent: Id of the study's run.
        callbacks: Lightning callbacks besides the run's own.

    Raises:
        IntegrityError: Something frozen has changed.
        KeyboardInterrupt: A person interrupted; the record is closed as KILLED.
    """
    with store.record(_name(prepared), tags=_tags(prepared) | dict(tags or {}), parent=parent) as record, _quiet():
        _record_request(prepared, record)
        freezing, meter = Freezing(prepared.network, prepared.plan), Meter(prepared.plan)
        folder = Path("outputs") / record.run_id
        try:
            measured = _train_and_test(prepared, record, folder, [freezing, meter, *callbacks])
        finally:
            results = meter.metrics() | {"audit/frozen_intact": float(freezing.intact)}
            record.metrics(results, step=prepared.module.global_step)
            record.json("audit.json", freezing.audits)
            _keep_checkpoint(record, folder)
        _record_results(prepared, record)
    return Outcome(run_id=record.run_id, metrics=measured | results)


def headline(metrics: Mapping[str, float]) -> tuple[str, float]:
    """Return the name and the value of the test metric that is reported first."""
    return next((k, v) for k, v in metrics.items() if k.startswith("test/") and k != "test/loss")


def plan_text(prepared: Prepared) -> str:
    """Return what `frostline plan` prints: the plan, and which weights were carried in."""
    text = as_text(prepared.plan, lr=_rate(prepared.cfg))
    return text if prepared.carried is None else f"{text}\n{prepared.carried}\n"


def _train_and_test(
    prepared: Prepared, record: RunRecord, folder: Path, callbacks: Sequence[Callback]
) -> dict[str, float]:
    cfg, best = prepared.cfg, _checkpoint(folder)
    stopping = [build(cfg.stopping, key="stopping")] if cfg.stopping else []
    trainer = build(
        cfg.trainer, key="trainer", logger=RunLogger(record), callbacks=[*callbacks, best, *stopping], **_display(cfg)
    )
    pl.seed_everything(stream(cfg.seed, "train"), workers=True, verbose=False)
    with _interruptible():
        trainer.fit(prepared.module, datamodule=prepared.data)
        _take_best(prepared.module, best)
        return dict(trainer.test(prepared.module, datamodule=prepared.data, verbose=False)[0])


def _checkpoint(folder: Path) -> ModelCheckpoint:
    """Keep the epoch of the lowest validation loss, to be tested, and the last, to be resumed."""
    return ModelCheckpoint(folder, "best", monitor="val/loss", save_last=True, enable_version_counter=False)


def _take_best(module: Training, best: ModelCheckpoint) -> None:
    """Load the weights that validation chose; a run that trained nothing keeps the carried ones."""
    if best.best_model_path:
        module.load_state_dict(torch.load(best.best_model_path, map_location="cpu", weights_only=True)["state_dict"])


def _keep_checkpoint(record: RunRecord, folder: Path) -> None:
    if (last := folder / "last.ckpt").exists():
        with record.artifact("checkpoints/last.ckpt") as path:
            shutil.move(last, path)
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        folder.parent.rmdir()  # only if nothing else is there


def _display(cfg: DictConfig) -> dict[str, bool]:
    """Show a progress bar to a person, none to a file, unless the config says which."""
    return {} if cfg.trainer.get("enable_progress_bar") is not None else {"enable_progress_bar": sys.stderr.isatty()}


def _record_request(prepared: Prepared, record: RunRecord) -> None:
    """Keep all that is known before training."""
    tree, data = effective(_plain(prepared.cfg)), prepared.data
    record.params(flatten(tree))
    record.text("config.yaml", masked(OmegaConf.to_yaml(OmegaConf.create(tree))))
    record.text("environment.txt", provenance.environment())
    record.text("command.txt", masked(provenance.command()) + "\n")
    record.text("git.diff", provenance.diff())
    record.json("data.json", description := data.describe())
    record.text("plan.txt", as_text(prepared.plan, lr=_rate(prepared.cfg)))
    with record.artifact("plan.png") as path:
        save_figure(prepared.plan, path)
    if prepared.carried is not None:
        record.text("carried.txt", f"{prepared.carried}\n")
    for split, profile in description["splits"].items():
        record.dataset(
            name=description["source"],
            digest=description["fingerprint"],
            source=str(prepared.cfg.data.get("root") or description["source"]),
            context=split,
            profile={"examples": profile["examples"]},
        )


def _record_results(prepared: Prepared, record: RunRecord) -> None:
    """Keep what only a run that came to its end has: weights and predictions."""
    with record.artifact(WEIGHTS) as path:
        save_weights(prepared.network, path, metadata={"signature": prepared.signature})
    record.text("predictions.csv", _predictions(prepared))


def _predictions(prepared: Prepared) -> str:
    """Return the test predictions as CSV, an example a line, in the order of the split."""
    parts = prepared.module.predictions
    columns = {name: torch.cat([part[name] for part in parts]).tolist() for name in parts[0]}
    ids = prepared.data.example_ids("test")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", *columns])
    writer.writerows([ids[row[0]], *row] for row in sorted(zip(*columns.values(), strict=True)))
    return text.getvalue()


def _name(prepared: Prepared) -> str:
    return f"{_freeze(prepared.cfg)}-seed{prepared.cfg.seed}" if prepared.verb == "finetune" else "pretrain"


def _freeze(cfg: DictConfig) -> str:
    """Return the strategy's name: the file it is written in."""
    return str(cfg.freeze["_target_"]).split(".")[-2] if "freeze" in cfg else "full"


def _tags(prepared: Prepared) -> dict[str, str]:
    cfg = prepared.cfg
    return {
        "phase": prepared.verb,
        "freeze": _freeze(cfg),
        "arm": _freeze(cfg),
        "seed": str(cfg.seed),
        "signature": prepared.signature,
        "pairing": prepared.pairing,
        "parent_weights": str(cfg.init_from or ""),
        "data": prepared.data.fingerprint(),
        "mlflow.source.git.commit": provenance.commit(),
    }


def _weights(init_from: str | None, store: Store | None) -> dict[str, Tensor] | None:
    if init_from is None:
        return None
    if re.fullmatch(r"[0-9a-f]{32}", init_from) and store is not None:
        return read_weights(store.fetch(init_from, WEIGHTS))
    return read_weights(init_from)


def _carry(network: nn.Module, weights: Mapping[str, Tensor] | None, head: Stage, least: float) -> Carried | None:
    if weights is None:
        return None
    return carry(network, weights, head=[*head.parameters, *head.buffers], min_coverage=least)


def _plan(cfg: DictConfig, verb: Verb, parts: Sequence[Stage]) -> Plan:
    strategy: Strategy = build(cfg.freeze, key="freeze") if verb == "finetune" else Full()
    if problems := strategy.problems([part.depth for part in parts]):
        raise ConfigError(problems)
    return Plan(strategy=strategy, stages=parts, groups=partition(parts), epochs=cfg.trainer.max_epochs)


def _refuse_many_processes(cfg: DictConfig) -> None:
    devices, nodes = cfg.trainer.get("devices", 1), cfg.trainer.get("num_nodes", 1)
    if nodes != 1 or (len(devices) if isinstance(devices, ListConfig) else devices) not in (1, "1"):
        raise RequestError(
            f"trainer.devices: this version trains in one process, on one device; got {devices} on {nodes} node(s)"
        )


def _refuse_random_parts(plan: Plan, head: Stage, carried: Carried | None) -> None:
    """Refuse a strategy that would leave a new head as it was drawn."""
    if carried is None or plan.epochs == 0:
        return
    new = {*carried.missing, *(name for name, *_ in carried.reshaped)} & head.parameters.keys()
    if stuck := sorted(new & plan.never_trained()):
        raise RequestError(
            f"freeze: the head is new ({', '.join(stuck)}) and {type(plan.strategy).__name__} never trains it; "
            "add 'head' to freeze.stages, or choose a strategy that trains the head"
        )


def _module(cfg: DictConfig, verb: Verb, network: nn.Module, plan: Plan, classes: int) -> Training:
    common: dict[str, Any] = {
        "groups": plan.groups,
        "optimizer": build(cfg.optimizer, key="optimizer"),
        "scheduler": build(cfg.scheduler, key="scheduler"),
        "classes": classes,
    }
    with as_request("optimizer"):
        optimizer_over(plan.groups, common["optimizer"])  # its own checks of ranges, before anything trains
    objective = build(cfg.objective, key="objective")
    if verb == "pretrain":
        return Pretraining(network, objective, **common)
    regularizer = build(cfg.regularizer, key="regularizer") if cfg.regularizer else None
    if regularizer is not None:
        regularizer.start(plan.stages)
    return FineTuning(network, objective, regularizer=regularizer, **common)


def _pairing(data: ImageData, head: Stage) -> str:
    """Hash what every arm of a comparison must share: the first training batch, and the head as it was drawn."""
    first = next(iter(data.train_dataloader()))
    tensors = [first.inputs, first.targets, first.places, *head.parameters.values()]
    return hashlib.blake2b("".join(digest(t) for t in tensors).encode(), digest_size=16).hexdigest()


def _rate(cfg: DictConfig) -> float:
    return float(effective(_plain(cfg))["optimizer"].get("lr", 1.0))


def _plain(cfg: DictConfig) -> dict[str, Any]:
    tree = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(tree, dict)
    return {str(key): value for key, value in tree.items()}


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what Lightning says of choices that were made on purpose."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        for remark in REMARKS:
            warnings.filterwarnings("ignore", remark)
        yield


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C through: Lightning turns it into an exit with code 1 and stops listening to further ones."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            signal.signal(signal.SIGINT, handler)
            raise KeyboardInterrupt from None
        raise
