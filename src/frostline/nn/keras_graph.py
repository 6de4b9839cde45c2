"""A functional network of Keras as a graph of torch modules, named and grouped as its layers are."""

import operator
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import count
from typing import Any, cast

import torch
from torch import fx, nn

from frostline.errors import RequestError
from frostline.nn.keras_layers import PROBABILITIES, activation_of, axis, is_layer, parts, unknown

_BLOCK = re.compile(
    r"(?:^|_)(stage_\d+_block_\d+|conv\d+_block\d+|expanded_conv(?:_\d+)?|block_\d+|block\d+_\d+|block\d+[a-z]?"
    r"|mixed_?\d+[a-z]?|pool\d+)(?:_|$)"
)
_MOBILENET = re.compile(r"conv_(?:dw|pw|pad)_(\d+)")  # the first MobileNet numbers its layers instead of its blocks
_NASNET = re.compile(r"(?:normal|reduction|adjust)_\w*?_(stem_\d+|reduce_\d+|\d+)$")
IMAGES = "images"
"""The value that a network starts from."""

_MADE_UP = re.compile(r"(.+?)(?:_\d+)?")


@dataclass(frozen=True, kw_only=True, eq=False)
class Step:
    """One call of one layer.

    Attributes:
        layer: A layer or an operation of Keras.
        name: That of the layer; where Keras made it up from a count of its own, counted in this network alone.
        inputs: Names of the values that it takes, or numbers.
        output: Name of the value that it gives.
        shape: Of its first input, in Keras.
        path: Names of the networks inside the network that it lies in.
    """

    layer: Any
    name: str
    inputs: tuple[str | float, ...]
    output: str
    shape: tuple[int | None, ...]
    path: tuple[str, ...]

    @property
    def kind(self) -> str:
        """The name of the layer's class."""
        return type(self.layer).__name__

    @property
    def values(self) -> list[str]:
        """What of its inputs are values."""
        return [value for value in self.inputs if isinstance(value, str)]


@dataclass(frozen=True, kw_only=True, eq=False)
class KerasGraph:
    """The calls of a network of Keras in forward order; what turns logits into probabilities is left out.

    Attributes:
        steps: The calls, from the value `images` on.
        output: Name of what the network gives.
        features: Length of what it gives for one image.
        head: Index of the classifier in `steps`, or None where the network ends in features.
    """

    steps: tuple[Step, ...] = field(repr=False)
    output: str
    features: int
    head: int | None


def graph_of(model: Any) -> KerasGraph:
    """Read the graph of a network of one input and one output (B, N).

    Raises:
        RequestError: The network is no such thing.
    """
    functional = _functional(model)
    if functional is None or len(functional.inputs) != 1 or len(functional.outputs) != 1:
        raise RequestError(f"model: '{model.name}' is no Keras network of layers from one input to one output")
    shape = tuple(functional.outputs[0].shape)
    if len(shape) != 2 or shape[1] is None:
        raise RequestError(f"model: '{model.name}' gives {shape} where classes need (None, N), a vector for each image")
    values = {id(functional.inputs[0]): IMAGES}
    steps = list(_walk(functional, values, (), count()))
    output, head, steps = values[id(functional.outputs[0])], _head(steps, shape[1]), _recounted(steps)
    while head is not None and len(steps) - 1 > head and _makes_probabilities(steps[-1]):
        output = steps.pop().values[0]
    return KerasGraph(steps=tuple(steps), output=output, features=shape[1], head=head)


def torch_network(graph: KerasGraph, num_classes: int, *, bgr: bool) -> fx.GraphModule:
    """Convert a network, weights included, and give it a new classifier where its own has another size.

    Args:
        graph: The network in Keras.
        num_classes: Classes that the last layer tells apart.
        bgr: Its first layer expects blue first; the network here takes RGB all the same.

    Returns:
        A network from images (B, 3, H, W) to logits (B, num_classes).

    Raises:
        RequestError: It has a layer that there is no module for.
    """
    root, drawn, places = nn.Module(), fx.Graph(), dict[Any, list[str]]()
    nodes = {IMAGES: drawn.placeholder("images")}
    if bgr:
        nodes[IMAGES] = drawn.call_function(torch.flip, (nodes[IMAGES], [1]))
    for index, (step, block) in enumerate(zip(graph.steps, _blocks(graph.steps), strict=True)):
        if merge := _MERGES.get(step.kind):
            inputs = [nodes[value] if isinstance(value, str) else value for value in step.inputs]
            nodes[step.output] = merge(drawn, step, inputs)
            continue
        if step.layer not in places:  # a layer that is called twice has its weights once
            modules = parts(step.layer, step.shape)
            kept = _classifier(modules, num_classes) if index == graph.head else modules
            places[step.layer] = [_place(root, block, step.name + part, module) for part, module in kept.items()]
        nodes[step.output] = _through(drawn, places[step.layer], nodes[step.values[0]])
    output = nodes[graph.output]
    if graph.head is None:
        predictions = _place(root, (), "predictions", _new(nn.Linear(graph.features, num_classes)))
        output = _through(drawn, [predictions], output)
    drawn.output(output)
    return fx.GraphModule(root, drawn)


