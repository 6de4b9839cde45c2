"""A file of ONNX as a checked model: whole, inside its folder, from one image to one vector of scores."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from frostline.errors import RequestError, WeightsError
from frostline.nn.extras import library

_OLDEST = 13
"""Operators of older sets are raised to this one: onnx2torch knows few of them."""


def onnx_library(name: str = "onnx") -> Any:
    """Import a library of the extra."""
    return library(name, extra="onnx")


def read_model(path: Path) -> Any:
    """Read a model with all its tensors.

    Raises:
        WeightsError: The file is truncated or no model, or its tensors lie outside its folder or nowhere.
        RequestError: It was exported in training mode, has operators that onnx2torch does not know, or not one output.
    """
    onnx = onnx_library()
    model = _parsed(path)
    _refuse_outside(model, path)
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
        onnx.checker.check_model(model)
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise WeightsError(_broken(path, str(error))) from error
    _refuse_training(model, path)
    _without_identities(model.graph)
    model = _raised(model)
    _refuse_unknown(model, path)
    if len(model.graph.output) != 1:
        names = ", ".join(output.name for output in model.graph.output)
        raise RequestError(f"model.file: {path} gives {names}; a classifier gives one tensor of scores")
    return model


def image_shape(model: Any, path: Path, channels: int) -> tuple[int | None, int | None]:
    """Return the batch size and the height of the images that a model takes, None for what the graph leaves open.

    Raises:
        RequestError: It does not take square images of so many channels, channels first.
    """
    weights = {each.name for each in model.graph.initializer}
    inputs = [each for each in model.graph.input if each.name not in weights]
    shapes = {each.name: [d.dim_value or None for d in each.type.tensor_type.shape.dim] for each in inputs}
    told = ", ".join(f"{n} ({' x '.join(str(d or '?') for d in shape)})" for n, shape in shapes.items()) or "nothing"
    refusal = f"model.file: {path} takes {told}; one input of square float images N x {channels} x H x W is needed"
    if len(inputs) != 1 or inputs[0].type.tensor_type.elem_type != onnx_library().TensorProto.FLOAT:
        raise RequestError(refusal)
    (shape,) = shapes.values()
    if len(shape) != 4 or shape[1] not in (channels, None) or shape[2] != shape[3]:
        raise RequestError(refusal)
    return shape[0], shape[2]


def _parsed(path: Path) -> Any:
    onnx, decode = onnx_library(), onnx_library("google.protobuf.message").DecodeError
    try:
        return onnx.load(str(path), load_external_data=False)
    except (decode, ValueError) as error:
        raise WeightsError(_broken(path, str(error))) from error


def _broken(path: Path, reason: str) -> str:
    first = (reason.strip().splitlines() or ["empty"])[0].rstrip(".")
    size = path.stat().st_size
    return f"model.file: {path} is truncated or no model of ONNX ({size} bytes: {first}); export or download it again."


def _refuse_outside(model: Any, path: Path) -> None:
    """Refuse tensors kept in files elsewhere: a model must not make a run read what it likes."""
    folder = path.parent.resolve()
    for location in sorted(set(_external(model.graph))):
        file = (folder / location).resolve()
        if not file.is_relative_to(folder):
            problem = f"keeps tensors in '{location}', outside its folder"
            raise WeightsError(f"model.file: {path} {problem}; save it again with its tensors beside it or in it.")
        if not file.is_file():
            raise WeightsError(f"model.file: {path} keeps tensors in '{location}'; put that file into {path.parent}.")


def _external(graph: Any) -> Iterator[str]:
    for tensor in _tensors(graph):
        if tensor.data_location == onnx_library().TensorProto.EXTERNAL:
            yield next((each.value for each in tensor.external_data if each.key == "location"), "")


def _tensors(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for attribute in (each for node in graph.node for each in node.attribute):
        yield from (attribute.t, *attribute.tensors)
        for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            yield from _tensors(inner)


def _without_identities(graph: Any) -> None:
    """Give every operator its own tensors: exporters store equal ones once and hand them on as identities."""
    source: dict[str, str] = {}
    final = {each.name for each in graph.output}
    kept = []
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = source.get(name, name)
        if node.op_type == "Identity" and node.output[0] not in final:
            source[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)


def _raised(model: Any) -> Any:
    version = next((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), _OLDEST)
    if version >= _OLDEST:
        return model
    converter = onnx_library("onnx.version_converter")
    try:
        return converter.convert_version(model, _OLDEST)
    except (RuntimeError, converter.ConvertError):  # what stays old and unknown is refused by name
        return model


def _refuse_training(model: Any, path: Path) -> None:
    """Refuse an export whose layers would train inside the graph: normalisation by the batch, dropout at work."""
    stored = {each.name: each for each in model.graph.initializer}
    stored |= {node.output[0]: node.attribute[0].t for node in model.graph.node if node.op_type == "Constant"}
    training = {node.op_type for node in model.graph.node if _trains(node, stored)}
    if training:
        raise RequestError(
            f"model.file: {path} was exported in training mode ({', '.join(sorted(training))}); export it in eval mode "
            "(training=torch.onnx.TrainingMode.EVAL), with operator set 13 to 17"
        )


def _trains(node: Any, stored: Mapping[str, Any]) -> bool:
    if node.op_type == "BatchNormalization":
        return len(node.output) > 1 or any(each.name == "training_mode" and each.i for each in node.attribute)
    mode = stored.get(node.input[2]) if node.op_type == "Dropout" and len(node.input) > 2 else None
    return mode is not None and bool(onnx_library("onnx.numpy_helper").to_array(mode))


def _refuse_unknown(model: Any, path: Path) -> None:
    registry = onnx_library("onnx2torch.node_converters.registry")
    onnx_library("onnx2torch")
    versions = {each.domain: each.version for each in model.opset_import}
    unknown = set()
    for node in model.graph.node:
        try:
            registry.get_converter(node.op_type, versions.get(node.domain, 0), node.domain)
        except NotImplementedError:
            unknown.add(f"{node.domain}.{node.op_type}".lstrip("."))
    if unknown:
        kinds = f"{', '.join(sorted(unknown))} of operator set {versions.get('', '?')}"
        raise RequestError(
            f"model.file: {path} has operators that onnx2torch cannot make trainable ({kinds}); export it with "
            "operator set 13 to 17 and without these"
        )
