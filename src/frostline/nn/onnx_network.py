"""A model of ONNX as a trainable network, a tree of blocks with its last linear layer as the head.

onnx2torch makes a flat list of operators. Here they get their weights as parameters, a free batch size, and a tree that
`stages` can cut: a block lies between two places where one tensor carries everything, so that a residual block is
whole; blocks of one resolution form a part. A residual block that does not mix places (the second half of a
transformer's layer) belongs to the one before it.
"""

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, fx, nn

from frostline.errors import RequestError
from frostline.nn.onnx_file import onnx_library

_LEARNED = {
    "OnnxConcat": "token",
    "OnnxExpand": "token",
    "OnnxMatMul": "weight",
    "OnnxGemm": "weight",
    "OnnxPReLU": "weight",
}
"""Operators beside products and sums whose stored operands networks learn, and what these are."""

_SCORES = ("Softmax", "LogSoftmax", "OnnxSoftmaxV1V11", "OnnxSoftmax", "OnnxLogSoftmax", "OnnxLogSoftmaxV1V11")


class Imported(nn.Module):
    """A model of ONNX from images to logits.

    Args:
        graph: Of blocks, see `imported`.
        head: The name of the last linear layer in it.

    Attributes:
        constants: Names of floating-point tensors of the model that do not train: exponents, scales, bounds.
    """

    def __init__(self, graph: fx.GraphModule, head: str) -> None:
        super().__init__()
        self.graph = graph
        self.head_modules = (f"graph.{head}",)
        self.constants = tuple(n for n, b in graph.named_buffers() if b.is_floating_point() and "running_" not in n)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, W) to logits (B, num_classes)."""
        logits: Tensor = self.graph(images).flatten(1)
        return logits

    @property
    def classes(self) -> int:
        """Classes that the head tells apart."""
        head: Any = self.get_submodule(self.head_modules[0])
        return int(head.out_features if isinstance(head, nn.Linear) else head.out_channels)

    def renew_head(self, num_classes: int) -> None:
        """Put a new layer of so many classes in the place of the head."""
        parent, _, own = self.head_modules[0].rpartition(".")
        old: Any = self.get_submodule(self.head_modules[0])
        bias = old.bias is not None
        if isinstance(old, nn.Linear):
            new: nn.Module = nn.Linear(old.in_features, num_classes, bias=bias)
        else:
            new = nn.Conv2d(old.in_channels, num_classes, 1, bias=bias)
        setattr(self.get_submodule(parent), own, new)


class Owning(nn.Module):
    """An operator with the operand that the model stores for it, as a parameter.

    Args:
        operator: Of two or more operands.
        operand: The stored one.
        index: Its place among the operands.
        name: What it is called, which tells its role.
    """

    def __init__(self, operator: nn.Module, operand: Tensor, index: int, name: str) -> None:
        super().__init__()
        self.operator, self.index, self.name = operator, index, name
        self.register_parameter(name, nn.Parameter(operand.clone()))

    def forward(self, *operands: Any) -> Tensor:
        """Put the stored operand among the others, one that is joined to every image once for each, and compute."""
        operand = getattr(self, self.name)
        if type(self.operator).__name__ == "OnnxConcat" and len(operand) == 1 and operand.ndim == operands[0].ndim:
            operand = operand.expand(len(operands[0]), *operand.shape[1:])
        result: Tensor = self.operator(*operands[: self.index], operand, *operands[self.index :])
        return result


class Reshape(nn.Module):
    """A reshape to a stored shape, one dimension of it free.

    Args:
        shape: The free dimension is -1.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)

    def forward(self, values: Tensor) -> Tensor:
        """Reshape values."""
        return values.reshape(self.shape)


class Slice(nn.Module):
    """Parts of a tensor along some axes, as ONNX counts them."""

    def forward(
        self, values: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None
    ) -> Tensor:
        """Cut values from start to end, an axis after the other, backwards where a step is negative."""
        dimensions = range(len(starts)) if axes is None else axes.tolist()
        strides = [1] * len(starts) if steps is None else steps.tolist()
        for start, end, axis, step in zip(starts.tolist(), ends.tolist(), dimensions, strides, strict=True):
            values = values.flip(axis) if step < 0 else values
            part = slice(-start - 1, -end - 1, -step) if step < 0 else slice(start, end, step)
            values = values[(slice(None),) * (axis % values.ndim) + (part,)]
        return values


