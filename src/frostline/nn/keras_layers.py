"""Layers of Keras as modules of torch: the same weights, the same arithmetic, pixels before channels turned around.

A tensor of four axes is (B, H, W, C) in Keras and (B, C, H, W) here; any other tensor has the axes of Keras.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import StochasticDepth

from frostline.errors import RequestError

Shape = tuple[int | None, ...]
Parts = Mapping[str, nn.Module]
"""What becomes of a layer: modules in forward order, by what follows the layer's name in theirs."""

PROBABILITIES = ("softmax", "sigmoid")
"""Activations that make probabilities of logits."""

_ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "hard_sigmoid": nn.Hardsigmoid,
    "hard_silu": nn.Hardswish,
    "leaky_relu": lambda: nn.LeakyReLU(0.2),
    "linear": nn.Identity,
    "mish": nn.Mish,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "selu": nn.SELU,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}


def parts(layer: Any, shape: Shape) -> Parts:
    """Convert one layer, weights included.

    Args:
        layer: A built layer of Keras.
        shape: Of its input in Keras, (B, H, W, C) for images.

    Raises:
        RequestError: There is no such module here.
    """
    kind = type(layer).__name__
    if is_layer(layer) and getattr(layer, "data_format", "channels_last") == "channels_last":
        if kind in _BY_LAYER:
            return _BY_LAYER[kind](layer)
        if kind in _BY_LAYER_AND_SHAPE:
            return _BY_LAYER_AND_SHAPE[kind](layer, shape)
    raise unknown(layer)


def unknown(layer: Any) -> RequestError:
    """Return the error that a layer has no counterpart here, or not with its settings."""
    kind = type(layer).__name__
    return RequestError(
        f"model: the layer '{layer.name}' ({kind}) of this Keras network has no counterpart in torch here; "
        "choose a network without it"
    )


def is_layer(operation: Any) -> bool:
    """Tell a layer from a function that a network calls, which may have the same name."""
    return hasattr(operation, "trainable_variables")


def axis(index: int, rank: int) -> int:
    """Return where an axis of Keras lies here."""
    return (0, 2, 3, 1)[index] if rank == 4 else index % rank


def activation_of(layer: Any) -> str:
    """Return the name of a layer's activation."""
    function = getattr(layer, "activation", None)
    return "linear" if function is None else str(getattr(function, "__name__", type(function).__name__))


class SamePadding(nn.Module):
    """What Keras and TensorFlow pad for `same`: the odd pixel goes below and to the right.

    Args:
        kernel: Height and width of the window that follows, dilation included.
        stride: Its steps.
        value: What to pad with.
    """

    def __init__(self, kernel: tuple[int, int], stride: tuple[int, int], value: float = 0.0) -> None:
        super().__init__()
        self.kernel, self.stride, self.value = kernel, stride, value

    def forward(self, images: Tensor) -> Tensor:
        """Pad images (B, C, H, W)."""
        sides = list[int]()
        for size, kernel, stride in zip(images.shape[:1:-1], self.kernel[::-1], self.stride[::-1], strict=True):
            missing = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            sides += [missing // 2, missing - missing // 2]
        return functional.pad(images, sides, value=self.value)

    def extra_repr(self) -> str:
        """Describe the window."""
        return f"kernel={self.kernel}, stride={self.stride}"


class SameAverage(nn.AvgPool2d):
    """Average pooling whose `same` padding does not count."""

    def forward(self, images: Tensor) -> Tensor:
        """Pool images (B, C, H, W)."""
        padding = SamePadding(self.kernel_size, self.stride)  # type: ignore[arg-type] # always pairs here
        counted = super().forward(padding(torch.ones_like(images[:1, :1])))
        return super().forward(padding(images)) / counted


class GlobalPool(nn.Module):
    """The mean or the maximum over height and width.

    Args:
        reduce: From a tensor and its axes to the tensor without them.
        keepdims: Keep them with size 1.
    """

    def __init__(self, reduce: Callable[..., Tensor], *, keepdims: bool) -> None:
        super().__init__()
        self.reduce, self.keepdims = reduce, keepdims

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C), or (B, C, 1, 1)."""
        return self.reduce(images, dim=(2, 3), keepdim=self.keepdims)


class Reshape(nn.Module):
    """A new shape for the order in which Keras holds values.

    Args:
        shape: Of one element of the batch, in Keras; one entry may be -1.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, values: Tensor) -> Tensor:
        """Map (B, C, H, W), or any other (B, ...), to (B, *shape)."""
        ordered = values.movedim(1, -1) if values.ndim == 4 else values
        reshaped = ordered.reshape(len(values), *self.shape)
        return reshaped.movedim(-1, 1) if reshaped.ndim == 4 else reshaped

    def extra_repr(self) -> str:
        """Describe the shape."""
        return f"shape={self.shape}"


