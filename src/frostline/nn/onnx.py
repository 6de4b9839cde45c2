"""An image classifier from a file of ONNX, trainable again."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge
from torch import nn

from frostline.errors import RequestError
from frostline.nn.backbone import CLASSIFIERS, ImageInput
from frostline.nn.onnx_file import image_shape, onnx_library, read_model
from frostline.nn.onnx_network import Imported, imported


@dataclass(frozen=True, kw_only=True)
class Onnx:
    """An image classifier from a file of ONNX: of the ONNX Model Zoo, say, or exported by any framework.

    Convolutions, linear and normalisation layers become torch's, which train and keep statistics; operands that the
    model stores for its sums and products become parameters. Scalars, and operands of anything else, stay constants:
    `Imported.constants` names them. A tensor that several operators share is each operator's own from here on, and a
    last softmax goes. An export for inference has no dropout, and its normalisation may be part of its convolutions.

    Attributes:
        file: The model.
        mean: Per channel, what its images are normalised with; the file does not tell.
        std: Per channel, likewise.
        size: Height and width in pixels, where the model leaves them open.
    """

    tasks: ClassVar[tuple[str, ...]] = CLASSIFIERS

    file: str
    mean: Sequence[float] = (0.485, 0.456, 0.406)
    std: Sequence[float] = (0.229, 0.224, 0.225)
    size: Annotated[int, Ge(1)] | None = None

    def __post_init__(self) -> None:
        onnx_library()
        onnx_library("onnx2torch")
        if not Path(self.file).is_file():
            raise RequestError(f"model.file: there is no file {self.file}; name a model of ONNX")

    @property
    def input(self) -> ImageInput:
        """Images of the size that the graph says, normalised as the recipe says.

        Raises:
            RequestError: It takes no images, or leaves their size open, or has another one than `size`.
        """
        return ImageInput(size=self._shape[1], mean=tuple(self.mean), std=tuple(self.std))

    def brings_head(self, num_classes: int) -> bool:
        """Tell whether the model has as many classes."""
        return self._imported.classes == num_classes

    def network(self, num_classes: int) -> nn.Module:
        """Build the network with the weights of the file; a head of another size is new.

        Args:
            num_classes: Classes that the last linear layer tells apart.

        Returns:
            A module from images (B, C, H, W) to logits (B, num_classes).

        Raises:
            WeightsError: The file is truncated, or its tensors lie outside its folder or nowhere.
            RequestError: It cannot be made a trainable classifier.
        """
        network = deepcopy(self._imported)
        if network.classes != num_classes:
            network.renew_head(num_classes)
        return network

    @cached_property
    def _model(self) -> Any:
        return read_model(Path(self.file))

    @cached_property
    def _shape(self) -> tuple[int, int]:
        """Return batch size and height: a free batch size is exported with two images here."""
        batch, height = image_shape(self._model, Path(self.file), len(self.mean))
        if height is None and self.size is None:
            raise RequestError(f"model.size: {self.file} leaves the size of its images open; say model.size=224, say")
        if height is not None and self.size not in (None, height):
            raise RequestError(f"model.size: {self.file} takes images of {height} pixels; leave model.size out")
        return batch or 2, height or self.size or 0

    @cached_property
    def _imported(self) -> Imported:
        batch, height = self._shape
        return imported(self._model, torch.zeros(batch, len(self.mean), height, height), self.file)
