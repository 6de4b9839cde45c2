"""Classifiers from files of ONNX: the same numbers, and everything trains."""

import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx_files import Fixed, Residual, Tokens, convolved, export, residual, write
from torch import Tensor, nn

from frostline.errors import RequestError, WeightsError
from frostline.nn.backbone import Backbone, ImageInput
from frostline.nn.onnx import Onnx
from frostline.nn.stages import stages

NETWORKS = {"residual": residual, "tokens": Tokens, "fixed": Fixed}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def reference(path: Path, images: Tensor) -> Tensor:
    """What onnxruntime makes of the images, one by one."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.cat([torch.from_numpy(session.run(None, {"images": each[None].numpy()})[0]) for each in images])


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_those_of_onnxruntime_for_any_batch_size(tmp_path, name, free, folded):
    if name == "fixed" and free:
        pytest.skip("what it fixes is the batch size")
    path = export(NETWORKS[name](), tmp_path / "model.onnx", free=free, folded=folded)
    images = torch.randn(3, 3, 32, 32)
    network = Onnx(file=str(path)).network(5).eval()
    expected = reference(path, images)
    assert expected.std() > 0.01
    torch.testing.assert_close(network(images), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(network(images[:1]), expected[:1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["residual", "tokens"])
def test_everything_that_trained_trains_again(tmp_path, name):
    original = NETWORKS[name]()
    network = Onnx(file=str(export(original, tmp_path / "model.onnx"))).network(5)
    assert sum(p.numel() for p in network.parameters()) == sum(p.numel() for p in original.parameters())
    network.train()(torch.randn(4, 3, 32, 32)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters() if p.numel() > 1)


def test_gradients_are_those_of_the_exported_network(tmp_path):
    original, images = residual(), torch.randn(4, 3, 32, 32)
    network = Onnx(file=str(export(original, tmp_path / "model.onnx"))).network(5)
    for each in (original, network):
        each.train()(images).square().mean().backward()
    ours, theirs = (sorted(p.grad.norm().item() for p in each.parameters()) for each in (network, original))
    assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-6)


def test_batch_normalisation_keeps_statistics_as_in_the_exported_network(tmp_path):
    original, images = residual(), torch.randn(4, 3, 32, 32)
    network = Onnx(file=str(export(original, tmp_path / "model.onnx"))).network(5)
    ours, theirs = ([m for m in n.modules() if isinstance(m, nn.BatchNorm2d)] for n in (network, original))
    assert len(ours) == len(theirs) == 4
    for each in (network, original):
        each.train()(images)
    for left, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(left.running_mean, right.running_mean)
        torch.testing.assert_close(left.running_var, right.running_var)


def test_a_head_of_another_size_is_new_and_the_rest_is_carried(tmp_path):
    recipe = Onnx(file=str(export(residual(), tmp_path / "model.onnx")))
    same, other = recipe.network(5), recipe.network(7)
    (head,) = other.head_modules
    differing = {n for n, w in other.state_dict().items() if not torch.equal(w, same.state_dict()[n])}
    assert differing == {f"{head}.weight", f"{head}.bias"}
    assert other.eval()(torch.randn(2, 3, 32, 32)).shape == (2, 7)
    assert (recipe.brings_head(5), recipe.brings_head(7)) == (True, False)


def test_a_last_convolution_is_the_head_and_a_last_softmax_goes(tmp_path):
    recipe = Onnx(file=str(path := export(convolved(), tmp_path / "model.onnx", size=16)))
    images = torch.randn(3, 3, 16, 16)
    logits = recipe.network(5).eval()(images)
    torch.testing.assert_close(logits.softmax(1), reference(path, images), atol=1e-4, rtol=1e-4)
    assert (logits < 0).any()
    assert recipe.network(9).eval()(images).shape == (3, 9)


def test_two_networks_of_a_recipe_share_nothing(tmp_path):
    recipe = Onnx(file=str(export(residual(), tmp_path / "model.onnx")))
    first, second = recipe.network(5), recipe.network(5)
    assert {id(p) for p in first.parameters()}.isdisjoint(id(p) for p in second.parameters())


def test_equal_weights_that_an_exporter_stores_once_train_apart(tmp_path):
    network = nn.Sequential(*(Residual(3, 3) for _ in range(2)), nn.Flatten(), nn.Linear(192, 5))
    recipe = Onnx(file=str(export(network, tmp_path / "model.onnx")))
    norms = [m for m in recipe.network(5).modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms[0].bias.data_ptr() != norms[1].bias.data_ptr()


def cut(path: Path) -> list[int]:
    """The parameters of each stage."""
    network = Onnx(file=str(path)).network(5)
    made = stages(network, torch.zeros(2, 3, 32, 32))
    owned = [id(p) for stage in made for p in stage.parameters.values()]
    assert sorted(owned) == sorted({id(p) for p in network.parameters()})
    assert {f"{network.head_modules[0]}.{kind}" for kind in ("weight", "bias")} == set(made[-1].parameters)
    return [sum(p.numel() for p in stage.parameters.values()) for stage in made]


def test_a_stage_is_a_residual_block_and_not_a_convolution(tmp_path):
    network = residual()
    expected = [
        sum(p.numel() for p in block.parameters()) for block in network if any(True for _ in block.parameters())
    ]
    assert cut(export(network, tmp_path / "model.onnx")) == expected


@pytest.mark.parametrize("free", [False, True])
def test_a_stage_is_a_whole_layer_of_a_transformer(tmp_path, free):
    network = Tokens()
    layers = [sum(p.numel() for p in layer.parameters()) for layer in network.layers]
    stem = sum(p.numel() for p in network.patches.parameters()) + network.position.numel()
    norm = sum(p.numel() for p in network.norm.parameters())
    given = cut(export(network, tmp_path / "model.onnx", free=free))
    assert given == [stem, *layers[:-1], layers[-1] + norm, 45]


def test_what_stays_constant_is_named(tmp_path):
    path = linear_file(tmp_path, ("Mul", ["images", "scale"], ["scaled"]), source="scaled", scale=np.float32(2.0))
    network = Onnx(file=str(path)).network(2)
    assert len(network.constants) == 1
    assert len(list(network.parameters())) == 2


def test_models_of_old_operator_sets_are_raised(tmp_path):
    draw = np.random.default_rng(0)
    norm = {name: draw.uniform(0.5, 2, 3).astype(np.float32) for name in ("scale", "shift", "mean", "variance")}
    path = write(
        tmp_path / "written.onnx",
        ("BatchNormalization", ["images", *norm], ["normed"]), ("Flatten", ["normed"], ["flat"]),
        ("Gemm", ["flat", "weight", "bias"], ["scores"]),
        opset=8, weight=draw.normal(size=(48, 2)).astype(np.float32), bias=np.ones(2, np.float32), **norm,
    )  # fmt: skip
    images = torch.randn(3, 3, 4, 4)
    network = Onnx(file=str(path)).network(2)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in network.modules()) == 1
    torch.testing.assert_close(network.eval()(images), reference(path, images), atol=1e-4, rtol=1e-4)


def test_slices_are_those_of_onnx(tmp_path):
    cut_ = {"starts": [-1, 1], "ends": [-5, 99], "axes": [3, 2], "steps": [-2, 1]}
    cut_ = {name: np.asarray(values) for name, values in cut_.items()}
    path = write(
        tmp_path / "written.onnx",
        ("Slice", ["images", *cut_], ["part"]), ("Flatten", ["part"], ["flat"]),
        ("MatMul", ["flat", "weight"], ["scores"]),
        weight=np.random.default_rng(0).normal(size=(18, 2)).astype(np.float32), **cut_,
    )  # fmt: skip
    images = torch.randn(3, 3, 4, 4)
    torch.testing.assert_close(Onnx(file=str(path)).network(2).eval()(images), reference(path, images))


def linear_file(tmp_path, *nodes, source: str = "images", **weights) -> Path:
    return write(
        tmp_path / "written.onnx",
        *nodes,
        ("Flatten", [source], ["flat"]),
        ("MatMul", ["flat", "weight"], ["product"]),
        ("Add", ["product", "bias"], ["scores"]),
        weight=np.random.default_rng(0).normal(size=(48, 2)).astype(np.float32),
        bias=np.ones(2, np.float32),
        **weights,
    )


def test_a_product_and_a_sum_are_a_linear_layer(tmp_path):
    path, images = linear_file(tmp_path), torch.randn(3, 3, 4, 4)
    network = Onnx(file=str(path)).network(2)
    assert {n.rpartition(".")[2]: tuple(p.shape) for n, p in network.named_parameters()} == {
        "weight": (2, 48), "bias": (2,)
    }  # fmt: skip
    torch.testing.assert_close(network.eval()(images), reference(path, images))


def test_the_input_is_that_of_the_graph_and_of_the_recipe(tmp_path):
    path = linear_file(tmp_path)
    assert Onnx(file=str(path)).input == ImageInput(size=4, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    assert Onnx(file=str(path), mean=[0.5] * 3, std=[1, 1, 1]).input.mean == (0.5, 0.5, 0.5)
    assert isinstance(Onnx(file=str(path)), Backbone)


def message(error: type[RequestError], path: Path, **arguments) -> str:
    with pytest.raises(RequestError) as caught:
        recipe = Onnx(file=str(path), **arguments)
        assert recipe.input
        recipe.network(2)
    assert type(caught.value) is error
    return str(caught.value)


def test_a_missing_file_is_told(tmp_path):
    assert message(RequestError, tmp_path / "none.onnx") == (
        f"model.file: there is no file {tmp_path / 'none.onnx'}; name a model of ONNX"
    )


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.99])
def test_a_truncated_file_is_refused(tmp_path, share):
    whole = export(residual(), tmp_path / "model.onnx").read_bytes()
    (tmp_path / "part.onnx").write_bytes(whole[: int(share * len(whole))])
    said = message(WeightsError, tmp_path / "part.onnx")
    assert said.startswith(f"model.file: {tmp_path / 'part.onnx'} is truncated or no model of ONNX (")
    assert said.endswith("export or download it again.")
    assert "\n" not in said


def test_operators_that_cannot_train_are_named(tmp_path):
    path = linear_file(tmp_path, ("Hardmax", ["images"], ["odd"]), ("Det", ["odd"], ["other"]), source="odd")
    assert message(RequestError, path).startswith(
        f"model.file: {path} has operators that onnx2torch cannot make trainable (Det, Hardmax of operator set 13); "
    )


@pytest.mark.parametrize("operators", [13, 20])
@pytest.mark.parametrize("layer", ["BatchNormalization", "Dropout"])
def test_an_export_in_training_mode_is_refused(tmp_path, layer, operators):
    part = nn.BatchNorm2d(3) if layer == "BatchNormalization" else nn.Dropout()
    network = nn.Sequential(part, nn.Flatten(), nn.Linear(3 * 16, 5)).train()
    path, mode = tmp_path / "model.onnx", torch.onnx.TrainingMode.TRAINING
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        example = (torch.randn(2, 3, 4, 4),)
        torch.onnx.export(network, example, str(path), dynamo=False, training=mode, opset_version=operators)
    assert message(RequestError, path) == (
        f"model.file: {path} was exported in training mode ({layer}); export it in eval mode "
        "(training=torch.onnx.TrainingMode.EVAL), with operator set 13 to 17"
    )


def test_weights_beside_the_model_are_read(tmp_path):
    inside = Onnx(file=str(linear_file(tmp_path))).network(2).state_dict()
    outside = Onnx(file=str(linear_file(tmp_path, external=True))).network(2).state_dict()
    assert (tmp_path / "weights.bin").is_file()
    assert all(torch.equal(inside[name], outside[name]) for name in inside)
    (tmp_path / "weights.bin").unlink()
    assert message(WeightsError, tmp_path / "written.onnx") == (
        f"model.file: {tmp_path / 'written.onnx'} keeps tensors in 'weights.bin'; put that file into {tmp_path}."
    )


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/hostname"])
def test_weights_outside_the_folder_are_refused(tmp_path, location):
    (folder := tmp_path / "inner").mkdir()
    path = linear_file(folder, external=True)
    (folder / "weights.bin").rename(tmp_path / "weights.bin")
    model = onnx.load(str(path), load_external_data=False)
    for tensor in model.graph.initializer:
        next(each for each in tensor.external_data if each.key == "location").value = location
    path.write_bytes(model.SerializeToString())
    assert message(WeightsError, path) == (
        f"model.file: {path} keeps tensors in '{location}', outside its folder; save it again with its tensors beside "
        "it or in it."
    )


@pytest.mark.parametrize("shape", [(1, 48), (1, 4, 4, 3), (1, 3, 4, 8)])
def test_what_takes_no_square_images_is_refused(tmp_path, shape):
    path = write(tmp_path / "written.onnx", ("Flatten", ["images"], ["scores"]), shape=shape)
    told = " x ".join(map(str, shape))
    assert message(RequestError, path) == (
        f"model.file: {path} takes images ({told}); one input of square float images N x 3 x H x W is needed"
    )


def test_an_open_size_is_asked_for_and_a_contrary_one_refused(tmp_path):
    path = export(residual(), tmp_path / "model.onnx", free=True)
    assert "takes images of 32 pixels; leave model.size out" in message(RequestError, path, size=16)
    model = onnx.load(str(path))
    for dimension in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        dimension.dim_param = "side"
    onnx.save(model, str(path))
    assert message(RequestError, path).startswith(f"model.size: {path} leaves the size of its images open; say ")
    assert Onnx(file=str(path), size=48).network(5).eval()(torch.randn(2, 3, 48, 48)).shape == (2, 5)


def test_a_graph_without_a_linear_end_is_refused(tmp_path):
    path = write(tmp_path / "written.onnx", ("Flatten", ["images"], ["scores"]))
    assert message(RequestError, path) == (
        f"model.file: {path} ends in nothing with weights; a classifier ends in Gemm, in MatMul and Add, or in Conv of "
        "size 1"
    )


def test_a_batch_size_that_cannot_be_freed_is_refused(tmp_path):
    path = write(
        tmp_path / "written.onnx",
        ("Transpose", ["images"], ["turned"]), ("Flatten", ["turned"], ["rows"]),
        ("Reshape", ["rows", "to"], ["flat"]), ("MatMul", ["flat", "weight"], ["scores"]),
        to=np.asarray([1, 48]), weight=np.ones((48, 2), np.float32),
    )  # fmt: skip
    assert message(RequestError, path).endswith("export it with a free (dynamic) batch size")


@pytest.mark.parametrize("name", ["onnx", "onnx2torch"])
def test_a_missing_library_is_one_sentence(tmp_path, monkeypatch, name):
    path = linear_file(tmp_path)
    monkeypatch.setitem(sys.modules, name, None)
    assert message(RequestError, path) == f"model: needs {name}, which is not here; pip install 'frostline[onnx]'"
