import os
import random
import subprocess
import sys
import warnings
import zipfile
from contextlib import contextmanager
from urllib.error import URLError

import pytest
import torch
from torch import nn

from frostline.errors import RequestError, WeightsError
from frostline.nn.backbone import Backbone, ImageInput
from frostline.nn.keras import Keras
from frostline.nn.keras_layers import SameAverage
from frostline.nn.stages import stages

pytest.importorskip("h5py", reason="the extra keras is not installed")
SMALL = {"name": "MobileNetV2", "arguments": {"alpha": 0.35, "classes": 7}, "size": 32}


@pytest.fixture(scope="module")
def keras():
    """Keras on torch, as the recipe starts it."""
    Keras(name="MobileNetV2", weights=None)
    return sys.modules["keras"]


def shaken(model):
    """Give every variable of a model values that a mistake in its place would show."""
    draw = torch.Generator().manual_seed(0)
    for variable in model.variables:
        name = variable.path.rsplit("/", 1)[-1]
        if name in ("moving_variance", "variance", "gamma"):
            variable.assign(torch.rand(variable.shape, generator=draw) + 0.5)
        elif name in ("moving_mean", "mean", "beta", "bias"):
            variable.assign(torch.randn(variable.shape, generator=draw) * 0.3)
    return model


def application(keras, name="MobileNetV2", size=32, **arguments):
    function = getattr(keras.applications, name)
    return shaken(function(weights=None, input_shape=(size, size, 3), classifier_activation=None, **arguments))


@contextmanager
def quiet():
    """Keras reads tensors in a way that NumPy 2 deprecates when it writes a file; we only read."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        yield


def save(model, path):
    """Write a whole network or its weights, whichever the file's name says."""
    with quiet():
        (model.save if path.suffix == ".keras" else model.save_weights)(path)
    return path


def outputs_of(model, images):
    """What Keras itself makes of images (B, 3, H, W)."""
    with torch.no_grad():
        return model(images.movedim(1, -1), training=False).cpu()


def assert_same(network, model, images):
    expected = outputs_of(model, images)
    with torch.no_grad():
        given = network(images)
    assert given.shape == expected.shape
    assert expected.std() > 1e-3, "outputs that hardly differ prove nothing"
    assert (given - expected).abs().max() <= 1e-4 * expected.abs().max()


def every_layer(keras):
    """A network that has each kind of layer at least once, with sides that do not divide by strides."""
    layers, images = keras.layers, keras.Input((13, 14, 3))
    x = layers.Normalization(mean=[0.1, 0.2, 0.3], variance=[1.0, 2.0, 0.5])(
        layers.Rescaling([2.0, 1.0, 3.0], 0.5)(images)
    )
    x = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu", name="stem")(x)
    x = layers.BatchNormalization(scale=False, name="stem_bn")(x)
    y = layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same", name="block_1_depthwise")(x)
    y = layers.LeakyReLU(0.3)(layers.BatchNormalization(center=False)(y))
    y = layers.Conv2D(8, 2, padding="same", groups=2, use_bias=False, activation="silu", name="block_1_conv")(y)
    x = layers.Add(name="block_1_add")([x, layers.Dropout(0.2, noise_shape=(None, 1, 1, 1))(y)])
    pooled = layers.GlobalAveragePooling2D(name="block_2_squeeze")(x)
    gate = layers.Dense(8, activation="hard_sigmoid")(layers.Reshape((1, 1, 8))(pooled))
    x = layers.Multiply(name="block_2_excite")([x, gate])
    x = layers.SeparableConv2D(12, 3, strides=2, depth_multiplier=2, padding="same", name="block_3_sep")(x)
    x = layers.LayerNormalization(epsilon=1e-3)(layers.ReLU(6.0)(x))
    x = layers.Cropping2D(((0, 2), (1, 0)))(layers.ZeroPadding2D(((1, 2), (2, 0)))(x))
    pools = [
        layers.MaxPooling2D(3, strides=2, padding="same")(x),
        layers.AveragePooling2D(3, strides=2, padding="same")(x),
        layers.AveragePooling2D(2, strides=2, padding="same")(layers.Conv2D(4, 3, dilation_rate=2, padding="same")(x)),
    ]
    x = layers.Concatenate(name="mixed0")(pools)
    means = [layers.Maximum()([x, layers.Activation("tanh")(x)]), layers.Minimum()([x, layers.Activation("gelu")(x)])]
    x = layers.Average()([layers.Subtract()(means), layers.SpatialDropout2D(0.1)(x) * 0.5 + 1.0])
    maximum = layers.GlobalMaxPooling2D(keepdims=True)(x)
    x = layers.Flatten()(layers.Multiply()([x, maximum]))
    x = layers.BatchNormalization()(layers.Dense(16, activation="elu")(x))
    inner = keras.Sequential(
        [keras.Input((16,)), layers.Dense(12, activation="softplus"), layers.LayerNormalization()], name="inner"
    )
    return shaken(keras.Model(images, layers.Dense(5, name="predictions")(inner(x))))


