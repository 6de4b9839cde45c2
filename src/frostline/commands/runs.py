"""`resume`, `wise_ft` and `soup`: recorded runs taken up again."""

from pathlib import Path
from typing import Any

from frostline.commands.arguments import first_argument, options_of, print_end
from frostline.errors import RequestError


def resume(arguments: list[str]) -> int:
    """Go on with an interrupted run."""
    run_id, overrides = first_argument(arguments, "resume", "RUN_ID")
    forks = [o for o in overrides if o.startswith("fork=")]
    if unknown := set(forks) - {"fork=true", "fork=false"}:
        raise RequestError(f"fork: is true or false, not {unknown.pop().removeprefix('fork=')}")
    store, rest = _store_holding(run_id, [o for o in overrides if o not in forks])
    from frostline.interrupted import interrupted

    fork = "fork=true" in forks
    run = interrupted(store, run_id, fork=fork)
    from frostline.resume import resume

    outcome = resume(store, run, rest, fork=fork)
    print_end(outcome.run_id, outcome.metrics)
    return 0


def wise_ft(arguments: list[str]) -> int:
    """Score the path between the weights that a run began and ended with."""
    run_id, overrides = first_argument(arguments, "wise_ft", "RUN_ID")
    store, rest = _store_holding(run_id, overrides)
    steps = options_of(rest, "wise_ft", {"steps": "11"})["steps"]
    if not steps.isdecimal():
        raise RequestError(f"steps: is a number of points, not {steps}")
    from frostline.wise_ft import wise_ft

    path = wise_ft(store, run_id, steps=int(steps))
    if path.head_held:
        print("the run's head was new: the trained one is held along the path")
    for share, score in path.scores.items():
        print(f"  {share:4.2f}  {path.metric}={score:.4f}{'  chosen' if share == path.chosen else ''}")
    print_end(path.run_id, path.metrics)
    return 0


def soup(arguments: list[str]) -> int:
    """Average the weights of a study's runs."""
    study, overrides = first_argument(arguments, "soup", "digits")
    from frostline.config.compose import compose
    from frostline.record import Tracking
    from frostline.store import Store

    here = [o for o in overrides if o.startswith(("tracking.", "experiment_name="))]
    chosen = options_of([o for o in overrides if o not in here], "soup", {"arm": ""})
    cfg = compose("finetune", here)
    store = Store.open(Tracking(uri=cfg.tracking.uri), cfg.experiment_name, create=False)
    from frostline.modules import headline
    from frostline.soup import soups

    name = Path(study).resolve().name if Path(study).is_dir() else study
    for soup in soups(store, name, arm=chosen["arm"] or None):
        metric, value = headline(soup.test)
        print(f"seed {soup.seed:8} {soup.kind:8} val {soup.val:.4f}  {metric}={value:.4f}  {' '.join(soup.members)}")
    return 0


def _store_holding(run_id: str, overrides: list[str]) -> tuple[Any, list[str]]:
    """Return the store that holds a run, and the overrides that do not say which store that is."""
    from frostline.config.compose import compose
    from frostline.record import Tracking
    from frostline.store import Store

    here = [o for o in overrides if o.startswith("tracking.")]
    uri = compose("finetune", here).tracking.uri
    return Store.holding(Tracking(uri=uri), run_id), [o for o in overrides if o not in here]
