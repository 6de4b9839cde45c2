"""What a class or function takes."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any


class Default(Enum):
    """What stands in place of a default that is not a value."""

    REQUIRED = "required"
    UNREAD = "unread"


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One argument: the type of its values, and its default."""

    hint: Any = Any
    default: object = Default.REQUIRED

    @property
    def required(self) -> bool:
        """Whether a call must give it."""
        return self.default is Default.REQUIRED


@dataclass(frozen=True, kw_only=True)
class Signature:
    """What a class or function takes.

    Attributes:
        name: Its name, without the module.
        parameters: Its arguments by name, in order.
        open: Whether it takes arguments of any other name too.
        summary: The first line of its docstring.
    """

    name: str
    parameters: Mapping[str, Parameter]
    open: bool = False
    summary: str = ""