def whole(path, **more):
    return Keras(**{"name": None, "weights": str(path), "size": 13, "pixels": "tf"} | more)


@pytest.fixture
def file(keras, tmp_path):
    """A network with every layer in a file of its own."""
    model = every_layer(keras)
    return model, save(model, tmp_path / "every.keras")


def test_every_layer_computes_what_keras_computes(file):
    model, path = file
    assert_same(whole(path).network(5).eval(), model, torch.randn(4, 3, 13, 14))


def test_a_small_mobilenet_computes_what_keras_computes_with_weights_from_each_kind_of_file(keras, tmp_path):
    model = application(keras, alpha=0.35, classes=7)
    for name in ("whole.keras", "own.weights.h5"):
        save(model, tmp_path / name)
        recipe = Keras(**SMALL, weights=str(tmp_path / name))
        assert_same(recipe.network(7).eval(), model, torch.randn(4, 3, 32, 32))


def test_weights_from_a_file_of_the_old_kind_are_the_same(keras, tmp_path):
    import h5py

    model = application(keras, alpha=0.35, classes=7)
    with h5py.File(tmp_path / "old.h5", "w") as old, quiet():  # as tf.keras wrote its published weights
        keras.src.legacy.saving.legacy_h5_format.save_weights_to_hdf5_group(old, model)
    assert_same(Keras(**SMALL, weights=str(tmp_path / "old.h5")).network(7).eval(), model, torch.randn(4, 3, 32, 32))


