"""Where pixels come from: rows of uint8 images of shape (3, H, W), from arrays, bytes or files, fitted or augmented.

Images are NumPy arrays as far as a batch: around the decoding of a small one, what makes a tensor of it is felt.
"""

import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from frostline.errors import DamagedError

# Pillow warns of images of more than 89 million pixels and refuses twice as many; a warning helps nobody who trains.
warnings.simplefilter("error", Image.DecompressionBombWarning)

KINDS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000")
"""What a file may be, whatever its suffix: pixels. Pillow would also run Ghostscript on PostScript, a program."""
_TURNS = {"exif", "xmp", "XML:com.adobe.xmp"}
"""Where Pillow looks, in what it knows of a JPEG, for how the image is to be turned."""
HELD_BYTES = 300_000_000
"""How much of a source is held decoded in memory, at each size."""
_BLOCK = 4_000_000
"""How much memory is taken at once to hold images in: small pieces would lie scattered where steps take and free."""


class Images(Protocol):
    """Images by row."""

    def __getitem__(self, row: int) -> NDArray[np.uint8]:
        """Return the image, (3, H, W), which nobody may change; in memory it may lie as (H, W, 3)."""

    def __hash__(self) -> int:
        """Tell sources apart by identity."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ArrayImages:
    """Images that are decoded already: uint8 of shape (N, H, W) in grey or (N, H, W, 3) in colour."""

    array: NDArray[np.uint8]

    def __getitem__(self, row: int) -> NDArray[np.uint8]:
        """Return the image, (3, H, W)."""
        image = self.array[row]
        return np.broadcast_to(image, (3, *image.shape)) if image.ndim == 2 else image.transpose(2, 0, 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class EncodedImages:
    """Images as the bytes of their files, or as files; decoded on access.

    Attributes:
        files: What to decode.
        names: What people call each; by default a file by its path, and bytes by their row.
        upright: Whether they are turned as their EXIF data says.
    """

    files: Sequence[bytes | Path]
    names: Sequence[str] = ()
    upright: bool = True

    def __getitem__(self, row: int) -> NDArray[np.uint8]:
        """Return the image, (3, H, W).

        Raises:
            DamagedError: The file cannot be read; it is named.
        """
        try:
            return decode(content_of(self.files[row]), upright=self.upright)
        except Exception as error:  # Pillow's formats raise whatever they stumble over
            way_out = "restore it, and resume the run or start it again"
            raise DamagedError(
                f"{self._name(row)}: cannot be read any more ({problem_of(error)}); {way_out}"
            ) from error

    def _name(self, row: int) -> str:
        file = self.files[row]
        if isinstance(file, Path):
            return str(file)
        return self.names[row] if self.names else f"image {row}"


@dataclass(kw_only=True, eq=False)
class FittedImages:
    """Square images of one size, held in memory as uint8 while there is room."""

    images: Images
    size: int
    held: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    _room: Iterator[NDArray[np.uint8]] = field(default_factory=lambda: iter(()), init=False)

    def __getitem__(self, row: int) -> NDArray[np.uint8]:
        """Return the image, (3, size, size)."""
        known = self.held.get(row)
        if known is not None:
            return known
        image = fit(self.images[row], size=self.size)
        return self._hold(row, image) if (len(self.held) + 1) * image.size <= HELD_BYTES else image

    def _hold(self, row: int, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        place = next(self._room, None)
        if place is None:
            block = np.empty((max(1, _BLOCK // image.size), *image.shape), np.uint8)
            self._room = iter(block)
            place = next(self._room)
        place[...] = image
        self.held[row] = place
        return place


@lru_cache(maxsize=8)
def fitted(images: Images, size: int) -> Images:
    """Return the images at one size; the same object for the same source, so that runs share what is decoded."""
    return FittedImages(images=images, size=size)


@dataclass(frozen=True, kw_only=True, eq=False)
class AugmentedImages:
    """Images that are changed anew at each access, by a transform that draws from the global generators."""

    images: Images
    transform: Callable[[Tensor], Tensor]

    def __getitem__(self, row: int) -> NDArray[np.uint8]:
        """Return the image, (3, H, W)."""
        changed: NDArray[np.uint8] = self.transform(as_tensor(self.images[row])).numpy()
        return changed


def as_tensor(image: NDArray[np.uint8]) -> Tensor:
    """Return an image for what works on tensors: a copy where it lies in memory otherwise, or cannot be written to."""
    return torch.from_numpy(np.require(image, requirements=("C_CONTIGUOUS", "WRITEABLE")))


def fit(image: NDArray[np.uint8], *, size: int) -> NDArray[np.uint8]:
    """Resize the shorter side of a (3, H, W) image to `size` and cut out the central square, (3, size, size)."""
    if image.shape == (3, size, size):
        return image
    resized = transforms.resize(as_tensor(image), [size], antialias=True)
    fitting: NDArray[np.uint8] = transforms.center_crop(resized, [size]).numpy()
    return fitting


def content_of(file: bytes | Path) -> bytes:
    """Return the bytes of a file that may have come as such."""
    if isinstance(file, bytes):
        return file
    with file.open("rb", buffering=0) as opened_file:  # all of it is read at once, and a buffer would take time
        return opened_file.read()


def problem_of(error: Exception) -> str:
    """Say in few words why an image cannot be read, without the path, which the caller names."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    if isinstance(error, Image.DecompressionBombWarning | Image.DecompressionBombError):
        return f"more than {Image.MAX_IMAGE_PIXELS or 0:,} pixels"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error) or type(error).__name__


def decode(encoded: bytes, *, upright: bool = True) -> NDArray[np.uint8]:
    """Decode the bytes of an image file, in colour, to uint8 of shape (3, H, W), which nobody may change."""
    return np.asarray(opened(encoded, upright=upright)).transpose(2, 0, 1)


def opened(encoded: bytes, *, least: int | None = None, upright: bool = True) -> Image.Image:
    """Open the bytes of an image file as 8-bit RGB; of an animation or of several pages, the first.

    Args:
        encoded: The file's content.
        least: Sides in pixels that are enough for the caller, who then gets large JPEGs reduced, and faster.
        upright: Whether the image is turned as its EXIF data says, rather than left as it is stored.

    Raises:
        ValueError: There is nothing in the file, or what `to_rgb` raises.
    """
    if not encoded:
        raise ValueError("an empty file")
    image: Image.Image = Image.open(io.BytesIO(encoded), formats=KINDS)
    if least is not None:
        image.draft("RGB", (least, least))
    image.load()
    if upright and _may_be_turned(image):
        ImageOps.exif_transpose(image, in_place=True)
    return to_rgb(image)


def _may_be_turned(image: Image.Image) -> bool:
    """Tell whether it is worth asking how an image is to be turned, which for a small one takes long."""
    return image.format != "JPEG" or not _TURNS.isdisjoint(image.info)


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any Pillow image to 8-bit RGB: 16-bit grey keeps its high byte, what is transparent becomes white.

    Raises:
        ValueError: Its pixels are floating-point numbers or such of 32 bits, whose range nobody knows.
    """
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers")
    if image.mode.startswith("I"):
        return Image.fromarray(_high_byte(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        page = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(page, image.convert("RGBA")).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")  # which would copy it


def _high_byte(grey: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the high byte of 16-bit numbers, which Pillow may hold in 32 bits."""
    least, most = int(grey.min()), int(grey.max())
    if least < 0 or most >= 2**16:
        raise ValueError(f"its grey values are {least} to {most}, not 0 to {2**16 - 1}; save it with 16 bits or 8")
    return (grey.astype(np.int64) >> 8).astype(np.uint8)
