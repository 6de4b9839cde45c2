"""The stages train to which the loss is most sensitive, and the head."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from torch import Tensor

from frostline.depth import Outline
from frostline.freeze.adaptive import Adaptive, Gradients, Probe, mean_of, of_stages
from frostline.freeze.strategy import Decision, beyond


@dataclass(frozen=True, kw_only=True)
class FisherTopK(Adaptive):
    """Train the `k` stages of the greatest Fisher information, and the head (Lodha et al. 2023, arXiv:2310.17041).

    A stage's score is the diagonal of the empirical Fisher information, the mean over single training examples of the
    squared gradient of the loss, at the start of training. The choice holds for the whole run.

    Attributes:
        k: Stages besides the head.
        examples: Training examples that are looked at.
        score: The `sum` over a stage's parameters, as in the paper, or their `mean`, which does not favour wide stages.

    >>> from frostline.freeze.drawing import draw
    >>> print(draw(FisherTopK(k=1), epochs=6))
    epoch 012345
    stem  ??????
    body  ??????
    head  ??????
    """

    k: Annotated[int, Ge(0)]
    examples: Annotated[int, Ge(1)] = 100
    score: Literal["sum", "mean"] = "sum"

    @property
    def probe(self) -> Probe:
        """Look at single examples."""
        return Probe(count=self.examples, single=True)

    def moments(self, *, epochs: int, steps: int) -> Sequence[int]:
        """Return the start of training."""
        return (0,)

    def signals(
        self, gradients: Iterable[Gradients], weights: Mapping[str, Tensor], outline: Outline
    ) -> dict[str, float]:
        """Return the score of each stage."""
        parts = of_stages(outline)
        scores = mean_of(
            {stage: torch.stack([g[name].square().sum() for name in names]).sum() for stage, names in parts.items()}
            for g in gradients
        )
        sizes = {stage: sum(weights[name].numel() for name in names) for stage, names in parts.items()}
        return scores if self.score == "sum" else {stage: value / sizes[stage] for stage, value in scores.items()}

    def decide(self, signals: Mapping[str, float], outline: Outline, past: Sequence[Decision]) -> dict[str, float]:
        """Return 1 for the k best stages and the head."""
        below = [stage.name for stage in outline.stages if stage.from_head]
        chosen = {*sorted(below, key=lambda stage: -signals[stage])[: self.k], outline.stages[-1].name}
        return {place.name: float(place.stage.name in chosen) for place in outline.places}

    def problems(self, outline: Outline, epochs: int) -> list[str]:
        """Refuse more stages than the network has."""
        return beyond(self.k, outline)
