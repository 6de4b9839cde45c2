"""What a class or function takes."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar

from pydantic_core import core_schema


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


class Nested:
    """The type of a mapping that holds the arguments of the class at `path`."""

    path: ClassVar[str]

    @classmethod
    def __get_pydantic_core_schema__(cls, *_: Any) -> core_schema.CoreSchema:
        """Let any mapping pass: its keys and values are compared with the signature of the class."""
        return core_schema.dict_schema()


def nested(path: str) -> type[Nested]:
    """Return the type of a mapping that holds the arguments of the class at this path."""
    return type(path.rpartition(".")[2], (Nested,), {"path": path})
