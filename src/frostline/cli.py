"""The command line: verbs, each with Hydra's overrides.

Nothing heavy is imported before the request is known to be right, so that help and mistakes answer at once.
"""

import os
import re
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

from frostline.errors import IntegrityError, RequestError

HELP = """Frostline plans, runs, proves and compares freeze strategies for transfer learning.

  frostline pretrain [overrides]            train a network from the start; its weights are kept for others
  frostline finetune [overrides]            train part of a network on another task
  frostline plan [overrides]                draw what a strategy trains, when and how fast; trains nothing
  frostline study FOLDER [overrides]        run all arms and seeds of FOLDER/study.yaml, then compare them
  frostline resume RUN_ID [fork=true]       go on with an interrupted run, under its id or as a new run
  frostline wise_ft RUN_ID [steps=11]       the path between the weights a run began and ended with
  frostline soup STUDY [arm=NAME]           the mean weights of a study's runs, uniform and greedy
  frostline compare STUDY [out=DIR]         compare a study's recorded runs again, from MLflow alone
  frostline list [GROUP]                    what can be chosen: models, data, strategies, ...

Overrides are Hydra's: `model=resnet20 data=cifar10 data.shots=10 freeze=gradual freeze.every=2 seed=3`.
`-m` runs every combination of `seed=0,1,2 freeze=full,head`. `frostline VERB --help` shows a verb's whole config.
Tab completion: eval "$(frostline -sc install=bash)"

Exit codes: 0 done, 1 the run failed, 2 the request was wrong, 130 interrupted.
"""


def main() -> NoReturn:
    """Run the command line and exit with its code."""
    os.environ["FROSTLINE_COMMAND"] = shlex.join(["frostline", *sys.argv[1:]])
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands errors on instead of printing them
    sys.path.insert(0, str(Path.cwd()))  # a user's own classes, named by `_target_`, as with `python -m`
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = _dispatch(sys.argv[1:])
    except RequestError as error:
        if _is_first():
            print(error, file=sys.stderr)
        code = 2
    except KeyboardInterrupt as interruption:
        print(f"interrupted; {interruption or 'nothing was being trained'}", file=sys.stderr)
        code = 130
    except (FloatingPointError, IntegrityError) as error:  # training went wrong; the record holds the traceback
        print(error, file=sys.stderr)
        code = 1
    except Exception:
        traceback.print_exc()
        code = 1
    sys.exit(code)


def _interrupt(*_: object) -> NoReturn:
    """Treat a polite request to end like Ctrl-C, so that the run's record is closed."""
    raise KeyboardInterrupt


def _dispatch(arguments: Sequence[str]) -> int:
    verb, rest = (arguments[0], list(arguments[1:])) if arguments else ("--help", [])
    if verb in ("--help", "-h", "help"):
        print(HELP, end="")
        return 0
    if verb in ("-sc", "--shell-completion"):
        return _complete(list(arguments))
    if verb not in VERBS:
        from frostline.nearest import did_you_mean

        raise RequestError(f"frostline: no verb '{verb}'; {did_you_mean(verb, VERBS)}")
    if verb not in ("pretrain", "finetune", "plan") and not {"--help", "-h"}.isdisjoint(
        rest
    ):  # Hydra helps with the others
        print(HELP, end="")
        return 0
    return VERBS[verb](rest)


def _pretrain(arguments: list[str]) -> int:
    return _with_hydra("pretrain", arguments, lambda cfg: _train(cfg, "pretrain"))


def _finetune(arguments: list[str]) -> int:
    return _with_hydra("finetune", arguments, lambda cfg: _train(cfg, "finetune"))


def _plan(arguments: list[str]) -> int:
    return _with_hydra("finetune", arguments, _show_plan)


