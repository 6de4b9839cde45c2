"""Every kind of image file becomes the same upright 8-bit colours, and is decoded once."""

import io
from dataclasses import dataclass, field

import numpy as np
import pytest
from PIL import Image

from frostline.data import pixels
from frostline.data.intact import intact_digests
from frostline.data.pixels import ArrayImages, EncodedImages, decode, fit, fitted, opened
from frostline.errors import DataError

GREY = np.array([[0, 100], [200, 255]], dtype=np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def colours(image: np.ndarray) -> list[list[list[int]]]:
    return image.transpose(1, 2, 0).tolist()


def test_grey_is_repeated_over_three_channels() -> None:
    image = decode(encoded(Image.fromarray(GREY)))
    assert image.dtype == np.uint8
    assert image.tolist() == [GREY.tolist()] * 3


def test_sixteen_bits_keep_their_high_byte() -> None:
    deep = (GREY.astype(np.uint16) << 8) + 77
    assert decode(encoded(Image.fromarray(deep))).tolist() == [GREY.tolist()] * 3


def test_sixteen_bits_in_a_container_of_thirty_two_are_sixteen_bits() -> None:
    deep = (GREY.astype(np.int32) << 8) + 77
    assert decode(encoded(Image.fromarray(deep), "TIFF")).tolist() == [GREY.tolist()] * 3


@pytest.mark.parametrize("grey", [[[0, 65536]], [[-5, 700]], [[3, 2**31 - 1]]])
def test_more_than_sixteen_bits_are_refused_with_their_range(grey: list[list[int]], tmp_path) -> None:
    content = encoded(Image.fromarray(np.array(grey, dtype=np.int32)), "TIFF")
    said = f"its grey values are {grey[0][0]} to {grey[0][1]}, not 0 to 65535; save it with 16 bits or 8"
    with pytest.raises(ValueError, match=f"^{said}$"):
        decode(content)
    with pytest.raises(DataError) as caught:
        intact_digests("data.root=scans", ["a.tiff"], [content])
    assert str(caught.value) == f"data.root=scans: cannot read 'a.tiff' ({said}); replace or remove what is broken"


def test_what_is_transparent_becomes_white_whatever_colour_it_hides() -> None:
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0]]], dtype=np.uint8)
    assert colours(decode(encoded(Image.fromarray(rgba)))) == [[[10, 20, 30], [255, 255, 255]]]


def test_a_palette_gives_its_colours_and_its_transparent_entry_white() -> None:
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8), mode=None).convert("P")
    image.putdata([0, 1])
    image.putpalette([10, 20, 30, 40, 50, 60])
    assert colours(decode(encoded(image))) == [[[10, 20, 30], [40, 50, 60]]]
    assert colours(decode(encoded(image, transparency=1))) == [[[10, 20, 30], [255, 255, 255]]]


def test_one_bit_and_cmyk_become_colours() -> None:
    bits = Image.fromarray(GREY).convert("1", dither=Image.Dither.NONE)
    assert decode(encoded(bits)).tolist() == [[[0, 0], [255, 255]]] * 3
    ink = Image.new("CMYK", (1, 1), (0, 255, 255, 0))
    assert colours(decode(encoded(ink, "TIFF"))) == [[[255, 0, 0]]]


def test_an_image_turned_by_its_exif_orientation_stands_upright() -> None:
    lying = Image.fromarray(GREY)
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(encoded(lying, exif=exif))[0].tolist() == np.rot90(GREY, k=-1).tolist()


@pytest.mark.parametrize(
    "told",
    [
        {"exif": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"},
        {"xmp": b'<x tiff:Orientation="6"/>'},
    ],
    ids=["exif", "xmp"],
)
def test_a_jpeg_that_says_so_is_turned(told: dict[str, bytes]) -> None:
    lying = Image.new("RGB", (8, 16))
    assert decode(encoded(lying, "JPEG")).shape == (3, 16, 8)
    assert decode(encoded(lying, "JPEG", **told)).shape == (3, 8, 16)


def test_floating_point_pixels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^its pixels are floating-point numbers$"):
        decode(encoded(Image.new("F", (2, 2)), "TIFF"))


def test_a_reduced_opening_is_smaller_but_large_enough() -> None:
    large = encoded(Image.new("RGB", (400, 400)), "JPEG")
    assert opened(large).size == (400, 400)
    assert opened(large, least=32).size == (50, 50)


def test_fitting_keeps_the_proportions_and_the_centre() -> None:
    wide = np.zeros((3, 10, 30), dtype=np.uint8)
    wide[:, :, 10:20] = 200
    assert np.array_equal(fit(wide, size=10), np.full((3, 10, 10), 200))
    assert fit(wide.transpose(0, 2, 1), size=5).shape == (3, 5, 5)


def test_fitting_is_an_antialiased_resize() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    reference = np.asarray(Image.fromarray(image).resize((16, 16), Image.Resampling.BILINEAR))
    ours = fit(image.transpose(2, 0, 1), size=16).transpose(1, 2, 0)
    assert np.abs(ours.astype(int) - reference).max() <= 1


def test_colour_arrays_come_out_channels_first() -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)
    assert colours(ArrayImages(array=array)[1]) == array[1].tolist()


def test_files_and_bytes_are_the_same_images(tmp_path) -> None:
    content = encoded(Image.fromarray(GREY))
    path = tmp_path / "a.png"
    path.write_bytes(content)
    images = EncodedImages(files=[content, path])
    assert np.array_equal(images[0], images[1])


@dataclass(frozen=True, eq=False)
class Counted:
    asked: list[int] = field(default_factory=list)

    def __getitem__(self, row: int) -> np.ndarray:
        self.asked.append(row)
        return np.full((3, 4, 4), row, dtype=np.uint8)


def test_every_user_of_one_size_shares_what_is_decoded() -> None:
    images = Counted()
    assert [fitted(images, 4)[row][0, 0, 0].item() for row in (1, 2, 1, 2)] == [1, 2, 1, 2]
    assert images.asked == [1, 2]
    assert fitted(images, 4) is not fitted(images, 2)


def test_what_is_held_in_several_blocks_is_what_was_decoded(monkeypatch) -> None:
    monkeypatch.setattr(pixels, "_BLOCK", 2 * 3 * 4 * 4 + 1)
    images = Counted()
    held = fitted(images, 4)
    for _ in range(2):
        assert [int(value) for row in range(5) for value in np.unique(held[row])] == list(range(5))
    assert images.asked == list(range(5))


def test_no_more_is_held_than_there_is_room_for(monkeypatch) -> None:
    monkeypatch.setattr(pixels, "HELD_BYTES", 2 * 48)
    images = Counted()
    for row in (0, 1, 2, 0, 1, 2):
        fitted(images, 4)[row]
    assert images.asked == [0, 1, 2, 2]