def imported(model: Any, example: Tensor, source: object) -> Imported:
    """Turn a checked model into a trainable network.

    Args:
        model: See `frostline.nn.onnx_file.read_model`.
        example: Images (B, C, H, W) of the batch size that the model was exported with.
        source: The file, for what is said of it.

    Raises:
        RequestError: It cannot be converted, has no linear layer, or works with one batch size only.
    """
    try:
        graph = onnx_library("onnx2torch").convert(model)
    except (NotImplementedError, KeyError, ValueError, RuntimeError) as error:
        raise RequestError(f"model.file: {source} cannot be made trainable by onnx2torch ({error})") from error
    with torch.no_grad():
        _fold(graph)
    _own_weights(graph)
    _drop_scores(graph)
    _mend(graph)
    with torch.no_grad():
        _follow_or_refuse(graph.eval(), example, source)
    _sweep(graph)
    head = _head(graph, source)
    names = _tree(graph)
    network = Imported(graph, names[head])
    _sweep(graph)
    _refuse_fixed(network, example, source)
    network.train()
    return network


def _mend(graph: fx.GraphModule) -> None:
    """Put right what onnx2torch reads off shapes that may be unknown, and what torch no longer does as it asks."""
    for name, module in list(graph.named_modules()):
        if isinstance(module, nn.LayerNorm) and module.elementwise_affine:
            module.normalized_shape = tuple(module.weight.shape)
        elif type(module).__name__ == "OnnxSlice":
            graph.add_submodule(name, Slice())