FAMILIES = [
    ("ConvNeXtTiny", 32, {}),
    ("DenseNet121", 33, {}),
    ("EfficientNetB0", 47, {}),
    ("EfficientNetV2B0", 33, {}),
    ("InceptionResNetV2", 75, {}),
    ("InceptionV3", 75, {}),
    ("MobileNet", 32, {"alpha": 0.25}),
    ("MobileNetV2", 97, {"alpha": 0.35}),
    ("MobileNetV3Large", 33, {"minimalistic": True}),
    ("MobileNetV3Small", 33, {}),
    ("NASNetLarge", 32, {}),
    ("ResNet50", 33, {}),
    ("ResNet50V2", 33, {}),
    ("VGG16", 32, {}),
    ("Xception", 71, {}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size", "arguments"), FAMILIES, ids=[name for name, _, _ in FAMILIES])
def test_every_family_computes_what_keras_computes_and_has_stages(keras, tmp_path, name, size, arguments):
    model = application(keras, name, size, classes=4, **arguments)
    save(model, tmp_path / "own.weights.h5")
    recipe = Keras(
        name=name, weights=str(tmp_path / "own.weights.h5"), size=size, arguments={"classes": 4, **arguments}
    )
    network = recipe.network(4)
    images = torch.rand(2, 3, size, size)
    expects = recipe.input
    images = (images - torch.tensor(expects.mean).view(3, 1, 1)) / torch.tensor(expects.std).view(3, 1, 1)
    flipped = images.flip(1) if recipe.blue_first else images
    expected = outputs_of(model, flipped)
    with torch.no_grad():
        given = network.eval()(images)
    assert (given - expected).abs().max() <= 1e-4 * expected.abs().max()
    cut = stages(network, images)
    # The cells of NASNet are no modules in Keras and run side by side, so that its layers are stages.
    assert 5 <= len(cut) <= (200 if name.startswith("NASNet") else 80)
    assert len(cut[-1].parameters) == 2
    assert sorted(n for stage in cut for n in stage.parameters) == sorted(n for n, _ in network.named_parameters())


PREPROCESSED = ["ResNet50", "VGG19", "DenseNet169", "MobileNetV2", "MobileNet", "InceptionV3", "InceptionResNetV2",
                "Xception", "NASNetLarge", "ResNet101V2", "MobileNetV3Small", "EfficientNetB3", "EfficientNetV2M",
                "ConvNeXtBase"]  # fmt: skip


@pytest.mark.parametrize("name", PREPROCESSED)
def test_images_reach_the_first_layer_as_keras_preprocesses_them(keras, name):
    import inspect

    module = inspect.getmodule(getattr(keras.applications, name))
    bytes_ = torch.randint(0, 256, (2, 4, 4, 3), generator=torch.Generator().manual_seed(0)).float()
    expected = torch.as_tensor(module.preprocess_input(bytes_.numpy().copy()).copy())
    recipe = Keras(name=name, weights=None)
    pixels = bytes_.movedim(-1, 1) / 255
    normalised = (pixels - torch.tensor(recipe.input.mean).view(3, 1, 1)) / torch.tensor(recipe.input.std).view(3, 1, 1)
    seen = normalised.flip(1) if recipe.blue_first else normalised
    torch.testing.assert_close(seen.movedim(1, -1), expected, rtol=1e-5, atol=1e-4)


def test_a_network_of_blue_first_weights_takes_red_first_images(keras, tmp_path):
    path = save(model := application(keras, alpha=0.35, classes=7), tmp_path / "own.weights.h5")
    images = torch.randn(2, 3, 32, 32)
    network = Keras(**SMALL, weights=str(path), pixels="caffe").network(7)
    assert_same(lambda x: network.eval()(x.flip(1)), model, images)


def test_average_pooling_leaves_padding_out_on_uneven_sides_as_tensorflow_does(keras):
    # Keras on torch repeats the edge here; the weights were trained with TensorFlow, which does not.
    images = torch.randn(2, 3, 6, 7)
    given = SameAverage((3, 3), (2, 2))(images)
    rows, columns = [(0, 3), (2, 5), (4, 6)], [(0, 2), (1, 4), (3, 6), (5, 7)]
    expected = [[images[:, :, a:b, c:d].mean((2, 3)) for c, d in columns] for a, b in rows]
    torch.testing.assert_close(given, torch.stack([torch.stack(row, -1) for row in expected], -2))


@pytest.mark.slow
def test_sizes_are_those_of_keras(keras):
    variants = "B1 B2 B3 B4 B5 B6 B7 V2B1 V2B2 V2B3 V2S V2M V2L"
    lettered = [f"EfficientNet{variant}" for variant in variants.split()]
    for name in ("InceptionV3", "InceptionResNetV2", "Xception", "NASNetLarge", "ResNet50", *lettered):
        model = getattr(keras.applications, name)(weights=None)
        assert Keras(name=name, weights=None).input.size == model.input_shape[1], name


def small(**more):
    torch.manual_seed(3)
    return Keras(**SMALL | {"weights": None} | more).network(7)


def test_a_network_is_made_of_modules_of_torch_that_follow_the_mode_and_the_flags(keras):
    network = small()
    kinds = {type(module) for module in network.modules()}
    assert {nn.Conv2d, nn.BatchNorm2d, nn.ReLU6, nn.Linear} <= kinds
    assert not any("keras" in kind.__module__ and "frostline" not in kind.__module__ for kind in kinds)
    norm, images = network.bn_Conv1, torch.randn(4, 3, 32, 32)
    assert norm.eps == pytest.approx(1e-3)
    assert norm.momentum == pytest.approx(1e-3)  # 0.999 in Keras
    before = norm.running_mean.clone()
    network.eval()(images)
    assert torch.equal(norm.running_mean, before)
    network.Conv1.requires_grad_(False)
    network.train()(images).sum().backward()
    assert network.Conv1.weight.grad is None
    assert network.predictions.weight.grad is not None
    batch = network.Conv1(network.eval().get_submodule("Conv1_pad")(images)).mean((0, 2, 3))
    torch.testing.assert_close(norm.running_mean, 0.999 * before + 0.001 * batch)


def test_stages_follow_the_blocks_and_partition_the_network(keras):
    network = small()
    cut = stages(network, torch.zeros(1, 3, 32, 32))
    assert len(cut) == 20
    assert set(cut[-1].parameters) == {"predictions.weight", "predictions.bias"}
    assert {name.split(".")[0] for name in cut[4].parameters} == {"block_3"}
    owned = [name for stage in cut for name in stage.parameters]
    assert sorted(owned) == sorted(name for name, _ in network.named_parameters())
    held = [name for stage in cut for name in stage.buffers]
    assert sorted(held) == sorted(name for name, _ in network.named_buffers())


def test_new_weights_and_names_come_from_the_seed_of_torch_alone(keras):
    python = random.getstate()
    first = small()
    keras.layers.Conv2D(3, 3)
    random.random()
    again, other = small(), Keras(**SMALL, weights=None).network(7)
    assert list(first.state_dict()) == list(again.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True))
    assert not torch.equal(first.Conv1.weight, other.Conv1.weight)
    random.setstate(python)
    small()
    assert random.getstate() == python


def test_names_do_not_depend_on_what_the_process_built_before(keras, file):
    _, path = file
    assert list(whole(path).network(5).state_dict()) == list(whole(path).network(5).state_dict())
    names = [list(Keras(name="MobileNetV3Small", weights=None, size=32).network(3).state_dict()) for _ in range(2)]
    assert names[0] == names[1]


def test_a_classifier_of_another_size_is_new_and_all_else_is_carried(keras, tmp_path):
    path = save(application(keras, alpha=0.35, classes=7), tmp_path / "own.weights.h5")
    recipe = Keras(**SMALL, weights=str(path))
    assert recipe.brings_head(7)
    assert not recipe.brings_head(4)
    same, other = recipe.network(7).state_dict(), recipe.network(4).state_dict()
    assert {n for n in same if same[n].shape != other[n].shape} == {"predictions.weight", "predictions.bias"}
    assert all(torch.equal(same[n], other[n]) for n in same if not n.startswith("predictions"))
    bound = (6 / (1280 + 4)) ** 0.5  # Glorot and Bengio (2010), as Keras draws
    assert 0.9 * bound < other["predictions.weight"].abs().max() <= bound
    assert not other["predictions.bias"].any()


def test_a_classifier_that_is_a_convolution_is_replaced_too(keras):
    network = Keras(name="MobileNetV3Small", weights=None, size=32).network(3).eval()
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 3)
    assert network.logits.out_channels == 3


