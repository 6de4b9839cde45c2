"""The head, then each stage alone, then everything."""

from dataclasses import dataclass

from frostline.depth import Depth, Outline, Role
from frostline.freeze.strategy import FreezeStrategy, Progress


@dataclass(frozen=True, kw_only=True)
class ChainThaw(FreezeStrategy):
    """Train the head, then each stage alone from the first to the last, then all (DeepMoji, arXiv:1708.00524).

    As published each part runs until validation stops improving; here the parts share the run's epochs equally, so
    that the comparison with `full` is fair, and what does not divide goes to the last part.

    >>> from frostline.freeze.drawing import draw
    >>> print(draw(ChainThaw(), epochs=10))
    epoch 0123456789
    stem  ..##....##
    body  ....##..##
    head  ##....####
    """

    def scale(self, stage: Depth, role: Role, progress: Progress) -> float:
        """Return 1 for the stages of the part that this epoch is in."""
        parts = stage.count + 2
        part = min(progress.epoch // max(1, progress.epochs // parts), parts - 1)
        return float(part == parts - 1 or stage.index == (stage.count - 1 if part == 0 else part - 1))

    def problems(self, outline: Outline, epochs: int) -> list[str]:
        """Refuse a run that is too short for all parts."""
        parts = len(outline.stages) + 2
        if 0 < epochs < parts:
            return [f"trainer.max_epochs: chain_thaw has {parts} parts here, of an epoch or more each; got {epochs}"]
        return []
