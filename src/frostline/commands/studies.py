"""`study`, `compare` and `list`: questions, their answers, and what they can be asked about."""

import os
import sys
from pathlib import Path
from typing import Any

from frostline.commands.arguments import first_argument
from frostline.errors import RequestError, counted, goes_on_by


def study(arguments: list[str]) -> int:
    """Run all arms and seeds of a study, then compare them."""
    folder, overrides = first_argument(arguments, "study", "experiments/digits")
    if "RANK" in os.environ:
        raise RequestError("study: start it without torchrun; trainer.devices=N starts the processes of each run")
    from frostline.study import Study  # light: a mistake in study.yaml answers before torch is there

    study, name = Study.read(Path(folder)), Path(folder).resolve().name
    from frostline.study_configs import composed  # as light

    asked = composed(study, name, overrides)
    from frostline.display import StudyDisplay
    from frostline.runner import run_study

    runs = len(study.arms) * len(study.seeds) + len(study.pretrainings)
    with goes_on_by("study", *arguments), StudyDisplay(runs=runs) as display:
        store, run_id, progress = run_study(asked, display)
    print(f"{counted(progress.count, 'run')} ({progress.reused} recorded before), {len(progress.failed)} failed")
    if any(progress.runs.values()):
        _compare_in(store, run_id, Path("outputs") / name)
    return 1 if progress.failed else 0


def bill(arguments: list[str]) -> int:
    """Print what is left to run of a study, and what that takes."""
    folder, overrides = first_argument(arguments, "plan", "experiments/digits")
    from frostline.study import Study

    study, name = Study.read(Path(folder)), Path(folder).resolve().name
    from frostline.study_configs import composed

    asked = composed(study, name, overrides)
    from frostline.bill import as_text, items_of

    print(as_text(name, list(items_of(asked))), end="")
    return 0


def compare(arguments: list[str]) -> int:
    """Compare a study's recorded runs again."""
    named, overrides = first_argument(arguments, "compare", "experiments/digits")
    from frostline.config.compose import compose
    from frostline.record import Tracking
    from frostline.store import Store

    name = Path(named).resolve().name if Path(named).is_dir() else named
    out = [o.removeprefix("out=") for o in overrides if o.startswith("out=")]
    cfg = compose("finetune", [o for o in overrides if not o.startswith("out=")])
    store = Store.open(Tracking(uri=cfg.tracking.uri), cfg.experiment_name, create=False)
    _compare_in(store, name, Path(out[-1]) if out else Path("outputs") / name)
    return 0


def choices(arguments: list[str]) -> int:
    """Print what can be chosen."""
    from rich.table import Table

    from frostline.config.compose import groups, options, summary
    from frostline.nearest import did_you_mean

    for name in arguments:
        if name not in groups():
            raise RequestError(f"list: no group '{name}'; {did_you_mean(name, groups())}")
    table = Table(box=None, pad_edge=False)
    for column in ("choice", "what it is"):
        table.add_column(column)
    for group in arguments or groups():
        for option in options(group):
            table.add_row(f"{group}={option}", summary(group, option))
    _console(narrowest=200).print(table)
    return 0


def _compare_in(store: Any, study: str, out: Path) -> None:
    """Print a study's comparison and write it to a folder."""
    from frostline.compare.comparison import compare
    from frostline.compare.publish import publish
    from frostline.compare.recorded import recorded
    from frostline.compare.table import rich_table

    found = recorded(store, study)
    comparison = compare(found.question, found.runs)
    console = _console(narrowest=110)
    console.print(rich_table(comparison))
    for line in [comparison.verdict, *comparison.problems]:
        console.print(line, markup=False, highlight=False)
    paths = publish(comparison, found.runs, out, footer=found.footer)
    print("written: " + " ".join(str(path) for path in paths))
    print(f"every run, its plan and its audit: mlflow ui --backend-store-uri {store.address}")


def _console(*, narrowest: int) -> Any:
    """Return a terminal to print tables on; a file has no width of its own."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else narrowest)
