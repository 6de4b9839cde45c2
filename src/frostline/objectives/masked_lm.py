"""Language modelling from both sides: what stands under the mask?"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Gt, Lt
from torch import Tensor, nn

from frostline.errors import RequestError
from frostline.nn.backbone import Backbone
from frostline.nn.chance import chance
from frostline.objectives.language_modelling import Guess, LanguageModelling


class MaskedLM(LanguageModelling):
    """Guess masked tokens from all others (BERT, arXiv:1810.04805, section 3.1).

    Of each text a share of the tokens, at least one, is to be guessed. Of ten of these eight are shown as the mask, one
    as a random token, one as it is. They are drawn anew each time that a text is shown (RoBERTa, arXiv:1907.11692,
    section 4.1), and the same of the same batches in evaluation.

    Args:
        share: Share of the tokens that is to be guessed.
    """

    tasks: ClassVar[tuple[str, ...]] = ("masked_lm",)

    def __init__(self, *, share: Annotated[float, Gt(0), Lt(1)] = 0.15) -> None:
        self._share = share

    def network(self, model: Backbone, classes: Sequence[str]) -> nn.Module:
        """Let the recipe's network see masked texts.

        Raises:
            RequestError: The tokenizer has no mask.
        """
        tokenizer = model.input.tokenizer
        if tokenizer.mask_token_id is None:
            raise RequestError("objective: masked_lm needs a tokenizer with a mask_token, and this model's has none")
        return _Masked(super().network(model, classes), tokenizer=tokenizer, share=self._share)


class _Masked(nn.Module):
    def __init__(self, network: nn.Module, *, tokenizer: Any, share: float) -> None:
        super().__init__()
        self.network = network
        self.head_modules = tuple(f"network.{name}" for name in getattr(network, "head_modules", ()))
        self._special, self._mask = sorted(tokenizer.all_special_ids), int(tokenizer.mask_token_id)
        self._vocabulary, self._share = len(tokenizer), share

    def forward(self, inputs: Mapping[str, Tensor]) -> Guess:
        """Mask some of the `input_ids` (B, L) and guess them."""
        tokens = inputs["input_ids"]
        with chance(tokens.device, training=self.training):
            at = self._drawn(tokens)
            shown = self._masked(tokens, at)
        return Guess(self.network({**inputs, "input_ids": shown}, at), tokens[at], at.nonzero()[:, 0])

    def _drawn(self, tokens: Tensor) -> Tensor:
        """Draw what is to be guessed: exactly the share of each text, rounded, but at least one token."""
        fixed = torch.isin(tokens, tokens.new_tensor(self._special))
        ranks = torch.rand(tokens.shape, device=tokens.device).masked_fill(fixed, 2.0).argsort(dim=1).argsort(dim=1)
        free = (~fixed).sum(dim=1, keepdim=True)
        wanted = (self._share * free).round().clamp(min=1).minimum(free)
        return ranks < wanted

    def _masked(self, tokens: Tensor, at: Tensor) -> Tensor:
        """Replace eight tenths of what is to be guessed by the mask and a tenth by any token."""
        lot = torch.rand(tokens.shape, device=tokens.device)
        other = torch.randint(self._vocabulary, tokens.shape, device=tokens.device)
        shown = torch.where(at & (lot < 0.8), self._mask, tokens)
        return torch.where(at & (lot >= 0.9), other, shown)