def _through(drawn: fx.Graph, places: Sequence[str], node: fx.Node) -> fx.Node:
    return reduce(lambda node, place: drawn.call_module(place, (node,)), places, node)


def _functional(model: Any) -> Any:
    """Return a network that is made of layers, or None for a layer, or a network with code of its own."""
    inner = getattr(model, "_functional", model)
    return inner if type(inner).__name__ == "Functional" else None


def _walk(functional: Any, values: dict[int, str], path: tuple[str, ...], numbers: Iterator[int]) -> Iterator[Step]:
    """Yield the calls in a network, and in the networks inside it, and name each value by the id of its tensor."""
    for depth in sorted(functional._nodes_by_depth, reverse=True):
        for node in functional._nodes_by_depth[depth]:
            if node.is_input:
                continue
            layer, given, output = node.operation, node.arguments.keras_tensors, node.outputs[0]
            if len({len(tensor.shape) for tensor in given}) != 1 or len(node.outputs) != 1:
                raise unknown(layer)
            if inner := _functional(layer):
                within = {id(own): values[id(tensor)] for own, tensor in zip(inner.inputs, given, strict=True)}
                yield from _walk(inner, within, (*path, layer.name), numbers)
                values[id(output)] = within[id(inner.outputs[0])]
                continue
            inputs = tuple(_inputs(node.arguments.args, values))
            if sum(isinstance(value, str) for value in inputs) != len(given):
                raise unknown(layer)
            values[id(output)] = f"value{next(numbers)}"
            yield Step(
                layer=layer,
                name=layer.name,
                inputs=inputs,
                output=values[id(output)],
                shape=tuple(given[0].shape),
                path=path,
            )


def _recounted(steps: Sequence[Step]) -> list[Step]:
    """Count the layers that nobody named in this network: Keras counts all that the process ever made."""
    names, counts = dict[Any, str](), Counter[str]()
    for step in steps:
        kind = _MADE_UP.fullmatch(step.name)
        if step.layer not in names and kind and kind[1] == _snake(step.kind):
            counts[kind[1]] += 1
            names[step.layer] = f"{kind[1]}_{counts[kind[1]]}"
    return [replace(step, name=names.get(step.layer, step.name)) for step in steps]


def _snake(name: str) -> str:
    words = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", words).lower()


def _inputs(arguments: Any, values: Mapping[int, str]) -> Iterator[str | float]:
    for argument in arguments:
        if isinstance(argument, list | tuple):
            yield from _inputs(argument, values)
        elif isinstance(argument, int | float):
            yield argument
        elif id(argument) in values:
            yield values[id(argument)]


def _head(steps: Sequence[Step], features: int) -> int | None:
    """Return the index of the last layer if it can be a classifier, with nothing but the outputs' form behind it."""
    last = max((i for i, step in enumerate(steps) if not _gives_form(step)), default=0)
    layer = steps[last].layer
    units = layer.units if steps[last].kind == "Dense" else _filters(layer) if steps[last].kind == "Conv2D" else None
    return last if units == features and activation_of(layer) in ("linear", *PROBABILITIES) else None


def _gives_form(step: Step) -> bool:
    if step.kind == "Activation":
        return activation_of(step.layer) in ("linear", *PROBABILITIES)
    return step.kind in ("Flatten", "Reshape", "Softmax")


def _makes_probabilities(step: Step) -> bool:
    return step.kind == "Softmax" or activation_of(step.layer) in PROBABILITIES


def _filters(conv: Any) -> int | None:
    """Return the outputs of a convolution that does what a linear layer does for each pixel, or None."""
    pointwise = set(conv.kernel_size) == {1} and set(conv.strides) == {1} and conv.groups == 1
    return int(conv.filters) if pointwise else None


