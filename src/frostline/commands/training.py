"""`pretrain`, `finetune` and `plan`: one run or a sweep of them, composed and launched by Hydra."""

import sys
from collections.abc import Callable, Set
from tempfile import TemporaryDirectory
from typing import Any

from frostline.commands.arguments import print_end, speaks
from frostline.commands.studies import bill
from frostline.errors import Mistakes, RequestError


def pretrain(arguments: list[str]) -> int:
    """Train a network from the start."""
    return _with_hydra("pretrain", arguments, lambda cfg: _train(cfg, "pretrain"))


def finetune(arguments: list[str]) -> int:
    """Train part of a network on another task."""
    return _with_hydra("finetune", arguments, lambda cfg: _train(cfg, "finetune"))


def plan(arguments: list[str]) -> int:
    """Print what a strategy, or a whole study, would do and take."""
    if arguments and "=" not in arguments[0] and not arguments[0].startswith(("-", "~")):
        return bill(arguments)
    return _with_hydra("finetune", arguments, _show_plan)


def _with_hydra(verb: str, arguments: list[str], job: Callable[[Any], Any]) -> int:
    """Check every run that is asked for, then let Hydra compose and launch them."""
    from frostline.config.compose import compose, expand_sweep, overrides_for_hydra
    from frostline.config.overrides import refuse_groups_given_twice, swept

    flags = [argument for argument in arguments if argument.startswith("-")]
    overrides = [argument for argument in arguments if not argument.startswith("-")]
    sweep = not {"-m", "--multirun"}.isdisjoint(flags)
    if sweep:
        refuse_groups_given_twice(overrides)
    if set(flags) <= {"-m", "--multirun"}:
        mistakes = Mistakes()
        for one in expand_sweep(overrides) if sweep else [overrides]:
            with mistakes.gathered():
                compose(verb, one)
        mistakes.refuse()
    failures: list[tuple[str, Exception]] = []
    guarded = _guarded(job, swept(overrides), failures)
    launch(verb, [*flags, *overrides_for_hydra(verb, overrides)], guarded)
    if failures and sweep:
        runs: dict[str, list[str]] = {}
        for name, error in failures:
            runs.setdefault(str(error), []).append(name)
        told = [f"{', '.join(names)}: {sentence}" for sentence, names in runs.items()]
        print(f"{len(failures)} of the sweep's runs failed:", *told, sep="\n", file=sys.stderr)
        return 2 if all(isinstance(error, RequestError) for _, error in failures) else 1
    if failures:
        raise failures[0][1]
    return 0


def launch(verb: str, arguments: list[str], job: Callable[[Any], Any]) -> None:
    """Hand a command line over to Hydra, in a folder of its own: what it writes, MLflow holds already."""
    import hydra

    from frostline.config.compose import conf_dir, register

    register()
    with TemporaryDirectory() as folder:
        sys.argv = [sys.argv[0], *arguments, f"hydra.sweep.dir={folder}"]
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=verb)(job)()


def _guarded(job: Callable[[Any], Any], keys: Set[str], failures: list[tuple[str, Exception]]) -> Callable[[Any], Any]:
    """Keep a run's failure for the end: the other runs of a sweep go on, and Hydra adds no lines of its own."""

    def run(cfg: Any) -> Any:
        if (name := _name(keys)) and speaks():
            print(f"{name}:", file=sys.stderr)
        try:
            return job(cfg)
        except Exception as error:
            failures.append((name, error))
            return None

    return run


def _name(keys: Set[str]) -> str:
    """Return what tells this run of a sweep from the others, its values of these keys; nothing of a single run."""
    from hydra.core.hydra_config import HydraConfig

    changes = [override.lstrip("+") for override in HydraConfig.get().overrides.task]
    return " ".join(change for change in changes if change.partition("=")[0] in keys)


def _train(cfg: Any, verb: Any) -> float:
    from frostline.memory import look_past_what_is_loaded
    from frostline.modules import headline
    from frostline.prepare import open_store, prepare
    from frostline.run import execute

    store = open_store(cfg)
    look_past_what_is_loaded()
    prepared = prepare(cfg, verb, store)
    if prepared.carried is not None and speaks():
        print(prepared.carried)
    _print_remarks(prepared)
    outcome = execute(prepared, store)
    if speaks():
        print_end(outcome.run_id, outcome.metrics)
    return headline(outcome.metrics)[1]


def _show_plan(cfg: Any) -> None:
    from frostline.calibration import calibrated
    from frostline.forecast import as_text
    from frostline.prepare import open_store, plan_text, prepare

    prepared = prepare(cfg, "finetune", open_store(cfg) if cfg.init_from else None)
    print(plan_text(prepared))
    print(as_text(calibrated(prepared)))
    _print_remarks(prepared)


def _print_remarks(prepared: Any) -> None:
    """Say what a person should know of the data although it is no mistake."""
    for remark in prepared.data.remarks() if speaks() else []:
        print(remark, file=sys.stderr)
