"""Small networks, each with something that freezing can get wrong."""

from collections.abc import Callable

import torch
from rigs import Toy
from torch import Tensor, nn


class Attentive(nn.Module):
    """A transformer: layer normalisation, dropout, attention whose projection torch packs, a class token."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 2, stride=2)
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        layers = (nn.TransformerEncoderLayer(8, 2, 16, dropout=0.2, batch_first=True) for _ in range(3))
        self.first, self.second, self.third = layers
        self.norm = nn.LayerNorm(8)
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        return self.fc(self.norm(self.third(self.second(self.first(x))))[:, 0])


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.there, self.between, self.back = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.back.weight = self.there.weight
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).mean((2, 3))
        for layer in (self.there, self.between, self.back):
            x = torch.tanh(layer(x)) + x
        return self.fc(x)


class Designed(nn.Module):
    """A table that its author froze, and a buffer that training changes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.positions = nn.Parameter(torch.linspace(0, 1, 36).reshape(1, 1, 6, 6), requires_grad=False)
        self.first, self.second = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv(x)) + self.positions
        return self.fc(self.norm(self.second(torch.relu(self.first(x)))).mean((2, 3)))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "batch norm": Toy,
    "transformer": Attentive,
    "tied": Tied,
    "frozen by design": Designed,
}
