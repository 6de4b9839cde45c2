"""Every image classifier of timm, by its name there, with published weights, a file of them, or none."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from frostline.errors import RequestError, WeightsError
from frostline.nearest import did_you_mean, nearest
from frostline.nn.backbone import CLASSIFIERS, ImageInput
from frostline.nn.class_names import IMAGENET_CLASSES, imagenet
from frostline.nn.extras import library
from frostline.nn.stages import stages
from frostline.nn.torchvision_weights import fill, fill_whole, unwrapped
from frostline.nn.weights import read_weights


@dataclass(frozen=True, kw_only=True)
class Timm:
    """An image classifier of timm.

    Attributes:
        name: As `timm.list_models` has it: `resnet50`, `vit_base_patch16_224`, ...
        weights: `DEFAULT`, another pretrained tag that timm has of the network (`a1_in1k`, ...), a file of weights for
            this network, or null for new weights.
    """

    tasks: ClassVar[tuple[str, ...]] = CLASSIFIERS

    name: str
    weights: str | None = "DEFAULT"

    def __post_init__(self) -> None:
        names = _timm().list_models()
        if self.name not in names:
            raise RequestError(f"model.name: '{self.name}' is no network of timm; {_way_out(self.name, names)}")
        if self.weights is not None and not self._published and not Path(self.weights).is_file():
            problem = f"model.weights: '{self.weights}' is neither a file nor weights that {self.name} comes with"
            raise RequestError(f"{problem}; {self._way_to_weights()}")

    @property
    def input(self) -> ImageInput:
        """Size and normalisation of the chosen weights; a file or new weights take after the default weights.

        timm's interpolation and `crop_pct`, how much of an image it evaluates, are not told: data resize in their own
        way, so that published accuracies are met only nearly.

        Raises:
            RequestError: The network does not take square images of three channels.
        """
        config = _timm().data.resolve_data_config(pretrained_cfg=self._config.to_dict())
        channels, height, width = config["input_size"]
        if channels != 3 or height != width:
            problem = f"{self.name} takes images of {channels} x {height} x {width}"
            raise RequestError(f"model.name: {problem}; choose a network for square images of three channels")
        return ImageInput(size=height, mean=tuple(config["mean"]), std=tuple(config["std"]))

    @property
    def classes(self) -> list[str] | None:
        """Names of the classes that published weights tell apart, where these are ImageNet's 1,000."""
        return imagenet() if self._published and self._config.num_classes == IMAGENET_CLASSES else None

    def brings_head(self, num_classes: int) -> bool:
        """Tell whether the weights, published or a file's, have as many classes."""
        if self.weights is None or self._published:
            return self.weights is not None and num_classes == self._config.num_classes
        with torch.device("meta"):
            network = _timm().create_model(self.name, num_classes=num_classes)
        return fill_whole(network, _renamed(read_weights(self.weights), network, self.name))

    def network(self, num_classes: int) -> nn.Module:
        """Build the network and fill it with its weights; a classifier of another size keeps its new weights.

        Args:
            num_classes: Classes that what timm calls the network's classifier tells apart.

        Returns:
            A module from images (B, 3, H, W) to logits (B, num_classes).

        Raises:
            WeightsError: The weights cannot be downloaded or read, or are those of another network.
        """
        network = _created(self._tagged, num_classes)
        network.head_modules = tuple(_classifiers(network))
        if self.weights is not None:
            weights = self._download() if self._published else _renamed(read_weights(self.weights), network, self.name)
            head = stages(network, torch.zeros(1, 3, self.input.size, self.input.size))[-1].parameters
            fill(network, weights, head=head, source=Path(self.weights if not self._published else self._hub_id))
        built: nn.Module = network
        return built

    @property
    def _tags(self) -> list[str]:
        return [name.partition(".")[2] for name in _timm().list_pretrained(f"{self.name}.*")]

    @property
    def _published(self) -> bool:
        return bool(self._tags) if self.weights == "DEFAULT" else self.weights in self._tags

    @property
    def _tagged(self) -> str:
        return f"{self.name}.{self.weights}" if self.weights in self._tags else self.name

    @property
    def _config(self) -> Any:
        return _timm().get_pretrained_cfg(self._tagged)

    @property
    def _hub_id(self) -> str:
        return str(self._config.hf_hub_id or self._config.url)

    def _way_to_weights(self) -> str:
        if not self._tags:
            return "timm has none of it; name a file, or model.weights=null for new weights"
        return did_you_mean(str(self.weights), ["DEFAULT", *self._tags])

    def _download(self) -> Mapping[str, Tensor]:
        """Return the published weights under the network's names, of as many classes as were published.

        Raises:
            WeightsError: They are not here and cannot be downloaded; or timm cannot put them into its own network.
        """
        try:
            network = _timm().create_model(self._tagged, pretrained=True)
        except (OSError, RuntimeError, ValueError) as error:  # the hub's, httpx's and urllib's are of these kinds
            raise WeightsError(self._unreachable(error)) from error
        weights: Mapping[str, Tensor] = network.state_dict()
        return weights

    def _unreachable(self, error: Exception) -> str:
        config = self._config
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        if config.hf_hub_id:
            what = f"{config.hf_hub_filename or 'model.safetensors'} of https://huggingface.co/{config.hf_hub_id}"
            there = f"fetch {what} into $HF_HOME where there is a network"
        else:
            there = f"put {config.url} into {Path(torch.hub.get_dir()) / 'checkpoints'}"
        return (
            f"model.weights: those of {self._tagged} could not be loaded ({reason}); {there}, or download it and pass "
            "model.weights=FILE, or model.weights=null for new weights."
        )


def _timm() -> Any:
    return library("timm", extra="timm")


def _created(name: str, num_classes: int) -> Any:
    """Build a network that takes images of any size where timm can: it resamples the positions, as it does itself.

    At the size of the weights that changes nothing, and data may choose another.
    """
    create = _timm().create_model
    try:
        return create(name, num_classes=num_classes, dynamic_img_size=True)
    except TypeError:  # what this network's class says to an argument that it has not
        return create(name, num_classes=num_classes)


def _way_out(name: str, names: list[str]) -> str:
    network, _, tag = name.partition(".")
    if tag and network in names:
        return f"say model.name={network} model.weights={tag}"
    # The names of all of timm's networks would fill a screen.
    return did_you_mean(name, names) if nearest(name, names) else "timm.list_models() has their names"


def _classifiers(network: Any) -> Iterator[str]:
    """Yield the names of the modules that timm calls the classifier: two where a network was distilled."""
    told = network.get_classifier()
    classifiers = told if isinstance(told, tuple | list | nn.ModuleList) else (told,)
    for name, module in network.named_modules():
        if any(module is each for each in classifiers) and any(True for _ in module.parameters()):
            yield name


def _renamed(weights: Mapping[str, Tensor], network: nn.Module, name: str) -> Mapping[str, Tensor]:
    """Let timm rename weights as their authors published them, where its file of the network knows how."""
    weights = unwrapped(weights, network)
    filter_ = getattr(import_module(_timm().model_entrypoint(name).__module__), "checkpoint_filter_fn", None)
    if filter_ is None or weights.keys() <= network.state_dict().keys():
        return weights
    renamed: dict[str, Tensor] = filter_(weights, network)
    return renamed