def _with_hydra(verb: str, arguments: list[str], job: Callable[[Any], Any]) -> int:
    """Check every run that is asked for, then let Hydra compose and launch them."""
    from frostline.config.compose import compose, expand_sweep, overrides_for_hydra

    flags = [argument for argument in arguments if argument.startswith("-")]
    overrides = [argument for argument in arguments if not argument.startswith("-")]
    sweep = not {"-m", "--multirun"}.isdisjoint(flags)
    if set(flags) <= {"-m", "--multirun"}:
        for one in expand_sweep(overrides) if sweep else [overrides]:
            compose(verb, one)
    failures: list[Exception] = []
    _launch(verb, [*flags, *overrides_for_hydra(verb, overrides)], _guarded(job, failures))
    if failures and sweep:
        print(f"{len(failures)} of the sweep's runs failed:", *failures, sep="\n", file=sys.stderr)
        return 1
    if failures:
        raise failures[0]
    return 0


def _launch(verb: str, arguments: list[str], job: Callable[[Any], Any]) -> None:
    """Hand a command line over to Hydra, in a folder of its own: what it writes, MLflow holds already."""
    import hydra

    from frostline.config.compose import conf_dir, register

    register()
    with TemporaryDirectory() as folder:
        sys.argv = [sys.argv[0], *arguments, f"hydra.sweep.dir={folder}"]
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=verb)(job)()


def _guarded(job: Callable[[Any], Any], failures: list[Exception]) -> Callable[[Any], Any]:
    """Keep a run's failure for the end: the other runs of a sweep go on, and Hydra adds no lines of its own."""

    def run(cfg: Any) -> Any:
        try:
            return job(cfg)
        except Exception as error:
            failures.append(error)
            return None

    return run


def _train(cfg: Any, verb: Any) -> float:
    from frostline.prepare import open_store, prepare
    from frostline.run import execute, headline

    prepared = prepare(cfg, verb, open_store(cfg))
    if prepared.carried is not None and _is_first():
        print(prepared.carried)
    outcome = execute(prepared, open_store(cfg))
    name, value = headline(outcome.metrics)
    if _is_first():
        print(f"run {outcome.run_id} FINISHED {name}={value:.4f}")
    return value


def _is_first() -> bool:
    """Tell whether this process speaks: under torchrun, one of several does."""
    return os.environ.get("RANK", "0") == "0"


def _show_plan(cfg: Any) -> None:
    from frostline.prepare import open_store, plan_text, prepare

    print(plan_text(prepare(cfg, "finetune", open_store(cfg) if cfg.init_from else None)))


def _resume(arguments: list[str]) -> int:
    run_id, overrides = _first(arguments, "resume", "RUN_ID")
    store, rest = _store_holding(run_id, overrides)
    from frostline.resume import resume

    outcome = resume(store, run_id, [o for o in rest if o != "fork=true"], fork="fork=true" in rest)
    _print_end(outcome.run_id, outcome.metrics)
    return 0


def _wise_ft(arguments: list[str]) -> int:
    run_id, overrides = _first(arguments, "wise_ft", "RUN_ID")
    store, rest = _store_holding(run_id, overrides)
    steps = _one_of(rest, "wise_ft", {"steps": "11"})["steps"]
    if not steps.isdecimal() or int(steps) < 2:
        raise RequestError(f"steps: the path has two ends, so 2 points or more; got {steps}")
    from frostline.wise_ft import wise_ft

    path = wise_ft(store, run_id, steps=int(steps))
    if path.head_held:
        print("the run's head was new: the trained one is held along the path")
    for share, score in path.scores.items():
        print(f"  {share:4.2f}  {path.metric}={score:.4f}{'  chosen' if share == path.chosen else ''}")
    _print_end(path.run_id, path.metrics)
    return 0


def _soup(arguments: list[str]) -> int:
    study, overrides = _first(arguments, "soup", "digits")
    from frostline.config.compose import compose
    from frostline.record import Store, Tracking

    here = [o for o in overrides if o.startswith(("tracking.", "experiment_name="))]
    chosen = _one_of([o for o in overrides if o not in here], "soup", {"arm": ""})
    cfg = compose("finetune", here)
    store = Store.open(Tracking(uri=cfg.tracking.uri), cfg.experiment_name, create=False)
    from frostline.run import headline
    from frostline.soup import soups

    name = Path(study).resolve().name if Path(study).is_dir() else study
    for soup in soups(store, name, arm=chosen["arm"] or None):
        metric, value = headline(soup.test)
        print(f"seed {soup.seed:8} {soup.kind:8} val {soup.val:.4f}  {metric}={value:.4f}  {' '.join(soup.members)}")
    return 0


