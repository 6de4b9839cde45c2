"""What a run's record holds besides its metrics: all that is known before training, and what only its end brings."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from frostline import provenance
from frostline.checkpoint import save_weights
from frostline.config.effective import effective, flatten, plain
from frostline.delta import changed, save_delta
from frostline.init_from import WEIGHTS
from frostline.instruments import Instruments
from frostline.nn.adapters import merged
from frostline.nn.weights import CLASSES
from frostline.plan import Plan
from frostline.plan_figure import save_figure
from frostline.prepare import DELTA, Prepared, plan_with_cuts
from frostline.record import RunRecord, Used, masked

REQUESTED = "data.json"
"""The artifact that is written behind all others that are known before training."""


def name_of(tags: Mapping[str, str]) -> str:
    """Return what MLflow lists a run of these tags as: its arm in a study, else its strategy, and its seed.

    A pre-training is listed as such, in a study with the name that it has there.
    """
    if tags["phase"] == "finetune":
        return f"{tags['arm']}-seed{tags['seed']}"
    named = "study" in tags and tags["arm"] != tags["phase"]
    return f"{tags['phase']}-{tags['arm']}" if named else tags["phase"]


def _freeze(cfg: DictConfig) -> str:
    """Return the strategy's name: the file it is written in."""
    return str(cfg.freeze["_target_"]).split(".")[-2] if "freeze" in cfg else "full"


def tags_of(prepared: Prepared) -> dict[str, str]:
    """Return the run's tags, without their prefix."""
    cfg = prepared.cfg
    return {
        "phase": prepared.verb,
        "freeze": _freeze(cfg),
        "arm": _freeze(cfg),
        "seed": str(cfg.seed),
        "signature": prepared.signature,
        "pairing": prepared.pairing,
        "parent_weights": str(cfg.init_from or ""),
        "weights": prepared.weights,
        "data": prepared.data.fingerprint(),
        "mlflow.source.git.commit": provenance.commit(),
    }


def record_request(prepared: Prepared, record: RunRecord) -> None:
    """Keep all that is known before training; what describes the data comes last, and says that the rest is there."""
    tree, data = effective(plain(prepared.cfg)), prepared.data
    record.params(flatten(tree))
    record.text("config.yaml", masked(OmegaConf.to_yaml(OmegaConf.create(tree))))
    record.text("environment.txt", provenance.environment())
    record.text("command.txt", masked(provenance.command()) + "\n")
    record.text("git.diff", provenance.diff())
    _record_plan(prepared, prepared.plan, record)
    if prepared.carried is not None:
        record.text("carried.txt", f"{prepared.carried}\n")
    description = data.describe()
    splits = {
        split: Used(
            name=description["source"],
            digest=profile["drawn"],  # of this split: MLflow takes two inputs of one digest for the same
            source=str(prepared.cfg.data.get("root") or description["source"]),
            profile={"examples": profile["examples"]},
        )
        for split, profile in description["splits"].items()
    }
    record.datasets(splits)
    record.json(REQUESTED, description)


def record_course(prepared: Prepared, instruments: Instruments, record: RunRecord) -> None:
    """Keep what the engine found, what the strategy decided, and the plan as it came to be; why stages ran again."""
    freezing = instruments.freezing
    record.json("audit.json", freezing.audit.findings)
    if instruments.reasons:
        record.json("computed_again.json", instruments.reasons)
    if freezing.plan.decisions or freezing.plan.monitored:
        decisions = [asdict(decision) for decision in freezing.plan.decisions]
        record.json("decisions.json", {"decisions": decisions, "monitored": freezing.plan.monitored})
        _record_plan(prepared, freezing.plan, record)


def _record_plan(prepared: Prepared, plan: Plan, record: RunRecord) -> None:
    record.text("plan.txt", plan_with_cuts(prepared, plan))
    with record.artifact("plan.png") as path:
        save_figure(plan, path)


def record_results(prepared: Prepared, record: RunRecord) -> None:
    """Keep what only a run that came to its end has: weights, tables and predictions."""
    network, metadata = prepared.network, {"signature": prepared.signature}
    if prepared.module.objective.tells_classes_apart:
        metadata[CLASSES] = json.dumps(prepared.module.classes)
    with record.artifact(WEIGHTS) as path:
        save_weights(merged(network) if prepared.attached else network, path, metadata=metadata)
    if prepared.carried is not None and _is_small(delta := changed(network, prepared.fingerprints), network):
        with record.artifact(DELTA) as path:
            save_delta(network, delta, path, attached=prepared.attached, metadata=metadata)
    for name, table in prepared.module.tables.items():
        record.text(f"{name.replace('/', '_')}.csv", _named(table, prepared.data.class_names))
    if prepared.module.predictions:
        record.text("predictions.csv", _predictions(prepared))


def _named(table: Tensor, classes: Sequence[str]) -> str:
    """Return a table of classes by classes as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["", *classes])
    writer.writerows([name, *row] for name, row in zip(classes, table.tolist(), strict=True))
    return text.getvalue()


def _is_small(delta: Mapping[str, Tensor], network: nn.Module) -> bool:
    """Tell whether what changed is less than half of the network, so that a file of its own is worth having."""
    whole = sum(tensor.numel() for tensor in network.state_dict().values())
    return bool(2 * sum(tensor.numel() for tensor in delta.values()) < whole)


def _predictions(prepared: Prepared) -> str:
    """Return the test predictions as CSV, an example a line, in the order of the split."""
    parts = prepared.module.predictions
    columns = {name: [value for part in parts for value in part[name]] for name in parts[0]}
    ids = prepared.data.example_ids("test")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", *columns])
    writer.writerows([ids[row[0]], *row] for row in sorted(zip(*columns.values(), strict=True), key=lambda row: row[0]))
    return text.getvalue()
