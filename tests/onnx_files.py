"""Files of ONNX for tests, exported or written by hand."""

import warnings
from pathlib import Path

import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper, save_model
from torch import Tensor, nn


class Residual(nn.Module):
    """Two convolutions and what they are added to."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, after, 3, 2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(after)
        self.second = nn.Conv2d(after, after, 3, padding=1)
        self.shortcut = nn.Conv2d(before, after, 1, 2)

    def forward(self, values: Tensor) -> Tensor:
        return torch.relu(self.second(torch.relu(self.norm(self.first(values)))) + self.shortcut(values))


class Layer(nn.Module):
    """A layer of a transformer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.ln1(x)).chunk(3, -1)
        x = x + self.out(torch.softmax(q @ k.transpose(1, 2), -1) @ v)
        return x + self.down(torch.relu(self.up(self.ln2(x))))


class Tokens(nn.Module):
    """A vision transformer with positions, of images of 32 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 8, 8)
        self.position = nn.Parameter(torch.randn(1, 16, 8))
        self.layers = nn.Sequential(*(Layer(8) for _ in range(4)))
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2) + self.position
        return self.head(self.norm(self.layers(x)).mean(1))


class Fixed(nn.Module):
    """Reshapes to the batch size that it was exported with."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = residual()[0], nn.Linear(8 * 16 * 16, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(torch.relu(self.body(images)).reshape(int(images.shape[0]), 8 * 16 * 16))


def residual() -> nn.Sequential:
    """Four residual blocks, a resolution each."""
    blocks = (Residual(before, after) for before, after in ((3, 8), (8, 8), (8, 16), (16, 16)))
    network = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return network


def convolved() -> nn.Sequential:
    """Ends in a convolution of size 1 and a softmax, as SqueezeNet does."""
    body = [layer for width in (3, 8, 8, 8, 8) for layer in (nn.Conv2d(width, 8, 3, padding=1), nn.ReLU())]
    return nn.Sequential(*body, nn.Dropout(), nn.Conv2d(8, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Softmax(1))


def export(network: nn.Module, path: Path, *, free: bool = False, folded: bool = False, size: int = 32) -> Path:
    """Export a network in evaluation mode, with a free batch size or one image."""
    mode = torch.onnx.TrainingMode.EVAL if folded else torch.onnx.TrainingMode.PRESERVE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(),
            (torch.randn(1, 3, size, size),),
            str(path),
            dynamo=False,
            opset_version=17,
            training=mode,
            do_constant_folding=folded,
            input_names=["images"],
            dynamic_axes={"images": {0: "batch"}} if free else None,
        )
    return path


def write(
    path: Path,
    *nodes: tuple[str, list[str], list[str]],
    shape=(1, 3, 4, 4),
    external: bool = False,
    opset: int = 13,
    **weights,
):
    """Write a model by hand: from `images` to `scores`, with weights by name."""
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node(kind, inputs, outputs, name=outputs[0]) for kind, inputs, outputs in nodes],
            "written",
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ("n", "k"))],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
        ),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=8,
    )
    save_model(model, str(path), save_as_external_data=external, location="weights.bin", size_threshold=0)
    return path
