"""What the verbs share: their own arguments, and the line that they end with."""

import os
from collections.abc import Mapping

from frostline.errors import RequestError


def first_argument(arguments: list[str], verb: str, example: str) -> tuple[str, list[str]]:
    """Split a verb's own argument from the overrides."""
    if not arguments or "=" in arguments[0]:
        raise RequestError(f"usage: frostline {verb} {example} [overrides]; `frostline --help` tells what it does")
    return arguments[0], arguments[1:]


def options_of(overrides: list[str], verb: str, known: dict[str, str]) -> dict[str, str]:
    """Return a verb's own options, each as given or by default."""
    given = dict(override.partition("=")[::2] for override in overrides)
    if unknown := sorted(given.keys() - known.keys()):
        raise RequestError(f"{unknown[0]}: {verb} takes {', '.join(known)}")
    return known | given


def print_end(run_id: str, metrics: Mapping[str, float]) -> None:
    """Print the line that scripts read: the run, and what it scored."""
    from frostline.modules import headline

    name, value = headline(metrics)
    print(f"run {run_id} FINISHED {name}={value:.4f}")


def speaks() -> bool:
    """Tell whether this process speaks: under torchrun, one of several does."""
    return os.environ.get("RANK", "0") == "0"