def test_a_network_without_a_classifier_gets_one(keras):
    network = small(arguments={"alpha": 0.35, "include_top": False})
    assert network.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
    assert not Keras(name="MobileNetV2", arguments={"include_top": False}).brings_head(1000)
    assert set(stages(network, torch.zeros(1, 3, 32, 32))[-1].parameters) == {"predictions.weight", "predictions.bias"}


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("apart", [False, True])
def test_logits_come_out_where_keras_gives_probabilities(keras, tmp_path, activation, apart):
    images = keras.Input((4, 4, 3))
    x = keras.layers.Flatten()(images)
    x = keras.layers.Dense(3, activation=None if apart else activation)(x)
    model = keras.Model(images, keras.layers.Activation(activation)(x) if apart else x)
    path = save(model, tmp_path / "own.keras")
    recipe, pixels = whole(path, size=4), torch.randn(5, 3, 4, 4)
    assert recipe.brings_head(3)
    logits = recipe.network(3)(pixels)
    made = logits.softmax(-1) if activation == "softmax" else logits.sigmoid()
    torch.testing.assert_close(made, outputs_of(model, pixels))
    assert not torch.allclose(logits, made)


def test_a_layer_that_is_called_twice_has_its_weights_once(keras, tmp_path):
    images, shared = keras.Input((4, 4, 3)), keras.layers.Conv2D(3, 3, padding="same", name="shared")
    x = keras.layers.GlobalAveragePooling2D()(shared(keras.layers.Activation("relu")(shared(images))))
    model = keras.Model(images, keras.layers.Dense(2)(x))
    path = save(model, tmp_path / "own.keras")
    network = whole(path, size=4).network(2)
    assert len(list(network.parameters())) == 4
    assert_same(network.eval(), model, torch.randn(5, 3, 4, 4))