def _classifier(modules: Mapping[str, nn.Module], num_classes: int) -> dict[str, nn.Module]:
    """Return a classifier without probabilities, new where it tells another number of classes apart."""
    own = modules[""]
    if len(cast(nn.Parameter, own.weight)) == num_classes:
        return {"": own}
    if isinstance(own, nn.Conv2d):
        sides = cast(tuple[int, int], own.kernel_size)
        return {"": _new(nn.Conv2d(own.in_channels, num_classes, sides, bias=own.bias is not None))}
    linear = cast(nn.Linear, own)
    return {"": _new(type(linear)(linear.in_features, num_classes, bias=linear.bias is not None))}


def _new(layer: nn.Linear | nn.Conv2d) -> nn.Module:
    """Draw a classifier as Keras does: Glorot and Bengio (2010), without bias."""
    nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _place(root: nn.Module, block: tuple[str, ...], name: str, module: nn.Module) -> str:
    """Put a module into its block, named by what its layer's name says beside that of the block."""
    holder = root
    for part in block:
        if part not in holder._modules:
            holder.add_module(part, nn.Module())
        holder = holder.get_submodule(part)
    short = _plain(name)
    if block:
        short = short.partition(f"{block[-1]}_")[2] or short
    while hasattr(holder, short):
        short += "_"
    holder.add_module(short, module)
    return ".".join((*block, short))


def _blocks(steps: Sequence[Step]) -> list[tuple[str, ...]]:
    """Return the block of each step: what its name says, or its surroundings do where names say nothing."""
    named = [_named_block(step.name) for step in steps]
    for segment in _segments(steps):
        said = [named[i] for i in segment if named[i]]
        if said and sum(steps[i].kind not in _LIGHT for i in segment) > 1:
            for i in segment:
                named[i] = named[i] or said[-1]
    of_value = {step.output: name for step, name in zip(steps, named, strict=True)}
    for i, step in enumerate(steps):
        if named[i] is None and step.kind in _LIGHT and step.values[0] in of_value:
            named[i] = of_value[step.output] = of_value[step.values[0]]
    return [(*map(_plain, step.path), *([name] if name else [])) for step, name in zip(steps, named, strict=True)]


def _named_block(name: str) -> str | None:
    if found := _MOBILENET.match(name):
        return f"conv_{found[1]}"
    if found := _NASNET.search(name):
        return f"cell_{found[1]}"
    found = _BLOCK.search(name)
    return found[1] if found else None


def _segments(steps: Sequence[Step]) -> list[list[int]]:
    """Cut the steps wherever a single value is all that the rest of the network takes from before."""
    last_use = {value: i for i, step in enumerate(steps) for value in step.values}
    segments, alive = [list[int]()], {IMAGES}
    for i, step in enumerate(steps):
        segments[-1].append(i)
        alive = {value for value in {*alive, step.output} if last_use.get(value, -1) > i}
        if len(alive) == 1:
            segments.append([])
    return [segment for segment in segments if segment]


def _plain(name: str) -> str:
    """Return a name that can be an attribute's."""
    return re.sub(r"\W", "_", name)


def _merge(function: Callable[[Any, Any], Any]) -> "_Merge":
    return lambda graph, step, inputs: reduce(lambda a, b: graph.call_function(function, (a, b)), inputs)


def _concatenate(graph: fx.Graph, step: Step, inputs: Sequence[Any]) -> fx.Node:
    return graph.call_function(torch.cat, (list(inputs), axis(step.layer.axis, len(step.shape))))


def _scaled_sum(graph: fx.Graph, step: Step, inputs: Sequence[Any]) -> fx.Node:
    """Draw the residual connection of Inception-ResNet: x + scale * r."""
    scaled = graph.call_function(operator.mul, (inputs[1], float(step.layer.scale)))
    return graph.call_function(operator.add, (inputs[0], scaled))


def _average(graph: fx.Graph, step: Step, inputs: Sequence[Any]) -> fx.Node:
    if not is_layer(step.layer):  # the function of this name takes weights
        raise unknown(step.layer)
    total = _merge(operator.add)(graph, step, inputs)
    return graph.call_function(operator.truediv, (total, len(inputs)))


_Merge = Callable[[fx.Graph, Step, Sequence[Any]], fx.Node]
_MERGES: Mapping[str, _Merge] = {
    "Add": _merge(operator.add),
    "Average": _average,
    "Concatenate": _concatenate,
    "CustomScaleLayer": _scaled_sum,
    "Divide": _merge(operator.truediv),
    "Maximum": _merge(torch.maximum),
    "Minimum": _merge(torch.minimum),
    "Multiply": _merge(operator.mul),
    "Subtract": _merge(operator.sub),
    "TrueDivide": _merge(operator.truediv),
}
_LIGHT = ("Activation", "ReLU", "Dropout", "StochasticDepth", "ZeroPadding2D", *_MERGES)
"""Layers without weights that belong to the block of what they work on."""
