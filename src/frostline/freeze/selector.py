"""How a schedule names parameters: by stage, by role, by both, or by a pattern that a whole name must match."""

import re

from frostline.depth import Outline, Place
from frostline.nearest import did_you_mean, nearest

ALL = "all"
PATTERN = "re:"
ROLE = "role:"


def selects(selector: str, place: Place) -> bool:
    """Tell whether a selector takes what is in this place.

    Args:
        selector: `all`, a stage such as `body2`, a stage's role such as `body2.norm`, a role such as `role:norm`, or
            `re:` with a regular expression that matches a parameter's name from its first letter to its last.
        place: One tensor.
    """
    if selector.startswith(PATTERN):
        return re.fullmatch(selector.removeprefix(PATTERN), place.name) is not None
    if selector.startswith(ROLE):
        return selector.removeprefix(ROLE) == place.role
    return selector in (ALL, place.stage.name, f"{place.stage.name}.{place.role}")


def problem_of(selector: str, outline: Outline) -> str | None:
    """Return the sentence about a selector that takes nothing of a network; None where it takes something."""
    if selector.startswith(PATTERN):
        return _problem_of_pattern(selector.removeprefix(PATTERN), [place.name for place in outline.places])
    if selector == ALL or any(selects(selector, place) for place in outline.places):
        return None
    if selector.startswith(ROLE):
        role = selector.removeprefix(ROLE)
        return f"no parameter has the role '{role}'; {did_you_mean(role, {place.role for place in outline.places})}"
    return _problem_of_stage(selector, outline)


def _problem_of_pattern(pattern: str, names: list[str]) -> str | None:
    try:
        expression = re.compile(pattern)
    except re.error as error:
        return f"'{PATTERN}{pattern}' is no regular expression: {error}"
    if any(expression.fullmatch(name) for name in names):
        return None
    if any(expression.match(name) for name in names):
        return f"'{PATTERN}{pattern}' matches no whole name; for all that begins so write '{PATTERN}{pattern}.*'"
    plain = re.sub(r"\(\?:.*?\)\?|\\", "", pattern)  # as the name that it was meant to be
    meant = nearest(plain, names)
    return f"'{PATTERN}{pattern}' matches no parameter" + (f"; the nearest is '{meant}'" if meant else "")


def _problem_of_stage(selector: str, outline: Outline) -> str:
    if any(place.name == selector for place in outline.places):
        return f"'{selector}' is a parameter, not a stage; write '{PATTERN}{re.escape(selector)}'"
    stage, _, role = selector.partition(".")
    names = [other.name for other in outline.stages]
    if stage not in names:
        return f"the network has no stage '{stage}'; {did_you_mean(stage, names)}"
    roles = {place.role for place in outline.places if place.stage.name == stage}
    return f"the stage '{stage}' has no role '{role}'; {did_you_mean(role, roles)}"
