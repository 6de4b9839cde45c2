"""A study as MLflow has it: what was asked, and what its runs measured."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from frostline.compare.question import Measured, Question
from frostline.errors import RequestError
from frostline.store import Run, Store


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """A study read back.

    Attributes:
        question: What was asked.
        runs: Its finished runs.
        footer: Lines that tell how it came about: command, commit, hardware.
    """

    question: Question
    runs: list[Measured]
    footer: list[str]


def recorded(store: Store, study: str) -> Recorded:
    """Read a study from MLflow alone.

    Args:
        store: Where it was logged.
        study: The study's name, or the id of its run.

    Raises:
        RequestError: MLflow has no such study, or nothing of it has finished.
    """
    manifest = _manifest(store, _run_id(store, study))
    if not (entries := _runs(manifest)):
        raise RequestError(f"study '{study}': none of its runs has finished; run `frostline study` first")
    question = Question(
        name=manifest["name"],
        question=manifest["question"],
        metric=manifest["metric"],
        arms=tuple(manifest["arms"]),
        seeds=tuple(manifest["seeds"]),
        reference=manifest["reference"],
        higher_is_better=manifest["higher_is_better"],
        margin=manifest["margin"],
        confidence=manifest["confidence"],
    )
    runs = [_measured(store.run(run), arm, int(seed), question.metric) for arm, seed, run in entries]
    return Recorded(question=question, runs=runs, footer=_footer(store, runs))


def _manifest(store: Store, run_id: str) -> dict[str, Any]:
    """Return what the study asked and which runs answered; a study that was broken off at its start has no runs."""
    try:
        manifest: dict[str, Any] = json.loads(store.read(run_id, "study.json"))
    except RequestError:
        return {"runs": {}}
    return manifest


def _runs(manifest: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    return [(arm, seed, run) for arm, seeds in manifest["runs"].items() for seed, run in seeds.items()]


def _run_id(store: Store, study: str) -> str:
    found = store.runs(phase="study", study=study) or [r for r in store.runs(phase="study") if r.info.run_id == study]
    if not found:
        known = sorted({run.data.tags["frostline.study"] for run in store.runs(phase="study")})
        raise RequestError(f"study '{study}': MLflow has none of this name; it has {', '.join(known) or 'none'}")
    return str(found[0].info.run_id)


def _measured(run: Run, arm: str, seed: int, metric: str) -> Measured:
    metrics = run.data.metrics
    intact = metrics.get("audit/frozen_intact")
    return Measured(
        arm=arm,
        seed=seed,
        score=metrics.get(metric, math.nan),
        pairing=run.data.tags.get("frostline.pairing", ""),
        cost={name.removeprefix("cost/"): value for name, value in metrics.items() if name.startswith("cost/")},
        frozen_intact=None if intact is None else intact == 1.0,
        run_id=run.info.run_id,
    )


def _footer(store: Store, runs: list[Measured]) -> list[str]:
    """Return command, commit and hardware of the newest run; of several commits, all."""
    if not runs:
        return []
    newest = runs[-1].run_id
    tags = [store.run(run.run_id).data.tags for run in runs]
    commits = sorted({tag.get("mlflow.source.git.commit", "unknown") for tag in tags})
    hardware = next(
        line.partition(" ")[2] for line in store.read(newest, "environment.txt").splitlines() if "processor" in line
    )
    command = store.read(newest, "command.txt").strip()
    return [f"Command: `{command}`", f"Commit: {', '.join(commits)}", f"Hardware: {hardware}"]
