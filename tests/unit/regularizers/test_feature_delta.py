import copy

import pytest
import torch
from rigs import SGD, Examples, Rig, Toy, ToyData, beginning
from torch import nn

from frostline.errors import RequestError
from frostline.freeze.full import Full
from frostline.freeze.last_k import LastK
from frostline.regularizers.delta import Delta


def features(network: Toy, inputs: torch.Tensor) -> list[torch.Tensor]:
    """The maps of body1 to body3, by the network's own layers."""
    x = torch.relu(network.norm(network.conv(inputs)))
    maps = []
    for block in (network.first, network.second, network.third):
        x = block(x)
        maps.append(x)
    return maps


def moved(network: Toy) -> Toy:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def test_without_attention_the_penalty_is_the_definition() -> None:
    torch.manual_seed(0)
    network = Toy().eval()
    teacher = copy.deepcopy(network)
    penalty = Delta(alpha=0.3, beta=0.2, attention=False)
    penalty.start(beginning(network))
    inputs = Examples().inputs[:5]
    moved(network)(inputs)
    expected = 0.1 * sum(p.detach().square().sum() for p in network.fc.parameters())
    for now, before in zip(features(network, inputs), features(teacher, inputs), strict=True):
        examples, channels, height, width = now.shape
        for b in range(examples):
            for c in range(channels):
                gap = (now[b, c] - before[b, c]).square().sum().detach()
                expected += 0.15 * channels / (height * width) * gap / channels / examples
    assert penalty().item() == pytest.approx(expected.item(), rel=1e-4)


def test_attention_is_the_softmax_of_how_much_more_the_loss_grows_without_each_channel() -> None:
    torch.manual_seed(0)
    network = Toy().eval()
    penalty = Delta(batches=2)
    penalty.start(beginning(network))
    (teacher,) = penalty._teacher
    loss = nn.CrossEntropyLoss()
    batches = list(ToyData().train_dataloader())

    @torch.no_grad()
    def silenced(stage: int, channel: int) -> float:
        """The mean loss when a channel of a stage is zero, by the network's own layers."""
        total = 0.0
        for batch in batches:
            x = torch.relu(teacher.norm(teacher.conv(batch.inputs)))
            for place, block in enumerate((teacher.first, teacher.second, teacher.third)):
                x = block(x)
                if place == stage:
                    x = x.clone()
                    x[:, channel] = 0
            total += loss(teacher.fc(teacher.pool(x).flatten(1)), batch.targets).item() / len(batches)
        return total

    whole = silenced(-1, 0)
    for stage, name in enumerate(("first", "second", "third")):
        growth = torch.tensor([silenced(stage, channel) - whole for channel in range(4)])
        torch.testing.assert_close(
            penalty._weights[name],
            torch.softmax((growth - growth.mean()) / growth.std(correction=0) / 5, 0),
            rtol=1e-3,
            atol=1e-6,
        )


def test_the_head_that_weighs_channels_was_fitted_and_the_networks_own_was_not_touched() -> None:
    network = Toy().eval()
    head = network.fc.weight.detach().clone()
    random = torch.get_rng_state()
    penalty = Delta()
    penalty.start(beginning(network))
    batch = next(iter(ToyData().train_dataloader()))
    loss = nn.CrossEntropyLoss()
    with torch.no_grad():
        assert loss(penalty._teacher[0](batch.inputs), batch.targets) < loss(network(batch.inputs), batch.targets)
    assert torch.equal(network.fc.weight, head)
    assert torch.equal(random, torch.get_rng_state())


def test_a_strong_penalty_keeps_features_near_and_frozen_stays_frozen_t26() -> None:
    drift = {}
    for alpha in (0.0, 0.1):
        rig = Rig(Full(), epochs=4, optimizer=SGD, regularizer=Delta(alpha=alpha, beta=0.0))
        teacher = copy.deepcopy(rig.network).eval()
        rig.fit()
        rig.network.eval()
        pairs = zip(features(rig.network, Examples().inputs), features(teacher, Examples().inputs), strict=True)
        drift[alpha] = sum((now - before).square().mean().item() for now, before in pairs)
    assert drift[0.1] < 0.5 * drift[0.0]
    rig = Rig(LastK(k=1), epochs=2, optimizer=SGD, regularizer=Delta())
    rig.fit()
    assert rig.freezing.audit.intact


def test_the_pretrained_network_is_no_part_of_the_state_and_the_penalty_comes_back_t26() -> None:
    torch.manual_seed(0)
    rig = Rig(Full(), epochs=1, optimizer=SGD, regularizer=Delta())
    assert not [name for name in rig.module.state_dict() if "regularizer" in name]
    rig.fit()
    state = rig.module.state_dict()
    again = Rig(Full(), epochs=1, optimizer=SGD, regularizer=Delta())
    again.module.load_state_dict(state)
    values = []
    for each in (rig, again):
        each.network.eval()(Examples().inputs)
        values.append(each.module.penalty().item())
    assert values[0] == values[1] > 0


def test_a_network_without_body_stages_is_refused() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4 * 16, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.conv(x).flatten(1))

    with pytest.raises(RequestError, match="regularizer: delta compares the body stages, and this network has none"):
        Delta().start(beginning(Flat()))