def test_published_weights_bring_a_head_for_as_many_classes_as_imagenet(keras):
    assert Keras(name="MobileNetV2").brings_head(1000)
    assert not Keras(name="MobileNetV2").brings_head(10)
    assert not Keras(name="MobileNetV2", weights=None).brings_head(1000)
    assert isinstance(Keras(name="MobileNetV2"), Backbone)


def test_pixels_and_size_can_be_said(keras):
    assert Keras(name="MobileNetV2").input == ImageInput(size=224, mean=(0.5,) * 3, std=(0.5,) * 3)
    assert Keras(name="MobileNetV2", size=96, pixels="raw").input == ImageInput(
        size=96, mean=(0.0,) * 3, std=(1 / 255,) * 3
    )


def sentence(error=RequestError, classes=2, **arguments):
    with pytest.raises(RequestError) as caught:
        Keras(**arguments).network(classes)
    assert type(caught.value) is error
    return str(caught.value)


def test_unknown_names_arguments_and_files_are_told(keras, tmp_path):
    assert sentence(name="MobileNetV22") == (
        "model.name: 'MobileNetV22' is no network of keras.applications; did you mean 'MobileNetV2'?"
    )
    assert sentence(name="MobileNetV2", arguments={"alpa": 1}) == (
        "model.arguments.alpa: MobileNetV2 takes no such argument from here; did you mean 'alpha'?"
    )
    assert sentence(name="MobileNetV2", weights="imagenet") == (
        "model.weights: 'imagenet' is no file; name one, or DEFAULT for those that Keras publishes"
    )
    (tmp_path / "own.pth").touch()
    assert sentence(name="MobileNetV2", weights=str(tmp_path / "own.pth")) == (
        f"model.weights: {tmp_path / 'own.pth'} does not end as Keras' files do: .keras, .h5, .hdf5"
    )
    assert sentence(name="VGG16", size=64) == (
        "model.size: the published classifier of VGG16 takes 224 only; leave it out, or take the network without it: "
        "model.arguments={include_top: false}"
    )
    assert sentence(name="NASNetMobile", weights=None).startswith(
        "model.name=NASNetMobile: Keras refuses to build it (NASNetMobile is not available with the torch backend"
    )


def test_a_network_in_a_file_must_be_whole_and_described(keras, file):
    _, path = file
    assert sentence(name=None) == (
        "model.name: null is for model.weights=FILE.keras, which holds a whole network; name one"
    )
    assert sentence(name=None, weights=str(path), size=8) == (
        f"model.pixels: {path} does not say it; say what it was trained on"
    )
    assert sentence(name=None, weights=str(path), size=8, pixels="tf", arguments={"alpha": 1}) == (
        "model.arguments: a whole network in a file takes none; leave them out"
    )


def test_a_file_of_another_network_a_broken_one_and_nan_are_refused(keras, tmp_path):
    path = tmp_path / "own.weights.h5"
    model = application(keras, alpha=0.35, classes=7)
    save(model, path)
    said = sentence(WeightsError, **SMALL | {"arguments": {"alpha": 0.5}, "weights": str(path)})
    assert said.startswith(f"model.weights: {path} does not fit MobileNetV2 with model.arguments={{'alpha': 0.5}} (")
    model.get_layer("Conv1").kernel.assign(torch.full((3, 3, 3, 16), torch.nan))
    path = save(model, tmp_path / "nan.weights.h5")
    assert sentence(WeightsError, **SMALL, weights=str(path)) == (
        f"model.weights: {path} has NaN or infinite values in 'Conv1.weight'; get it anew"
    )
    (path := tmp_path / "broken.weights.h5").write_bytes(b"no weights")
    assert sentence(WeightsError, **SMALL, weights=str(path)) == (
        f"model.weights: {path} is truncated or not a file of weights (10 bytes); get it anew."
    )


