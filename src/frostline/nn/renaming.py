"""What the tensors of one network are called in another that has it inside: found by a vote over names and shapes."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from frostline.errors import WeightsError

_TRIED = 32
"""How many of the likeliest pairs of prefixes are tried in full."""

_OLD_NAMES = {"gamma": "weight", "beta": "bias"}
"""What layer normalisation called its parameters in weights that come from TensorFlow."""


@dataclass(frozen=True, kw_only=True)
class Renaming:
    """The tree below one prefix in the weights is the tree below another prefix in the network.

    Attributes:
        theirs: What all names in the weights begin with that are carried, such as `module.`.
        ours: What the network has in its place, such as `model.backbone.body.`.
    """

    theirs: str
    ours: str

    def __str__(self) -> str:
        return f"{self.theirs or '(root)'} -> {self.ours or '(root)'}"

    def has(self, name: str) -> bool:
        """Tell whether a name in the weights is inside the tree."""
        return name.startswith(self.theirs)

    def __call__(self, name: str) -> str:
        """Return what the network calls a tensor inside the tree."""
        return self.ours + name.removeprefix(self.theirs)


def spelt_anew(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights with today's names for the parameters of layer normalisation.

    A network that has parameters of the old names itself, such as the scales of ConvNeXt's layers, keeps them.
    """
    ends = {name.rpartition(".")[2] for name in own}
    old = {was: now for was, now in _OLD_NAMES.items() if was not in ends}
    return {_ending(name, old): weight for name, weight in weights.items()}


def _ending(name: str, renamed: Mapping[str, str]) -> str:
    parent, dot, end = name.rpartition(".")
    return f"{parent}.{renamed.get(end, end)}" if dot else name


def renaming(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Renaming:
    """Find where in a network, or in which part of the weights, the two are the same.

    Every tensor votes, by its numbers, for the pair of prefixes that would make its name that of a tensor of the same
    shape; the likeliest pairs are then tried on all names, and the one that carries the most numbers wins. The whole
    tree is renamed in one way, so that no two parts of a network come from different places.

    Args:
        weights: Tensors by their names.
        own: The network's tensors by their names.

    Raises:
        WeightsError: Two trees in the weights fit equally well and differ.
    """
    votes = Counter({Renaming(theirs="", ours=""): 0})
    for pair, numbers in _votes(weights, own):
        votes[pair] += numbers
    tried = sorted(votes, key=lambda pair: (-votes[pair], _length(pair), str(pair)))[:_TRIED]
    tried = list(dict.fromkeys([Renaming(theirs="", ours=""), *tried]))
    scores = {pair: _carried(pair, weights, own) for pair in tried}
    best = max(tried, key=lambda pair: (scores[pair], -_length(pair)))
    rivals = [pair for pair in tried if scores[pair] == scores[best] and _length(pair) == _length(best)]
    least = min(_numbers(own), _numbers(weights) // len(rivals)) // 2
    if scores[best] > least:  # any two networks have some layer in common
        _refuse_a_tie(best, rivals)
    return best


def _votes(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Iterator[tuple[Renaming, int]]:
    """Yield the prefixes before the longest common end of each pair of names whose tensors have one shape."""
    alike = defaultdict(list)
    for name, tensor in own.items():
        alike[name.rpartition(".")[2], tuple(tensor.shape)].append(name)
    for name, weight in weights.items():
        for other in alike[name.rpartition(".")[2], tuple(weight.shape)]:
            if pair := _before_the_common_end(name, other):
                yield pair, weight.numel()


def _before_the_common_end(theirs: str, ours: str) -> Renaming | None:
    """Return what precedes the common end; None where that is one word, which any two layers have in common."""
    ends = zip(reversed(theirs.split(".")), reversed(ours.split(".")), strict=False)
    common = next((place for place, (one, other) in enumerate(ends) if one != other), None)
    if common is None:
        common = min(theirs.count("."), ours.count(".")) + 1
    pair = Renaming(theirs=_without_end(theirs, common), ours=_without_end(ours, common))
    return None if common == 1 and pair.theirs and pair.ours else pair


def _without_end(name: str, words: int) -> str:
    kept = name.split(".")[:-words]
    return "".join(f"{word}." for word in kept)


def _length(pair: Renaming) -> int:
    return pair.theirs.count(".") + pair.ours.count(".")


def _carried(pair: Renaming, weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> int:
    named = ((pair(name), weight) for name, weight in weights.items() if pair.has(name))
    return sum(weight.numel() for name, weight in named if name in own and own[name].shape == weight.shape)


def _numbers(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors.values())


def _refuse_a_tie(best: Renaming, rivals: list[Renaming]) -> None:
    trees = sorted({pair.theirs for pair in rivals if pair.ours == best.ours})
    if len(trees) > 1:
        raise WeightsError(
            f"The weights hold several networks that fit: {', '.join(trees)}; choose one with init_prefix={trees[0]}"
        )