def _store_holding(run_id: str, overrides: list[str]) -> tuple[Any, list[str]]:
    """Return the store that holds a run, and the overrides that do not say which store that is."""
    from frostline.config.compose import compose
    from frostline.record import Store, Tracking

    here = [o for o in overrides if o.startswith("tracking.")]
    uri = compose("finetune", here).tracking.uri
    return Store.holding(Tracking(uri=uri), run_id), [o for o in overrides if o not in here]


def _one_of(overrides: list[str], verb: str, known: dict[str, str]) -> dict[str, str]:
    """Return a verb's own options, each as given or by default."""
    given = dict(override.partition("=")[::2] for override in overrides)
    if unknown := sorted(given.keys() - known.keys()):
        raise RequestError(f"{unknown[0]}: {verb} takes {', '.join(known)}")
    return known | given


def _print_end(run_id: str, metrics: Any) -> None:
    from frostline.run import headline

    name, value = headline(metrics)
    print(f"run {run_id} FINISHED {name}={value:.4f}")


def _study(arguments: list[str]) -> int:
    folder, overrides = _first(arguments, "study", "experiments/digits")
    if "RANK" in os.environ:
        raise RequestError("study: start it without torchrun; trainer.devices=N starts the processes of each run")
    from frostline.study import Study  # light: a mistake in study.yaml answers before torch is there

    path = Path(folder)
    study = Study.read(path)
    from frostline.display import StudyDisplay
    from frostline.runner import run_study

    with StudyDisplay(runs=len(study.arms) * len(study.seeds) + (study.pretrain is not None)) as display:
        store, run_id, progress = run_study(study, path.resolve().name, overrides, display)
    print(f"{progress.count} runs ({progress.reused} recorded before), {len(progress.failed)} failed")
    if any(progress.runs.values()):
        _compare_in(store, run_id, Path("outputs") / path.resolve().name)
    return 1 if progress.failed else 0


def _compare(arguments: list[str]) -> int:
    named, overrides = _first(arguments, "compare", "experiments/digits")
    from frostline.config.compose import compose
    from frostline.record import Store, Tracking

    name = Path(named).resolve().name if Path(named).is_dir() else named
    out = [o.removeprefix("out=") for o in overrides if o.startswith("out=")]
    cfg = compose("finetune", [o for o in overrides if not o.startswith("out=")])
    store = Store.open(Tracking(uri=cfg.tracking.uri), cfg.experiment_name, create=False)
    _compare_in(store, name, Path(out[-1]) if out else Path("outputs") / name)
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


def _list(arguments: list[str]) -> int:
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


def _first(arguments: list[str], verb: str, example: str) -> tuple[str, list[str]]:
    """Split a verb's own argument from the overrides."""
    if not arguments or "=" in arguments[0]:
        raise RequestError(f"usage: frostline {verb} {example} [overrides]; `frostline --help` tells what it does")
    return arguments[0], arguments[1:]


def _complete(arguments: list[str]) -> int:
    """Complete the verb ourselves and everything after it as Hydra does."""
    line = os.environ.get("COMP_LINE", "")
    words = re.split(r"\s+", line.strip())
    if "query=bash" in arguments and (len(words) < 2 or (len(words) == 2 and not line.endswith(" "))):
        print(" ".join(VERBS))
        return 0
    verb = words[1] if len(words) > 1 and words[1] in ("pretrain", "finetune", "plan") else "finetune"
    os.environ["COMP_LINE"] = line.replace(f" {verb}", "", 1)
    _launch("finetune" if verb == "plan" else verb, arguments, lambda cfg: None)
    return 0


VERBS: dict[str, Callable[[list[str]], int]] = {
    "pretrain": _pretrain,
    "finetune": _finetune,
    "plan": _plan,
    "study": _study,
    "resume": _resume,
    "wise_ft": _wise_ft,
    "soup": _soup,
    "compare": _compare,
    "list": _list,
}