def _follow_or_refuse(graph: fx.GraphModule, example: Tensor, source: object) -> None:
    try:
        _follow(graph, example)
    except (RuntimeError, IndexError, TypeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        problem = f"does not run with more images than the {len(example)} of its export ({reason})"
        raise RequestError(f"model.file: {source} {problem}; export it with a free (dynamic) batch size") from error


def _fold(graph: fx.GraphModule) -> None:
    """Do once what the model does to stored tensors alone: exporters transpose weights in each pass."""
    computed, known = _computed(graph), dict[fx.Node, Any]()
    for node in list(graph.graph.nodes):
        if node in computed or node.op == "output":
            continue
        known[node] = _value(graph, node, known, torch.empty(0))
        if node.op == "call_module" and any(each.op == "get_attr" for each in node.all_input_nodes):
            name = f"folded_{len(known)}"
            graph.get_submodule("initializers").register_buffer(name, known[node].contiguous())
            with graph.graph.inserting_before(node):
                stored = graph.graph.get_attr(f"initializers.{name}")
            known[stored] = known[node]
            node.replace_all_uses_with(stored)


def _own_weights(graph: fx.GraphModule) -> None:
    for node in list(graph.graph.nodes):
        stored = [index for index, value in enumerate(node.args) if _is_learned(graph, node, value)]
        if len(stored) != 1 or node.kwargs:
            continue
        (index,) = stored
        operator, operand = _module(graph, node), _attribute(graph, node.args[index])
        if type(operator).__name__ == "OnnxMatMul" and index == 1 and operand.ndim == 2:
            _make_linear(graph, node, operand)
        elif operator is not None and (name := _name(operator, operand)):
            node.args = (*node.args[:index], *node.args[index + 1 :])
            graph.add_submodule(node.target, Owning(operator, operand, index, name))


def _make_linear(graph: fx.GraphModule, node: fx.Node, weight: Tensor) -> None:
    """Replace a product, and the sum after it, by a linear layer."""
    after = next(iter(node.users)) if len(node.users) == 1 else None
    stored = [] if after is None else [each for each in after.args if _is_learned(graph, after, each)]
    bias = _attribute(graph, stored[0]) if stored and _operation(graph, after) == "add" else None
    if bias is not None and bias.shape != weight.shape[1:]:
        bias = None
    linear = nn.Linear(weight.shape[0], weight.shape[1], bias=bias is not None)
    linear.weight.data = weight.T.contiguous()
    if bias is not None and after is not None:
        linear.bias.data = bias.clone()
        after.replace_all_uses_with(node)
        graph.graph.erase_node(after)
    node.args = node.args[:1]
    graph.add_submodule(str(node.target), linear)


def _is_learned(graph: fx.GraphModule, node: fx.Node, value: Any) -> bool:
    if node.op != "call_module" or not isinstance(value, fx.Node) or value.op != "get_attr":
        return False
    tensor = _attribute(graph, value)
    return tensor.is_floating_point() and tensor.numel() > 1


def _name(operator: nn.Module | None, operand: Tensor) -> str:
    """Return what a stored operand is called, or nothing where it is a constant."""
    function = getattr(operator, "math_op_function", None)
    if function is torch.add:
        return "position" if sum(size > 1 for size in operand.shape) > 1 else "bias"
    return "weight" if function is torch.mul else _LEARNED.get(type(operator).__name__, "")


def _operation(graph: fx.GraphModule, node: fx.Node | None) -> str:
    function = getattr(_module(graph, node), "math_op_function", None) if node is not None else None
    return getattr(function, "__name__", "")


def _module(graph: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return graph.get_submodule(str(node.target)) if node.op == "call_module" else None


def _attribute(graph: fx.GraphModule, node: Any) -> Tensor:
    tensor: Tensor = graph.get_buffer(str(node.target))
    return tensor


def _drop_scores(graph: fx.GraphModule) -> None:
    """Take off a last softmax: objectives take logits."""
    output = next(node for node in graph.graph.nodes if node.op == "output")
    while isinstance(last := output.args[0], fx.Node) and type(_module(graph, last)).__name__ in _SCORES:
        output.args = (last.args[0],)


def _follow(graph: fx.GraphModule, example: Tensor) -> None:
    """Run the graph with two batch sizes side by side, note shapes, and let reshapes take any batch size.

    A reshape that was stored with the batch size of the export gets the dimension free that the images of the batch lie
    in: the one that as many places lead to as to the batch before it.
    """
    computed = _computed(graph)
    exported, larger = dict[fx.Node, Any](), dict[fx.Node, Any]()
    for node in graph.graph.nodes:
        if node.op == "output":
            break
        exported[node] = _value(graph, node, exported, example)
        if type(_module(graph, node)).__name__ == "OnnxReshape" and computed.isdisjoint(node.all_input_nodes[1:]):
            _free(graph, node, exported, larger)
        larger[node] = _value(graph, node, larger, torch.cat([example, example[:1]]))
        if isinstance(exported[node], Tensor):
            node.meta |= {"shape": tuple(exported[node].shape), "dtype": exported[node].dtype}


def _value(graph: fx.GraphModule, node: fx.Node, known: dict[fx.Node, Any], images: Tensor) -> Any:
    if node.op == "placeholder":
        return images
    if node.op == "get_attr":
        return _attribute(graph, node)
    args: Any = fx.node.map_arg(node.args, known.__getitem__)
    kwargs: Any = fx.node.map_arg(node.kwargs, known.__getitem__)
    return node.target(*args) if callable(node.target) else graph.get_submodule(str(node.target))(*args, **kwargs)


def _free(graph: fx.GraphModule, node: fx.Node, exported: dict[fx.Node, Any], larger: dict[fx.Node, Any]) -> None:
    values: Any = node.args[0]
    before, after = exported[values].shape, list(exported[node].shape)
    changed = [at for at, (few, more) in enumerate(zip(before, larger[values].shape, strict=True)) if few != more]
    batch = changed[0] if changed else 0
    places = prod(before[:batch])
    free = next((at for at in range(len(after)) if prod(after[:at]) == places), None)
    if free is not None:
        after[free] = -1
        graph.add_submodule(str(node.target), Reshape(after))
        node.args = node.args[:1]


def _sweep(graph: fx.GraphModule) -> None:
    graph.graph.eliminate_dead_code()
    graph.delete_all_unused_submodules()
    for name, _ in list(graph.named_buffers()):
        if name.startswith("initializers.") and name not in {str(n.target) for n in graph.graph.nodes}:
            delattr(graph.get_submodule("initializers"), name.rpartition(".")[2])
    graph.recompile()


def _head(graph: fx.GraphModule, source: object) -> fx.Node:
    """Return the last layer with weights, which must be linear."""
    owners: list[fx.Node] = [
        n for n in graph.graph.nodes if n.op == "call_module" and any(True for _ in _parameters(graph, n))
    ]
    last = _module(graph, owners[-1]) if owners else None
    if isinstance(last, nn.Linear) or (isinstance(last, nn.Conv2d) and last.kernel_size == (1, 1)):
        return owners[-1]
    told = f"'{owners[-1].target}' ({type(last).__name__})" if owners else "nothing with weights"
    raise RequestError(
        f"model.file: {source} ends in {told}; a classifier ends in Gemm, in MatMul and Add, or in Conv of size 1"
    )


def _parameters(graph: fx.GraphModule, node: fx.Node) -> Iterator[nn.Parameter]:
    module = _module(graph, node)
    return iter(()) if module is None else module.parameters()


def _tree(graph: fx.GraphModule) -> dict[fx.Node, str]:
    """Move the operators into parts of blocks, and return their new names."""
    names: dict[fx.Node, str] = {}
    part, resolution = -1, None
    for number, block in enumerate(_blocks(graph)):
        if part < 0 or (_learns(graph, block) and _resolution(block[-1]) != resolution):
            part, resolution = part + 1, _resolution(block[-1])
        owners = [node for node in block if node.op == "call_module"]
        for node in owners:
            own = str(node.target).strip("/").replace("/", "_").replace(".", "_")
            names[node] = ".".join([f"part{part}", *([f"block{number}"] if len(owners) > 1 else []), own])
    for node, name in names.items():
        graph.add_submodule(name, graph.get_submodule(str(node.target)))
        node.target = name
    return names


def _learns(graph: fx.GraphModule, block: Sequence[fx.Node]) -> bool:
    """Tell whether a block has weights beside tokens and position tables, which belong to what they are joined to."""
    modules = (_module(graph, node) for node in block if any(True for _ in _parameters(graph, node)))
    return not all(isinstance(module, Owning) and module.name in ("token", "position") for module in modules)


def _resolution(node: fx.Node) -> object:
    shape: tuple[int, ...] = node.meta.get("shape", ())
    return shape[2:] if len(shape) == 4 else len(shape)


def _blocks(graph: fx.GraphModule) -> list[list[fx.Node]]:
    """Cut where one tensor carries everything, and join what a residual block of channels alone belongs to."""
    blocks: list[list[fx.Node]] = []
    for block in _between_narrows(graph):
        if blocks and _completes(graph, block, blocks[-1]):
            blocks[-1] += block
        else:
            blocks.append(block)
    return blocks


def _completes(graph: fx.GraphModule, block: Sequence[fx.Node], before: Sequence[fx.Node]) -> bool:
    """Tell whether two residual blocks are the halves of a transformer's layer: places first, channels then."""
    both_residual = _is_residual(graph, block) and _is_residual(graph, before)
    of_one_size = _resolution(block[-1]) == _resolution(before[-1])
    return both_residual and of_one_size and _mixes(graph, before) and not _mixes(graph, block)


def _between_narrows(graph: fx.GraphModule) -> Iterator[list[fx.Node]]:
    block: list[fx.Node] = []
    live: set[fx.Node] = set()
    computed, place = _computed(graph), {node: index for index, node in enumerate(graph.graph.nodes)}
    for node in graph.graph.nodes:
        if node.op == "output":
            break
        block.append(node)
        if node in computed and _is_floating(node):
            live.add(node)
        live = {each for each in live if any(place[user] > place[node] for user in each.users)}
        if node in computed and len(live) == 1:
            yield block
            block = []
    if block:
        yield block


def _computed(graph: fx.GraphModule) -> set[fx.Node]:
    """Return the nodes that depend on the images."""
    computed: set[fx.Node] = set()
    for node in graph.graph.nodes:
        if node.op == "placeholder" or not computed.isdisjoint(node.all_input_nodes):
            computed.add(node)
    return computed


def _is_floating(node: fx.Node) -> bool:
    return "dtype" not in node.meta or bool(node.meta["dtype"].is_floating_point)


def _is_residual(graph: fx.GraphModule, block: Sequence[fx.Node]) -> bool:
    return any(_operation(graph, node) == "add" and len(node.all_input_nodes) == 2 for node in block)


def _mixes(graph: fx.GraphModule, block: Sequence[fx.Node]) -> bool:
    """Tell whether a block brings places of the image together: by a window, or by attention."""
    modules = [inner for node in block for inner in (_module(graph, node) or nn.Identity()).modules()]
    windows = (each for each in modules if isinstance(each, nn.Conv2d) and each.kernel_size != (1, 1))
    return any(True for _ in windows) or any(type(each).__name__ == "OnnxMatMul" for each in modules)


def _refuse_fixed(network: Imported, example: Tensor, source: object) -> None:
    """Refuse a network whose batches are not its single images, one after the other."""
    images = torch.linspace(-1, 1, 3 * example[0].numel()).view(3, *example.shape[1:])
    with torch.no_grad():
        try:
            together, alone = network.eval()(images), torch.cat([network(image[None]) for image in images])
            holds = together.shape == alone.shape and torch.allclose(together, alone, rtol=1e-3, atol=1e-3)
        except RuntimeError:
            holds = False
    if not holds:
        problem = f"works with batches of {len(example)} only"
        raise RequestError(f"model.file: {source} {problem}; export it with a free (dynamic) batch size")