def test_an_unknown_layer_is_named(keras, tmp_path):
    images = keras.Input((4, 4, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.UnitNormalization(name="sphere")(images))
    path = save(keras.Model(images, keras.layers.Dense(2)(x)), tmp_path / "own.keras")
    assert sentence(name=None, weights=str(path), size=4, pixels="tf") == (
        "model: the layer 'sphere' (UnitNormalization) of this Keras network has no counterpart in torch here; "
        "choose a network without it"
    )


def test_code_in_a_file_is_never_run(keras, tmp_path):
    images = keras.Input((4, 4, 3))
    x = keras.layers.Flatten()(keras.layers.Lambda(lambda x: x * 2)(images))
    path = save(keras.Model(images, keras.layers.Dense(2)(x)), tmp_path / "own.keras")
    with zipfile.ZipFile(path) as archive:
        assert "__lambda__" in archive.read("config.json").decode()
    said = sentence(WeightsError, name=None, weights=str(path), size=4, pixels="tf")
    assert said.startswith(f"model.weights: {path} is broken, or needs code of its own to be read, which is refused (")


@pytest.fixture
def home(keras, tmp_path, monkeypatch):
    """Keras' folder, empty."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(tmp_path))
    return tmp_path


def test_a_failed_download_says_what_to_put_where(home, monkeypatch, capfd):
    def unreachable(*_, **__):
        raise URLError("no network")

    monkeypatch.setattr("keras.src.utils.file_utils.urlretrieve", unreachable)
    name = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224.h5"
    url = f"https://storage.googleapis.com/tensorflow/keras-applications/mobilenet_v2/{name}"
    assert sentence(WeightsError, name="MobileNetV2") == (
        f"model.weights: {name} could not be downloaded (no network); put {url} into {home}/models, or pass "
        "model.weights=FILE, or model.weights=null for new weights."
    )
    assert capfd.readouterr() == ("", "")


def test_a_download_that_breaks_off_is_told_too(home, monkeypatch):
    def reset(*_, **__):
        raise ConnectionResetError("Connection reset by peer")

    monkeypatch.setattr("keras.src.utils.file_utils.urlretrieve", reset)
    assert sentence(WeightsError, name="MobileNetV2") == (
        "model.weights: those of MobileNetV2 could not be downloaded (Connection reset by peer); pass "
        "model.weights=FILE, or model.weights=null for new weights."
    )


def test_published_weights_are_taken_from_where_keras_keeps_them(keras, tmp_path, monkeypatch):
    model = application(keras, alpha=0.35, size=224)
    path = save(model, tmp_path / "own.weights.h5")
    asked = []

    def fetched(name, origin, cache_subdir=None, file_hash=None, **_):
        asked.append(name)
        return str(path)

    monkeypatch.setattr("keras.src.applications.mobilenet_v2.file_utils.get_file", fetched)
    network = Keras(name="MobileNetV2", arguments={"alpha": 0.35}, size=64).network(1000)
    assert asked == ["mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_224.h5"]
    assert_same(network.eval(), model, torch.randn(1, 3, 224, 224))
    assert network(torch.randn(1, 3, 64, 64)).shape == (1, 1000)


START = "from frostline.nn.keras import Keras; Keras(name='MobileNetV2', weights=None)"


def started(code, **environment):
    """Run code in a process of its own and return what it printed."""
    kept = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"} | environment
    code = (
        f"from frostline.errors import RequestError\ntry:\n    {code}\nexcept RequestError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=kept, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
def test_another_library_in_the_environment_is_refused():
    said = started(START, KERAS_BACKEND="jax")
    assert said == "model: the environment sets KERAS_BACKEND=jax; unset it, networks here run on torch"


def test_another_library_under_keras_is_refused(keras, monkeypatch):
    monkeypatch.setattr(keras.config, "backend", lambda: "numpy")
    assert sentence(name="MobileNetV2") == (
        "model: keras already runs on numpy in this process; set KERAS_BACKEND=torch before"
    )


@pytest.mark.slow
def test_the_environment_is_as_it_was():
    assert started(f"import os; {START}; print(os.environ.get('KERAS_BACKEND'))") == "None"


@pytest.mark.parametrize("missing", ["keras", "h5py"])
def test_a_missing_library_is_told_with_the_command(monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    assert sentence(name="MobileNetV2") == f"model: needs {missing}, which is not here; pip install 'frostline[keras]'"
