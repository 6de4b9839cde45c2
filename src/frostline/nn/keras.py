"""Classification networks of Keras with the weights that TensorFlow trained, converted to modules of torch."""

import inspect
import os
import random
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import torch
from annotated_types import Ge
from torch import nn

from frostline.errors import RequestError, WeightsError
from frostline.nearest import did_you_mean
from frostline.nn.backbone import CLASSIFIERS, ImageInput
from frostline.nn.class_names import IMAGENET_CLASSES, imagenet
from frostline.nn.extras import library
from frostline.nn.keras_graph import KerasGraph, graph_of, torch_network

T = TypeVar("T")

Pixels = Literal["tf", "torch", "caffe", "raw"]
"""What Keras' `preprocess_input` makes of pixels: [-1, 1], ImageNet's statistics, blue first without its mean in
[0, 255], or [0, 255] as they are, which the network itself scales."""

_INSTEAD = "pass model.weights=FILE, or model.weights=null for new weights."
_SUFFIXES = (".keras", ".h5", ".hdf5")

# Keras asks for these beside `arguments`: the recipe answers them.
_ANSWERED = {
    "weights",
    "input_tensor",
    "input_shape",
    "pooling",
    "classifier_activation",
    "name",
    "include_preprocessing",
}

_PIXELS: Mapping[str, Pixels] = {
    r"ResNet\d+|VGG\d+": "caffe",
    r"DenseNet\d+": "torch",
    r"MobileNet(V2)?|Inception\w+|Xception|NASNet\w+|ResNet\d+V2": "tf",
    r"MobileNetV3\w+|EfficientNet\w+|ConvNeXt\w+": "raw",
}

_SIZES: Mapping[str, int] = {
    r"Inception\w+|Xception": 299,
    r"NASNetLarge": 331,
    r"EfficientNet(V2)?B1": 240,
    r"EfficientNet(V2)?B2": 260,
    r"EfficientNet(V2)?B3": 300,
    r"EfficientNetB4": 380,
    r"EfficientNetB5": 456,
    r"EfficientNetB6": 528,
    r"EfficientNetB7": 600,
    r"EfficientNetV2S": 384,
    r"EfficientNetV2[ML]": 480,
    r"\w*": 224,
}

_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)
_CAFFE_MEAN = (123.68 / 255, 116.779 / 255, 103.939 / 255)
_LEVEL = (1 / 255,) * 3


