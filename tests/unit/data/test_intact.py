"""Whatever is wrong with an image file is said before training, and what breaks later is named when it does."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frostline.data.image_folder import ImageFolder
from frostline.data.intact import intact_digests
from frostline.data.pixels import EncodedImages, decode, problem_of
from frostline.errors import DamagedError, DataError
from frostline.nn.backbone import ImageInput

NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(width: int, height: int, *, bits: int = 8, rows: bytes = b"") -> bytes:
    """A PNG as its header tells it, whatever pixels follow."""
    header = struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    packed = [struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


JPEG = encoded(Image.fromarray(NOISE), "JPEG")
BROKEN = {
    "an empty file": b"",
    "not an image": b"GIF of my cat",
    "not an image  ": encoded(Image.new("RGB", (2, 2)), "EPS"),
    "image file is truncated": JPEG[: len(JPEG) // 2],
    "Truncated File Read": JPEG[:100],
    "not an image ": png(0, 5),
    "more than 89,478,485 pixels": png(9500, 9500),
    "more than 89,478,485 pixels ": png(20000, 20000),
    "its pixels are floating-point numbers": encoded(Image.new("F", (2, 2)), "TIFF"),
}


@pytest.mark.parametrize("problem", BROKEN)
def test_a_broken_file_is_refused_with_what_is_wrong_with_it(tmp_path: Path, problem: str) -> None:
    file = tmp_path / "a.jpg"
    file.write_bytes(BROKEN[problem])
    with pytest.raises(DataError) as caught:
        intact_digests("data.root=pics", ["whole", "a.jpg"], [JPEG, file])
    begin = f"data.root=pics: cannot read 'a.jpg' ({problem.strip()}"
    assert str(caught.value).startswith(begin)
    assert str(caught.value).endswith("); replace or remove what is broken")


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_a_file_cut_anywhere_among_its_pixels_is_refused(kind: str, share: float) -> None:
    whole = encoded(Image.fromarray(NOISE), kind, **({"lossless": True} if kind == "WEBP" else {}))
    intact_digests("", ["whole"], [whole])
    with pytest.raises(DataError, match="cannot read 'cut'"):
        intact_digests("", ["cut"], [whole[: int(share * len(whole))]])


def test_a_file_that_is_gone_and_one_that_is_closed_say_so_without_repeating_their_path(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read 'b\.jpg' \(no such file or directory\); replace"):
        intact_digests("data.root=pics", ["b.jpg"], [tmp_path / "b.jpg"])
    assert problem_of(PermissionError(13, "Permission denied", "/pics/a.jpg")) == "permission denied"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_cannot_be_listed_is_not_passed_over(plant) -> None:
    root = plant({"cat": 10, "dog": 10, "eel": 10})
    (root / "eel").chmod(0)
    with pytest.raises(DataError, match=r"cannot list .*eel"):
        ImageFolder(seed=0, root=str(root)).source()
    (root / "eel").chmod(0o700)


def test_a_folder_that_cannot_be_listed_is_named(plant, monkeypatch) -> None:
    root, listed = plant({"cat": 10, "dog": 10}), os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError) as caught:
        ImageFolder(seed=0, root=str(root)).source()
    assert str(caught.value) == (
        f"data.root: cannot list '{root}/dog' (permission denied); make it readable, or move it away"
    )


@pytest.mark.parametrize("kind", ["GIF", "MPO", "PNG", "WEBP", "TIFF"])
def test_an_animation_is_its_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    moving = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    red, green, blue = decode(moving)[:, 0, 0].tolist()
    assert red > 250 > 5 > max(green, blue)


def test_inks_of_a_jpeg_become_colours() -> None:
    assert decode(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))[:, 4, 4].tolist() == [255, 0, 0]


def test_deep_colours_keep_their_high_byte() -> None:
    deep = png(1, 1, bits=16, rows=b"\0" + struct.pack(">HHH", 0x80FF, 0x0102, 0xFF00))
    assert decode(deep)[:, 0, 0].tolist() == [0x80, 0x01, 0xFF]


def test_what_breaks_after_the_check_is_named_with_the_way_out(tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    file.write_bytes(JPEG[:-500])
    with pytest.raises(DamagedError) as caught:
        EncodedImages(files=[JPEG, file])[1]
    begin = f"{file}: cannot be read any more (image file is truncated"
    assert str(caught.value).startswith(begin)
    assert str(caught.value).endswith("; restore it, and resume the run or start it again")
    with pytest.raises(DamagedError, match=r"^pics/a\.jpg: cannot be read any more \(not an image\)"):
        EncodedImages(files=[b"no image"], names=["pics/a.jpg"])[0]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_breaks_in_an_epoch_is_named_in_one_sentence_by_any_process(plant, workers: int) -> None:
    root = plant({"cat": 10, "dog": 10})
    data = ImageFolder(seed=0, root=str(root), augment=True, num_workers=workers, batch_size=4)
    data.expect(ImageInput(size=8, mean=(0.0,) * 3, std=(1.0,) * 3))
    data.setup()
    name = data.example_ids("train")[5]
    (root / name).write_bytes(b"")
    with pytest.raises(DamagedError) as caught:
        list(data.train_dataloader())
    way_out = "restore it, and resume the run or start it again"
    assert str(caught.value) == f"{root / name}: cannot be read any more (an empty file); {way_out}"
