"""Classes and functions to be named by the configs of these tests: every way in which a signature can be written."""

import dataclasses
import typing as t
from abc import ABC
from collections.abc import Callable, Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, Literal, NamedTuple, Optional, TypeVar, Union

import annotated_types
from annotated_types import Ge, Gt, Le, MinLen

from frostline.config.skeleton import Fraction as Share

if TYPE_CHECKING:
    from nowhere import Tensor

T = TypeVar("T")
Positive = Annotated[int, Gt(0)]
Mode: t.TypeAlias = Literal["eval", "train"]
WIDTH = 64
SIZES = (8, 16)


class Plain:
    """Take a few arguments."""

    def __init__(self, width: int, *, rate: float = 0.1, mode: Mode = "eval", name: str | None = None) -> None:
        self.given = (width, rate, mode, name)


class Child(Plain):
    pass


class Open:
    def __init__(self, width: int, **more: float) -> None:
        self.given = (width, more)


class Nothing:
    pass


class Abstract(ABC, Generic[T]):
    pass


@dataclass(frozen=True, kw_only=True)
class Base:
    first: Positive
    second: Annotated[float, Ge(0), Le(1)] = 0.5


@dataclass(frozen=True, kw_only=True)
class Derived(Base):
    """Add fields."""

    kind: ClassVar[str] = "derived"
    third: Mapping[str, int] = field(default_factory=dict)
    fourth: Literal[1, 2] = field(default=1)
    hidden: int = field(default=0, init=False)
    second: Annotated[float, Ge(0), Le(1)] = 0.25
    seed: InitVar[int] = 3


@dataclasses.dataclass
class Qualified:
    path: Path
    items: "Annotated[Sequence[str], MinLen(1)]"
    either: Union[int, Literal["auto"]] = "auto"  # noqa: UP007
    maybe: Optional[Positive] = None  # noqa: UP045
    width: int = WIDTH
    sizes: tuple[int, int] = SIZES
    share: Share = 0.5
    even: Annotated[int, annotated_types.MultipleOf(2)] = 2


class Pair(NamedTuple):
    left: int
    right: str = "r"


class Made:
    def __new__(cls, size: int) -> "Made":
        return super().__new__(cls)


class Unreadable:
    def __init__(
        self,
        *,
        tensor: "Tensor",
        number: "float | Tensor" = 1.0,
        maybe: "Tensor | None" = None,
        several: "list[Tensor]" = [],  # noqa: B006
        call: Callable[[int], int] = abs,
        anything=None,
    ) -> None:
        self.given = (tensor, number, maybe, several, call, anything)


def function(optimizer: Any, /, total: int, *, warmup: Share = 0.0) -> tuple[Any, int, float]:
    """Give back what came."""
    return optimizer, total, warmup


def refuse(*, rate: float = 0.0) -> None:
    raise ValueError(f"rate {rate} will not do")


def broken() -> None:
    raise RuntimeError("a fault of the program")


Alias = Plain
Late = type("Late", (Plain,), {})