@dataclass(frozen=True, kw_only=True)
class Keras:
    """A classification network of Keras; it needs the extra `keras`.

    Attributes:
        name: A function of `keras.applications`: `MobileNetV2`, `EfficientNetB0`, ...; null for a network of your own
            in a `.keras` file.
        weights: `DEFAULT` for those that Keras publishes (ImageNet), a file, or null for new weights. A `.keras` file
            holds the network, too, which is read only where `name` is null; otherwise, as from a `.h5` or
            `.weights.h5` file, its weights fill `name`. Keras scales images for its published EfficientNetB0 to B7
            once more, so put these files where DEFAULT finds them.
        arguments: What the function takes beside: `{alpha: 0.35}`, `{classes: 5}` for a file that has another number
            of classes than ImageNet's 1,000, `{include_top: false}` for one without a classifier.
        size: Height and width of the images; those that the network was made for where it is left out.
        pixels: How images are scaled; as the family of `name` was trained where it is left out.
    """

    tasks: ClassVar[tuple[str, ...]] = CLASSIFIERS

    name: str | None
    weights: str | None = "DEFAULT"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    size: Annotated[int, Ge(1)] | None = None
    pixels: Pixels | None = None

    def __post_init__(self) -> None:
        self._refuse_weights()
        if self.name is None:
            self._refuse_nameless()
            return
        names = [name for name, each in vars(_keras().applications).items() if inspect.isfunction(each)]
        if self.name not in names:
            problem = f"model.name: '{self.name}' is no network of keras.applications"
            raise RequestError(f"{problem}; {did_you_mean(self.name, names)}")
        self._refuse_arguments()

    @property
    def input(self) -> ImageInput:
        """Images of `size`, with values as the family of the network was trained on, or as `pixels` says."""
        size = self._size
        match self._pixels:
            case "tf":
                return ImageInput(size=size, mean=(0.5,) * 3, std=(0.5,) * 3)
            case "torch":
                return ImageInput(size=size, mean=_MEAN, std=_STD)
            case "caffe":
                return ImageInput(size=size, mean=_CAFFE_MEAN, std=_LEVEL)
            case _:
                return ImageInput(size=size, mean=(0.0,) * 3, std=_LEVEL)

    @property
    def blue_first(self) -> bool:
        """Whether the weights were trained on blue, green, red; the network takes red, green, blue all the same."""
        return self._pixels == "caffe"

    @property
    def classes(self) -> list[str] | None:
        """Names of the classes that published weights tell apart, ImageNet's."""
        return imagenet() if self.name is not None and self.weights == "DEFAULT" else None

    def brings_head(self, num_classes: int) -> bool:
        """Tell whether the weights are those of a classifier of so many classes."""
        if self.weights is None or not self.arguments.get("include_top", True):
            return False
        if self.name is None:
            graph = self._graph
            return graph.head is not None and graph.features == num_classes
        return bool(self.arguments.get("classes", IMAGENET_CLASSES) == num_classes)

    def network(self, num_classes: int) -> nn.Module:
        """Build the network in Keras, fill it there with its weights, and convert it.

        A classifier of another size is new, drawn as Keras draws one. Batch normalisation follows torch in one thing:
        while training, running variances are of the sample, not of the population. Weights that Keras publishes come
        in a network for images of its own size; where `size` is another, padding is still that of its own size.

        Args:
            num_classes: Classes that the last layer tells apart.

        Returns:
            A module from images (B, 3, H, W) to logits (B, num_classes).

        Raises:
            WeightsError: The weights cannot be downloaded or read, or are those of another network.
            RequestError: Keras has no such network on torch, or the network has a layer that is not known here.
        """
        network = torch_network(self._graph, num_classes, bgr=self.blue_first)
        state = network.state_dict().items()
        if broken := [name for name, tensor in state if not torch.isfinite(tensor).all()]:
            raise WeightsError(
                f"model.weights: {self.weights} has NaN or infinite values in '{broken[0]}'; get it anew"
            )
        return network

    @property
    def _graph(self) -> KerasGraph:
        keras = _keras()
        with _as_expected(keras):
            return graph_of(self._loaded(keras) if self.name is None else self._application(keras))

    @property
    def _pixels(self) -> Pixels:
        return _of_family(_PIXELS, self.name or "") if self.pixels is None else self.pixels

    @property
    def _size(self) -> int:
        return self.size or _of_family(_SIZES, self.name or "")

    def _loaded(self, keras: ModuleType) -> Any:
        path = Path(str(self.weights))
        with _reading(path, "is broken, or needs code of its own to be read, which is refused"):
            return keras.models.load_model(path, custom_objects=_own_layers(), compile=False, safe_mode=True)

    def _application(self, keras: ModuleType) -> Any:
        with _building(str(self.name)):
            if self.weights == "DEFAULT":
                return self._function(keras)(weights="imagenet", **self._asked)
            model = self._function(keras)(weights=None, input_shape=(self._size, self._size, 3), **self._asked)
        if self.weights is not None:
            path = Path(self.weights)
            with _reading(path, f"does not fit {self.name} with model.arguments={dict(self.arguments)}"):
                model.load_weights(path)
        return model

    def _function(self, keras: ModuleType) -> Any:
        return getattr(keras.applications, str(self.name))

    @property
    def _asked(self) -> dict[str, Any]:
        top = self.arguments.get("include_top", True)
        return {**self.arguments, **({"classifier_activation": None} if top else {"pooling": "avg"})}

    def _refuse_weights(self) -> None:
        if self.weights in (None, "DEFAULT"):
            return
        path = Path(str(self.weights))
        if not path.is_file():
            raise RequestError(
                f"model.weights: '{path}' is no file; name one, or DEFAULT for those that Keras publishes"
            )
        if path.suffix not in _SUFFIXES:
            raise RequestError(f"model.weights: {path} does not end as Keras' files do: {', '.join(_SUFFIXES)}")

    def _refuse_nameless(self) -> None:
        if not str(self.weights).endswith(".keras"):
            raise RequestError(
                "model.name: null is for model.weights=FILE.keras, which holds a whole network; name one"
            )
        missing = [key for key in ("size", "pixels") if getattr(self, key) is None]
        if missing:
            raise RequestError(f"model.{missing[0]}: {self.weights} does not say it; say what it was trained on")
        if self.arguments:
            raise RequestError("model.arguments: a whole network in a file takes none; leave them out")

    def _refuse_arguments(self) -> None:
        taken = set(inspect.signature(self._function(_keras())).parameters) - _ANSWERED
        for argument in self.arguments:
            if argument not in taken:
                problem = f"model.arguments.{argument}: {self.name} takes no such argument from here"
                raise RequestError(f"{problem}; {did_you_mean(argument, taken)}")
        fixed = str(self.name).startswith("VGG") and self.weights == "DEFAULT"
        if fixed and self._size != _of_family(_SIZES, "") and self.arguments.get("include_top", True):
            way = "leave it out, or take the network without it: model.arguments={include_top: false}"
            raise RequestError(f"model.size: the published classifier of {self.name} takes 224 only; {way}")


