"""What is added to a network, in the words that strategies and networks share: small layers beside frozen ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Types = Literal["linear", "conv", "both"]


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """Parameters to add beside frozen layers.

    Attributes:
        method: How they change what a layer gives.
        stages: Names of the stages whose layers are adapted; None is all below the head.
        types: The kinds of layers that are adapted.
        rank: Rank of the added product of matrices; `lora` and `dora`.
        alpha: The product is multiplied by `alpha / rank`; `lora` and `dora`.
        dropout: Probability of dropping what goes into the added product; `lora` and `dora`.
        feedforward: Whether what goes into a layer is scaled instead of what comes out; `ia3`.
    """

    method: Literal["lora", "dora", "ia3"]
    stages: Sequence[str] | None = None
    types: Types = "both"
    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    feedforward: bool = False
