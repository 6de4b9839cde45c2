"""What stacked heads give and learn is what each gives and learns by itself."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.testing import assert_close
from torch.utils._pytree import tree_flatten

from frostline.batch import Batch
from frostline.cache.cut import Cut
from frostline.cache.prefix import Call, Kept
from frostline.objectives.classification import Classification
from frostline.together.heads import Heads, Seen, by_kind


class Network(nn.Module):
    """A body that is given, and a head."""

    def __init__(self, seed: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Linear(5, 4)
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(4, 3))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.body(inputs))


class Particular(Classification):
    """An objective that asks what stands in a batch, which no vectorised pass over batches can tell."""

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        return functional.cross_entropy(outputs, batch.targets) * (2.0 if (batch.targets == 0).any() else 1.0)


def heads(networks: Sequence[Network]) -> Heads:
    return Heads(networks[0], [{f"head.1.{n}": p for n, p in net.head[1].named_parameters()} for net in networks])


def seen(examples: int, *places: int) -> Seen:
    """Some examples as heads see them, whose features are the examples' own numbers."""
    torch.manual_seed(examples + sum(places))
    rows, targets = torch.randn(examples, 4), torch.randint(0, 3, (examples,))
    _, structure = tree_flatten((rows,))
    call = Call(module="head", content=(Kept(sides=(), dtype=rows.dtype),), structure=structure)
    cut = Cut(depth=1, modules=("body",), calls=(call,), tail="head", blind=True)
    batch = Batch(torch.full((examples, 5), torch.nan), targets, torch.arange(examples))
    return Seen(batch=batch, rows=[rows], cut=cut, place="", heads=places)


@pytest.mark.parametrize("objective", [Classification(), Particular()], ids=["any", "particular"])
def test_each_head_learns_from_the_batches_that_it_sees(objective: Classification) -> None:
    """Of three companies two have batches of one size."""
    networks = [Network(seed) for seed in range(5)]
    batches = [seen(6, 0, 1), seen(6, 2), seen(4, 3, 4)]
    stacked, found = heads(networks), {}
    groups = by_kind(batches)
    assert [len(group) for group in groups] == [2, 1]
    for group in groups:
        for place, batch, outputs, loss in stacked.learn(objective, group):
            found[place] = (batch, outputs, loss)
    for each in batches:
        for place in each.heads:
            batch, outputs, loss = found[place]
            assert batch is each.batch
            own = networks[place].head[1]
            gradients = [own.weight.grad, own.bias.grad]
            expected = networks[place].head(each.rows[0])
            wanted = objective.loss(expected, each.batch)
            assert_close((outputs, loss), (expected.detach(), wanted.detach()))
            assert_close(gradients, list(torch.autograd.grad(wanted, [own.weight, own.bias])))


def test_each_head_gives_what_it_would_alone_and_is_given_back_as_it_was() -> None:
    networks = [Network(seed) for seed in range(3)]
    before = [network.head[1].weight.detach().clone() for network in networks]
    stacked = heads(networks)
    with torch.no_grad():
        networks[2].head[1].weight += 1.0
        given = {place: outputs for place, _, outputs in stacked.look([seen(6, 2, 0), seen(6, 1)])}
    for place, rows in ((2, seen(6, 2, 0).rows[0]), (0, seen(6, 2, 0).rows[0]), (1, seen(6, 1).rows[0])):
        assert_close(given[place], networks[place].head(rows), check_stride=False)
    stacked.let_go()
    assert [torch.equal(a, net.head[1].weight) for a, net in zip(before, networks, strict=True)] == [True] * 3


def test_a_head_that_draws_at_random_is_none_to_stack() -> None:
    networks = [Network(seed, dropout=0.5) for seed in range(2)]
    with pytest.raises(RuntimeError, match="randomness"):
        heads(networks).learn(Classification(), [seen(6, 0, 1)])
