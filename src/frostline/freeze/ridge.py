"""The head is solved in closed form on fixed features, for many strengths of the penalty at once."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Ge

from frostline.depth import Depth, Outline, Role
from frostline.freeze.strategy import FreezeStrategy, Progress, Solution


@dataclass(frozen=True, kw_only=True)
class Ridge(FreezeStrategy):
    """Solve the head by ridge regression on the classes, one-hot (Hoerl and Kennard 1970, Technometrics 12(1)).

    The probe without a learning rate: one pass over the training split, one factorisation of the features, from which
    come the heads of all strengths; the first metric of val chooses among them, and of equal ones the strongest. The
    head must be one linear layer. Loss, optimizer, schedule and epochs play no part.

    Attributes:
        strengths: What the sum of squared weights is multiplied by, beside the sum of squared errors; 0 is least
            squares.

    >>> from frostline.freeze.drawing import draw
    >>> print(draw(Ridge(), epochs=6))
    epoch 012345
    stem  ......
    body  ......
    head  ######
    """

    strengths: Sequence[Annotated[float, Ge(0)]] = field(
        default_factory=lambda: [0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0]
    )

    @property
    def instead(self) -> Solution:
        """The strengths."""
        return Solution(strengths=tuple(self.strengths))

    def scale(self, stage: Depth, role: Role, progress: Progress) -> float:
        """Return 1 for the head, 0 for what lies below it."""
        return float(stage.from_head == 0)

    def problems(self, outline: Outline, epochs: int) -> list[str]:
        """Refuse to choose among none."""
        return [] if self.strengths else ["freeze.strengths: name at least one; 1.0 is a usual one"]