def _keras() -> ModuleType:
    """Import Keras on torch, and leave the environment as it was.

    Raises:
        RequestError: Keras is not installed, or already runs on another library, or was told to.
    """
    library("h5py", extra="keras")
    with _backend("torch"):
        keras = library("keras", extra="keras")
    if (backend := keras.config.backend()) != "torch":
        raise RequestError(f"model: keras already runs on {backend} in this process; set KERAS_BACKEND=torch before")
    return keras


@contextmanager
def _backend(name: str) -> Iterator[None]:
    """Tell Keras what to run on where it is not imported yet: without this, ~/.keras/keras.json decides."""
    told = os.environ.get("KERAS_BACKEND")
    if "keras" not in sys.modules and told not in (None, name):
        raise RequestError(f"model: the environment sets KERAS_BACKEND={told}; unset it, networks here run on {name}")
    os.environ.setdefault("KERAS_BACKEND", name)
    try:
        yield
    finally:
        if told is None:
            del os.environ["KERAS_BACKEND"]


def _own_layers() -> dict[str, Any]:
    """Layers of keras.applications that Keras does not know by name when it reads a file."""
    from keras.src.applications import convnext, inception_resnet_v2

    own = (convnext.LayerScale, convnext.StochasticDepth, inception_resnet_v2.CustomScaleLayer)
    return {layer.__name__: layer for layer in own}


@contextmanager
def _as_expected(keras: ModuleType) -> Iterator[None]:
    """Build on the CPU, channels last, silently, drawn by torch's generator; leave Keras and Python as they were."""
    state, layout, talks = (
        random.getstate(),
        keras.config.image_data_format(),
        keras.config.is_interactive_logging_enabled(),
    )
    random.seed(int(torch.randint(2**31, ())))  # Keras seeds its initialisers from here
    keras.config.set_image_data_format("channels_last")
    keras.config.disable_interactive_logging()
    try:
        with keras.device("cpu"):
            yield
    finally:
        random.setstate(state)
        keras.config.set_image_data_format(layout)
        if talks:
            keras.config.enable_interactive_logging()


@contextmanager
def _building(name: str) -> Iterator[None]:
    """Say in one sentence what Keras refuses to build or cannot download."""
    try:
        yield
    except Exception as error:  # a failed download is a bare Exception
        if found := re.match(r"URL fetch failure on (\S+): (?:None -- )?(.*)", str(error)):
            raise WeightsError(_absent(found[1], found[2])) from error
        if isinstance(error, OSError):
            raise WeightsError(
                f"model.weights: those of {name} could not be downloaded ({_first_line(error)}); {_INSTEAD}"
            ) from error
        if isinstance(error, ValueError | TypeError):
            raise RequestError(f"model.name={name}: Keras refuses to build it ({_first_line(error)})") from error
        raise


def _absent(url: str, reason: str) -> str:
    folder, name = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / "models", url.rpartition("/")[2]
    return f"model.weights: {name} could not be downloaded ({reason}); put {url} into {folder}, or {_INSTEAD}"


@contextmanager
def _reading(path: Path, problem: str) -> Iterator[None]:
    """Say in one sentence that a file cannot be read, whatever Keras raises for it."""
    try:
        yield
    except OSError as error:
        what = "is truncated or not a file of weights"
        raise WeightsError(f"model.weights: {path} {what} ({path.stat().st_size} bytes); get it anew.") from error
    except Exception as error:  # Keras raises anything at all for a file that does not fit
        raise WeightsError(f"model.weights: {path} {problem} ({_first_line(error)}).") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _of_family(table: Mapping[str, T], name: str) -> T:
    return next((value for family, value in table.items() if re.fullmatch(family, name)), list(table.values())[-1])