class ChannelLinear(nn.Linear):
    """A linear layer for the channels of every pixel."""

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H, W)."""
        return super().forward(images.movedim(1, -1)).movedim(-1, 1)


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of every pixel."""

    def forward(self, images: Tensor) -> Tensor:
        """Normalise images (B, C, H, W)."""
        return super().forward(images.movedim(1, -1)).movedim(-1, 1)


class Affine(nn.Module):
    """A fixed scale and offset, per channel or for all, that are no weights.

    Args:
        scale: Values that broadcast against the input.
        offset: Added after scaling.
    """

    scale: Tensor
    offset: Tensor

    def __init__(self, scale: Tensor, offset: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        self.register_buffer("offset", offset)

    def forward(self, images: Tensor) -> Tensor:
        """Scale images (B, C, H, W)."""
        return images * self.scale + self.offset


class LayerScale(nn.Module):
    """A learned factor for each channel (Touvron et al., 2021, arXiv:2103.17239).

    Args:
        gamma: (C,).
    """

    def __init__(self, gamma: Tensor) -> None:
        super().__init__()
        self.gamma = nn.Parameter(gamma)

    def forward(self, images: Tensor) -> Tensor:
        """Scale images (B, C, H, W)."""
        return images * self.gamma.view(-1, 1, 1)


def _value(variable: Any) -> Tensor:
    tensor: Tensor = variable.value.detach().clone()
    return tensor


def _fill(module: nn.Module, **values: Any) -> nn.Module:
    """Put values into parameters and buffers; None takes a parameter away."""
    for name, value in values.items():
        if value is None:
            module.register_parameter(name, None)
        else:
            getattr(module, name).data = value.contiguous()
    return module


def _activation(layer: Any, shape: Shape) -> Parts:
    name = activation_of(layer)
    if name == "softmax":
        return {"": nn.Softmax(axis(-1, len(shape)))}
    if name not in _ACTIVATIONS:
        raise unknown(layer)
    return {"": _ACTIVATIONS[name]()}


def _activated(layer: Any, shape: Shape, modules: Parts) -> Parts:
    if activation_of(layer) == "linear":
        return modules
    return {**modules, "_activation": _activation(layer, shape)[""]}


def _conv2d(layer: Any, shape: Shape) -> Parts:
    kernel = _value(layer.kernel).permute(3, 2, 0, 1)
    bias = _value(layer.bias) if layer.use_bias else None
    return _activated(layer, shape, _convolution(layer, kernel, bias, groups=layer.groups))


def _depthwise(layer: Any, shape: Shape) -> Parts:
    bias = _value(layer.bias) if layer.use_bias else None
    modules = _convolution(layer, _per_channel(layer.kernel), bias, groups=shape[-1] or 1)
    return _activated(layer, shape, modules)


def _separable(layer: Any, shape: Shape) -> Parts:
    depthwise = _convolution(layer, _per_channel(layer.depthwise_kernel), None, groups=shape[-1] or 1)
    first = {f"_depthwise{suffix}": module for suffix, module in depthwise.items()}
    kernel = _value(layer.pointwise_kernel).permute(3, 2, 0, 1)
    pointwise = nn.Conv2d(kernel.shape[1], kernel.shape[0], 1, bias=layer.use_bias)
    _fill(pointwise, weight=kernel, bias=_value(layer.bias) if layer.use_bias else None)
    return _activated(layer, shape, {**first, "": pointwise})


def _per_channel(kernel: Any) -> Tensor:
    weight = _value(kernel).permute(2, 3, 0, 1)
    return weight.reshape(-1, 1, *weight.shape[2:])


def _convolution(layer: Any, weight: Tensor, bias: Tensor | None, *, groups: int) -> Parts:
    stride, dilation = tuple(layer.strides), tuple(layer.dilation_rate)
    reach = _reach(tuple(weight.shape[2:]), dilation)
    padding = _symmetric(layer.padding, reach, stride)
    conv = nn.Conv2d(
        weight.shape[1] * groups,
        weight.shape[0],
        (weight.shape[2], weight.shape[3]),
        stride=stride,
        padding=padding or 0,
        dilation=dilation,
        groups=groups,
        bias=bias is not None,
    )
    _fill(conv, weight=weight, bias=bias)
    return {"": conv} if padding is not None else {"_pad": SamePadding(reach, stride), "": conv}


def _reach(kernel: tuple[int, ...], dilation: tuple[int, ...]) -> tuple[int, int]:
    height, width = ((k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True))
    return height, width


def _symmetric(padding: str, reach: tuple[int, int], stride: tuple[int, ...]) -> tuple[int, int] | None:
    """Return the padding that is the same for every size of image and on both sides, or None where it is not."""
    if padding == "valid":
        return 0, 0
    odd = all(side % 2 for side in reach) and set(stride) == {1}
    return (reach[0] // 2, reach[1] // 2) if odd else None


def _dense(layer: Any, shape: Shape) -> Parts:
    weight = _value(layer.kernel).T
    kind = ChannelLinear if len(shape) == 4 else nn.Linear
    linear = kind(weight.shape[1], weight.shape[0], bias=layer.use_bias)
    _fill(linear, weight=weight, bias=_value(layer.bias) if layer.use_bias else None)
    return _activated(layer, shape, {"": linear})


def _batch_norm(layer: Any, shape: Shape) -> Parts:
    """Convert batch normalisation.

    Keras keeps `momentum` of the old statistics and torch that much of the new ones. In evaluation the two are the
    same; while training, Keras adds the population variance of a batch to its statistics where torch adds the sample
    variance, n / (n - 1) of it.
    """
    if axis(layer.axis, len(shape)) != 1 or len(shape) not in (2, 4):
        raise unknown(layer)
    kind = nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d
    norm = kind(shape[-1] or 1, eps=layer.epsilon, momentum=1 - layer.momentum)
    _fill(
        norm,
        weight=_value(layer.gamma) if layer.scale else None,
        bias=_value(layer.beta) if layer.center else None,
        running_mean=_value(layer.moving_mean),
        running_var=_value(layer.moving_variance),
    )
    return {"": norm}


def _layer_norm(layer: Any, shape: Shape) -> Parts:
    axes = layer.axis if isinstance(layer.axis, list | tuple) else [layer.axis]
    if [a % len(shape) for a in axes] != [len(shape) - 1] or getattr(layer, "rms_scaling", False):
        raise unknown(layer)
    kind = ChannelNorm if len(shape) == 4 else nn.LayerNorm
    norm = kind(shape[-1] or 1, eps=layer.epsilon)
    weight = _value(layer.gamma) if layer.scale else None
    return {"": _fill(norm, weight=weight, bias=_value(layer.beta) if layer.center else None)}


def _relu(layer: Any) -> Parts:
    if layer.threshold:
        raise unknown(layer)
    if layer.max_value is None:
        slope = float(layer.negative_slope or 0)
        return {"": nn.LeakyReLU(slope) if slope else nn.ReLU()}
    if layer.negative_slope:
        raise unknown(layer)
    return {"": nn.ReLU6() if layer.max_value == 6 else nn.Hardtanh(0.0, float(layer.max_value))}


def _max_pool(layer: Any) -> Parts:
    kernel, stride = tuple(layer.pool_size), tuple(layer.strides)
    pool = nn.MaxPool2d(kernel, stride)
    return {"": pool} if layer.padding == "valid" else {"_pad": SamePadding(kernel, stride, -torch.inf), "": pool}


def _average_pool(layer: Any) -> Parts:
    kind = nn.AvgPool2d if layer.padding == "valid" else SameAverage
    return {"": kind(tuple(layer.pool_size), tuple(layer.strides))}


def _dropout(layer: Any) -> Parts:
    noise = getattr(layer, "noise_shape", None)
    if noise is None:
        return {"": nn.Dropout(layer.rate)}
    if any(size != 1 for size in noise[1:]):
        raise unknown(layer)
    return {"": StochasticDepth(layer.rate, "row")}


def _reshape(layer: Any) -> Parts:
    # A vector takes any length: the classifier before it may have another number of classes.
    target = tuple(layer.target_shape)
    return {"": Reshape((-1,) if len(target) == 1 else target)}


def _zero_padding(layer: Any) -> Parts:
    (top, bottom), (left, right) = layer.padding
    return {"": nn.ZeroPad2d((left, right, top, bottom))}


def _cropping(layer: Any) -> Parts:
    (top, bottom), (left, right) = layer.cropping
    return {"": nn.ZeroPad2d((-left, -right, -top, -bottom))}


def _rescaling(layer: Any, shape: Shape) -> Parts:
    return {"": Affine(_constant(layer.scale, shape), _constant(layer.offset, shape))}


def _normalization(layer: Any, shape: Shape) -> Parts:
    if layer.invert:
        raise unknown(layer)
    deviation = _constant(layer.variance, shape).sqrt().clamp(min=1e-7)
    return {"": Affine(1 / deviation, -_constant(layer.mean, shape) / deviation)}


def _constant(values: Any, shape: Shape) -> Tensor:
    """Make (C, 1, 1) of one value per channel where the input has pixels."""
    tensor = torch.as_tensor(values, dtype=torch.float32).detach().clone()
    return tensor.reshape(-1, 1, 1) if tensor.numel() > 1 and len(shape) == 4 else tensor.flatten()


_BY_LAYER: Mapping[str, Callable[[Any], Parts]] = {
    "AveragePooling2D": _average_pool,
    "Cropping2D": _cropping,
    "Dropout": _dropout,
    "Flatten": lambda layer: {"": Reshape((-1,))},
    "GlobalAveragePooling2D": lambda layer: {"": GlobalPool(torch.mean, keepdims=layer.keepdims)},
    "GlobalMaxPooling2D": lambda layer: {"": GlobalPool(torch.amax, keepdims=layer.keepdims)},
    "LayerScale": lambda layer: {"": LayerScale(_value(layer.gamma))},
    "LeakyReLU": lambda layer: {"": nn.LeakyReLU(layer.negative_slope)},
    "MaxPooling2D": _max_pool,
    "ReLU": _relu,
    "Reshape": _reshape,
    "SpatialDropout2D": lambda layer: {"": nn.Dropout2d(layer.rate)},
    "StochasticDepth": lambda layer: {"": StochasticDepth(layer.drop_path_rate, "row")},
    "ZeroPadding2D": _zero_padding,
}
_BY_LAYER_AND_SHAPE: Mapping[str, Callable[[Any, Shape], Parts]] = {
    "Activation": _activation,
    "BatchNormalization": _batch_norm,
    "Conv2D": _conv2d,
    "Dense": _dense,
    "DepthwiseConv2D": _depthwise,
    "LayerNormalization": _layer_norm,
    "Normalization": _normalization,
    "Rescaling": _rescaling,
    "SeparableConv2D": _separable,
    "Softmax": lambda layer, shape: {"": nn.Softmax(axis(layer.axis, len(shape)))},
}
