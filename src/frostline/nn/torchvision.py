"""Every classification network of torchvision, by its name there, with published weights, a file of them, or none."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torchvision import models

from frostline.errors import RequestError, WeightsError
from frostline.nearest import did_you_mean
from frostline.nn.backbone import CLASSIFIERS, ImageInput
from frostline.nn.stages import stages
from frostline.nn.weights import COUNTER, read_weights

# Trained on pixels in [-1, 1]; torchvision hides it behind a second normalisation in the network, which stays off here.
_ON_SYMMETRIC_PIXELS = ("googlenet", "inception_v3")

# The published DenseNets were saved when module names could hold dots.
_DENSENET_DOT = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")


@dataclass(frozen=True, kw_only=True)
class Torchvision:
    """A classification network of torchvision.

    Attributes:
        name: As `torchvision.models.list_models` has it: `resnet50`, `vit_b_16`, ...
        weights: A member of the network's weights enum (`DEFAULT`, `IMAGENET1K_V1`, ...), a file of weights for this
            network, or null for new weights.
    """

    tasks: ClassVar[tuple[str, ...]] = CLASSIFIERS

    name: str
    weights: str | None = "DEFAULT"

    def __post_init__(self) -> None:
        names = models.list_models(module=models)
        if self.name not in names:
            problem = f"model.name: '{self.name}' is no classification network of torchvision"
            raise RequestError(f"{problem}; {did_you_mean(self.name, names)}")
        if self.weights is not None and self._published is None and not Path(self.weights).is_file():
            problem = f"model.weights: '{self.weights}' is neither a file nor weights that {self.name} comes with"
            raise RequestError(f"{problem}; {did_you_mean(self.weights, self._enum.__members__)}")

    @property
    def input(self) -> ImageInput:
        """What the chosen weights were evaluated on; a file or new weights take after the default weights."""
        preset = (self._published or self._enum["DEFAULT"]).transforms()
        if self.name in _ON_SYMMETRIC_PIXELS:
            return ImageInput(size=preset.crop_size[0], mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
        return ImageInput(size=preset.crop_size[0], mean=tuple(preset.mean), std=tuple(preset.std))

    def brings_head(self, num_classes: int) -> bool:
        """Tell whether there are weights, of as many classes as all of torchvision's classifiers: ImageNet's 1,000."""
        return self.weights is not None and num_classes == 1000

    def network(self, num_classes: int) -> nn.Module:
        """Build the network and fill it with its weights; a classifier of another size keeps its new weights.

        Args:
            num_classes: Classes that the last layer, and that of each auxiliary classifier, tells apart.

        Returns:
            A module from images (B, 3, H, W) to logits (B, num_classes); GoogLeNet and Inception return a named tuple
            of logits and auxiliary logits while they train.

        Raises:
            WeightsError: The weights cannot be downloaded or read, or are those of another network.
        """
        network: nn.Module = models.get_model(self.name, num_classes=num_classes, **self._arguments())
        if self.weights is not None:
            published = self._published
            path = Path(self.weights) if published is None else _download(published.url)
            _fill(network, read_weights(path), size=self.input.size, source=path)
        return network

    @property
    def _enum(self) -> Any:
        return models.get_model_weights(self.name)

    @property
    def _published(self) -> Any:
        return self._enum.__members__.get(self.weights)

    def _arguments(self) -> dict[str, Any]:
        if self.name in _ON_SYMMETRIC_PIXELS:
            return {"aux_logits": True, "transform_input": False, "init_weights": True}
        # A vision transformer's position table has the size of the images that its weights were trained on.
        return {"image_size": self.input.size} if self.name.startswith("vit_") else {}


def _download(url: str) -> Path:
    """Return the file that torch.hub keeps of a URL, downloaded where it is not there yet.

    Raises:
        WeightsError: The download failed, or brought another file than it should.
    """
    name = url.rpartition("/")[2]
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = re.search(r"-([0-9a-f]+)\.", name)
        try:
            torch.hub.download_url_to_file(url, str(path), digest and digest[1], progress=False)
        except (OSError, RuntimeError) as error:
            raise WeightsError(
                f"model.weights: {name} could not be downloaded ({error}); put {url} into {path.parent}, or pass "
                "model.weights=FILE, or model.weights=null for new weights."
            ) from error
    return path


def _fill(network: nn.Module, weights: Mapping[str, Tensor], *, size: int, source: Path) -> None:
    """Load weights of the same network, all but parameters of the head that have another size.

    Raises:
        WeightsError: Outside the head a name is on one side only or has another shape, or a value is not finite.
    """
    state = network.state_dict()
    head = stages(network, torch.zeros(1, 3, size, size))[-1].parameters
    shapes = {name: tensor.shape for name, tensor in state.items()}
    named = {_DENSENET_DOT.sub(r"\1\2", name): weight for name, weight in weights.items()}
    fitting = {name: w for name, w in named.items() if name not in head or w.shape == shapes[name]}
    _refuse(source, "NaN or infinite values in", [n for n, w in fitting.items() if not torch.isfinite(w).all()])
    _refuse(source, "another shape of", [n for n, w in fitting.items() if w.shape != shapes.get(n, w.shape)])
    state.clear()
    state.update(fitting)
    # torch keeps the versions of its modules beside the tensors; by these they rename what old files hold.
    vars(state).update(getattr(weights, "__dict__", {}))
    result = network.load_state_dict(state, strict=False)
    _refuse(source, "no value for", [n for n in result.missing_keys if n not in head and not n.endswith(COUNTER)])
    _refuse(source, "values that the network has no place for:", result.unexpected_keys)


def _refuse(source: Path, what: str, names: list[str]) -> None:
    if names:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise WeightsError(
            f"model.weights: {source} has {what} '{names[0]}'{more}; choose the model.name that these weights belong "
            "to, or carry what fits with init_from=FILE and model.weights=null."
        )
