"""Language modelling from left to right: what is the next token?"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn

from frostline.nn.backbone import Backbone
from frostline.objectives.language_modelling import Guess, LanguageModelling


class CausalLM(LanguageModelling):
    """Guess each token from those before it (GPT, Radford et al. 2018, equation 1); padding is none."""

    tasks: ClassVar[tuple[str, ...]] = ("causal_lm",)

    def network(self, model: Backbone, classes: Sequence[str]) -> nn.Module:
        """Let the recipe's network guess every token but the first of each text."""
        return _Next(super().network(model, classes))


class _Next(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.head_modules = tuple(f"network.{name}" for name in getattr(network, "head_modules", ()))

    def forward(self, inputs: Mapping[str, Tensor]) -> Guess:
        """Guess what follows each token of `input_ids` (B, L) where `attention_mask` says that something does."""
        follows = inputs["attention_mask"][:, 1:].bool()
        at = nn.functional.pad(follows, (0, 1))
        return Guess(self.network(inputs, at), inputs["input_ids"][:, 1:][follows], follows.nonzero()[:, 0])
