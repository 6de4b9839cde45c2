"""Images and masks: read in pairs, checked in pairs, changed in pairs."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from street import plant

from frostline.data.cityscapes import Cityscapes
from frostline.data.segmentation_folder import SegmentationFolder
from frostline.errors import DamagedError, DataError
from frostline.nn.backbone import ImageInput

SPEC = ImageInput(size=8, mean=(0.0,) * 3, std=(1.0,) * 3)


def folder(root: Path, **options) -> SegmentationFolder:
    data = SegmentationFolder(**{"seed": 0, "root": str(root), **options})
    data.expect(SPEC)
    data.setup()
    return data


def refusal(root: Path, **options) -> str:
    with pytest.raises(DataError) as refused:
        folder(root, **options)
    return str(refused.value)


def redraw(root: Path, name: str, array: np.ndarray) -> None:
    Image.fromarray(array).save(root / "masks" / f"{name}.png")


def test_pairs_are_split_by_content_and_classes_are_what_masks_hold(tmp_path: Path) -> None:
    data = folder(plant(tmp_path, 20))
    assert [len(data.drawn(split)) for split in ("train", "val", "test")] == [14, 3, 3]
    assert data.class_names == ["0", "1", "2"]
    images, labels, _ = next(iter(data.val_dataloader()))
    assert (images.shape, labels.shape, labels.dtype) == ((3, 3, 8, 16), (3, 8, 16), torch.int64)
    assert labels[:, :, :8].unique().tolist() == [0]
    assert set(labels[:, :, 8:].unique().tolist()) <= {1, 2}


def test_splits_that_are_there_are_kept_and_classes_may_stand_in_a_file(tmp_path: Path) -> None:
    root = plant(tmp_path, 8, split="train")
    plant(root, 4, split="val", first=50)
    (root / "classes.txt").write_text("sky\nroad\ncar\n")
    data = folder(root)
    assert [len(data.drawn(split)) for split in ("train", "val", "test")] == [7, 4, 1]
    assert data.class_names == ["sky", "road", "car"]
    assert data.describe()["splits"]["val"]["examples"] == 4
    assert json.loads(json.dumps(data.describe())) == data.describe()


def test_files_of_unknown_suffixes_in_both_folders_are_told(tmp_path: Path) -> None:
    root = plant(tmp_path / "plain", 20)
    assert folder(root).remarks() == []
    more = plant(tmp_path / "more", 20)
    for name in ("images/a.heic", "images/Thumbs.db", "images/._000.png", "masks/a.npy"):
        (more / name).write_bytes(b"other")
    data = folder(more)
    (told,) = data.remarks()
    assert told.startswith(f"{more}: 2 file(s) are left out, as images end in .jpg, ")
    assert told.endswith(", .webp: 'images/a.heic', 'masks/a.npy'")
    assert data.describe()["ignored"] == ["images/a.heic", "masks/a.npy"]


def test_two_images_that_differ_in_their_suffix_alone_are_refused(tmp_path: Path) -> None:
    root = plant(tmp_path)
    (root / "images/003.bmp").write_bytes((root / "images/003.png").read_bytes())
    assert refusal(root) == f"data.root={root}: 'images/003.png' has another of its name; rename one of them"


@pytest.mark.parametrize(("name", "split"), [("Valid", "val"), ("test", "test")])
def test_without_a_folder_of_train_what_lies_in_no_other_split_is_train(tmp_path: Path, name: str, split: str) -> None:
    root = plant(tmp_path, 8)
    plant(root, 4, split=name, first=50)
    data = folder(root)
    assert sorted(data.example_ids(split)) == [f"{name}/{number:03d}" for number in range(50, 54)]
    assert not any("/" in each for each in data.example_ids("train"))


def test_images_of_other_splits_alone_are_never_trained_on(tmp_path: Path) -> None:
    root = plant(plant(tmp_path, 8, split="val"), 4, split="test", first=50)
    assert refusal(root) == f"data.root={root}: every image in it is one of val or test; add some of train"


def test_two_names_of_one_split_are_refused(tmp_path: Path) -> None:
    root = plant(plant(plant(tmp_path, 8, split="train"), 4, split="val", first=50), 4, split="valid", first=60)
    assert refusal(root) == f"data.root={root}: 'val' and 'valid' both stand for val; keep one of them"


def test_a_value_that_no_mask_of_train_holds_is_no_class(tmp_path: Path) -> None:
    root = plant(tmp_path, 8, split="train")
    plant(root, 4, split="val", first=50)
    mask = root / "masks/val/050.png"
    values = np.asarray(Image.open(mask)).copy()
    values[0, :3] = 77
    Image.fromarray(values).save(mask)
    assert "'val/050' (its mask 050.png holds 77 in 3 pixels, which is no class)" in refusal(root)


def test_a_value_of_one_mask_alone_is_told(tmp_path: Path) -> None:
    root = plant(tmp_path, 20)
    data = folder(root)
    mask = data.drawn("train").examples.content.pairs[0].mask
    array = np.asarray(Image.open(mask)).copy()
    array[0, 0] = 200
    Image.fromarray(array).save(mask)
    (told,) = SegmentationFolder(seed=0, root=f"{root}/.").source().remarks
    assert told == (
        f"{root}/.: a value of one mask alone is a class here: 200 (1 pixel of '{mask.name}'); "
        "name the classes with data.classes if one of these is none"
    )


def test_values_with_gaps_are_told(tmp_path: Path) -> None:
    root = plant(tmp_path, 20)
    for mask in (root / "masks").iterdir():
        Image.fromarray(np.asarray(Image.open(mask)) * 100).save(mask)
    assert folder(root).remarks() == [
        f"{root}: the values 0, 100, 200 are the classes; name the classes with data.classes if one of these is none"
    ]


def test_masks_of_0_and_255_are_told_that_255_counts_for_nothing(tmp_path: Path) -> None:
    root = plant(tmp_path, 8)
    for file in (root / "masks").iterdir():
        Image.fromarray((np.asarray(Image.open(file)) > 0).astype(np.uint8) * 255).save(file)
    assert "hold 0 beside 255, which data.ignore leaves out; choose another value for it" in refusal(root, ignore=255)
    assert folder(root, ignore=254).class_names == ["0", "255"]


def test_masks_are_resized_by_the_nearest_pixel_and_keep_their_place(tmp_path: Path) -> None:
    data = folder(plant(tmp_path, size=(32, 16)))
    image, labels = data.drawn("train").show(0)
    assert (image.shape, labels.shape) == ((3, 8, 16), (8, 16))
    assert labels[:, :8].unique().tolist() == [0]


def test_pixels_to_ignore_have_the_label_of_none(tmp_path: Path) -> None:
    data = folder(plant(tmp_path), ignore=2, classes=["left", "right"])
    labels = torch.cat([batch.targets for batch in data.train_dataloader()])
    assert set(labels.unique().tolist()) == {-100, 0, 1}


def test_images_of_other_sizes_are_padded_with_pixels_to_ignore(tmp_path: Path) -> None:
    plant(tmp_path, 6)
    plant(tmp_path, 6, first=20, size=(24, 8))
    (images, labels, _), *_ = folder(tmp_path, val_fraction=0.3).val_dataloader()
    assert images.shape[2:] == labels.shape[1:] == (8, 24)
    narrow = [i for i in range(len(labels)) if (labels[i, :, 16:] == -100).all()]
    assert 0 < len(narrow) < len(labels)
    assert not images[narrow][..., 16:].any()


def test_sizes_are_those_at_which_images_are_shown(tmp_path: Path) -> None:
    for place, size in enumerate([(16, 8), (17, 11), (11, 17), (64, 32), (9, 7), (7, 50)]):
        plant(tmp_path, 3, first=3 * place, size=size)
    train = folder(tmp_path).drawn("train")
    shown = [train.show(row) for row in train.examples.rows.tolist()]
    assert set(train.sizes) == {tuple(labels.shape) for _, labels in shown}
    assert all(image.shape[1:] == labels.shape for image, labels in shown)


def test_image_and_mask_are_changed_alike_and_by_seed_epoch_and_place(tmp_path: Path) -> None:
    root = tmp_path
    for number in range(8):
        colour = np.zeros((16, 32, 3), dtype=np.uint8)
        colour[:, number : number + 12] = 255
        (root / "images").mkdir(exist_ok=True)
        (root / "masks").mkdir(exist_ok=True)
        colour[0, 0, 1] = number
        Image.fromarray(colour).save(root / "images" / f"{number}.png")
        redraw(root, str(number), (colour[..., 0] > 0).astype(np.uint8))
    data, still = folder(root, augment=True, image_size=16), folder(root, image_size=16)
    count = len(data.drawn("train"))
    for epoch in range(4):
        images, labels, _ = data.drawn("train").__getitems__([epoch * count, epoch * count + 1])
        bright = images[:, 0] > 0.5
        assert ((bright == (labels == 1)).float().mean()) > 0.93, "edges alone may differ by resampling"
    first, again = (data.drawn("train").__getitems__([count + 1]) for _ in range(2))
    assert torch.equal(first.inputs, again.inputs)
    assert not torch.equal(first.targets, data.drawn("train").__getitems__([2 * count + 1]).targets)
    assert torch.equal(data.drawn("val").__getitems__([0]).inputs, still.drawn("val").__getitems__([0]).inputs)


def test_a_wide_image_is_stretched_by_a_third_at_most(tmp_path: Path) -> None:
    across, down = np.meshgrid(np.arange(64), np.arange(32))
    for number in range(8):
        for kind in ("images", "masks"):
            (tmp_path / kind).mkdir(exist_ok=True)
        colour = np.stack([across * 4, down * 8, np.full_like(down, number)], 2).astype(np.uint8)
        Image.fromarray(colour).save(tmp_path / "images" / f"{number}.png")
        redraw(tmp_path, str(number), (across > 31).astype(np.uint8))
    split = folder(tmp_path, augment=True, image_size=32).drawn("train")
    stretched = []
    for image in split.__getitems__(list(range(20 * len(split)))).inputs:
        wide, high = (255 * (image[channel].max() - image[channel].min()) / step for channel, step in ((0, 4), (1, 8)))
        stretched.append(float((32 / high) / (64 / wide)))
    assert 0.7 < min(stretched) < 0.85
    assert 1.2 < max(stretched) < 1.4


def test_another_mask_is_another_fingerprint(tmp_path: Path) -> None:
    before = folder(plant(tmp_path)).fingerprint()
    mask = np.ones((8, 16), dtype=np.uint8)
    mask[0] = 2
    redraw(tmp_path, "003", mask)
    from frostline.data import segmentation_folder

    segmentation_folder._read.cache_clear()
    assert folder(tmp_path).fingerprint() != before


def test_an_image_without_a_pixel_of_any_class_is_kept_and_counted(tmp_path: Path) -> None:
    plant(tmp_path)
    redraw(tmp_path, "003", np.full((8, 16), 255, dtype=np.uint8))
    data = folder(tmp_path)
    assert data.describe()["void_images"] == 1
    assert sum(len(data.drawn(split)) for split in ("train", "val", "test")) == 10


def test_a_palette_counts_by_its_indices(tmp_path: Path) -> None:
    plant(tmp_path)
    for file in (tmp_path / "masks").iterdir():
        mask = Image.open(file).convert("L")
        palette = Image.fromarray(np.asarray(mask), mode=None).convert("P")
        palette.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200])
        palette.putdata(list(np.asarray(mask).reshape(-1)))
        palette.save(file)
    assert folder(tmp_path).class_names == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("change", "options", "sentence"),
    [
        (lambda root: (root / "masks/003.png").unlink(), {}, "'003.png' has no mask in masks/ of the name '003'; add"),
        (lambda root: (root / "images/003.png").unlink(), {}, "'003.png' has no image in images/ of the name '003'"),
        (
            lambda root: redraw(root, "003", np.zeros((8, 15), dtype=np.uint8)),
            {},
            "'003' (the image has 16x8 pixels and its mask 15x8); correct or remove these\n",
        ),
        (
            lambda root: redraw(root, "003", np.full((8, 16), 9, dtype=np.uint8)),
            {"classes": ["a", "b", "c"]},
            "'003' (its mask 003.png holds 9 in 128 pixels, which is no class); correct or remove these, or name what "
            "to ignore with data.ignore",
        ),
        (
            lambda root: redraw(root, "003", np.zeros((8, 16, 3), dtype=np.uint8)),
            {},
            "its mask 003.png: a mask holds one whole number for each pixel, not RGB",
        ),
        (lambda root: (root / "images/003.png").write_bytes(b""), {}, "its image 003.png: an empty file"),
        (lambda root: (root / "masks/003.png").write_bytes(b"none"), {}, "its mask 003.png: not an image"),
        (lambda root: [f.unlink() for f in (root / "masks").iterdir()], {}, "masks/ holds no image (.jpg"),
        (lambda root: None, {"classes": ["a"]}, "data.classes=['a']: should name at least two classes, each once"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, change, options: dict, sentence: str) -> None:
    change(plant(tmp_path))
    assert sentence in f"{refusal(tmp_path, **options)}\n"


def test_a_truncated_image_is_named_before_training(tmp_path: Path) -> None:
    plant(tmp_path, size=(64, 64))
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    noise.save(tmp_path / "images/003.png", format="JPEG")
    whole = (tmp_path / "images/003.png").read_bytes()
    (tmp_path / "images/003.png").write_bytes(whole[: len(whole) // 2])
    assert "'003' (its image 003.png: " in refusal(tmp_path)


def test_a_file_that_breaks_in_the_midst_of_a_run_is_named(tmp_path: Path) -> None:
    data = folder(plant(tmp_path))
    for file in (tmp_path / "masks").iterdir():
        file.write_bytes(b"")
    with pytest.raises(DamagedError, match=r"masks/\d+\.png: cannot be read any more \(an empty file\)"):
        data.drawn("train").show(0)


def test_an_image_that_is_stored_turned_is_shown_upright_beside_its_mask(tmp_path: Path) -> None:
    plant(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(tmp_path / "images/003.png").transpose(Image.Transpose.ROTATE_90).save(
        tmp_path / "images/003.png", exif=exif
    )
    folder(tmp_path)
    redraw(tmp_path, "003", np.zeros((16, 8), dtype=np.uint8))
    from frostline.data import segmentation_folder

    segmentation_folder._read.cache_clear()
    assert "the image is turned by its EXIF data, so turn the mask, too" in refusal(tmp_path)


def city(root: Path, split: str, count: int, *, first: int = 0) -> Path:
    for number in range(first, first + count):
        name = f"ulm/ulm_{number:06d}_000019"
        for kind, suffix in (("leftImg8bit", "_leftImg8bit.png"), ("gtFine", "_gtFine_labelIds.png")):
            file = root / kind / split / f"{name}{suffix}"
            file.parent.mkdir(parents=True, exist_ok=True)
            ids = np.full((8, 16), 7, dtype=np.uint8)  # road
            ids[:2], ids[2] = 23, 0  # sky, unlabelled
            image = Image.new("RGB", (16, 8), (number, 3, 4)) if kind == "leftImg8bit" else Image.fromarray(ids)
            image.save(file)
    return root


def test_cityscapes_has_19_classes_and_is_tested_on_its_val(tmp_path: Path) -> None:
    data = Cityscapes(seed=0, root=str(city(city(tmp_path, "train", 10), "val", 4, first=50)))
    data.expect(SPEC)
    data.setup()
    assert len(data.class_names) == 19
    assert data.class_names[:2] == ["road", "sidewalk"]
    assert [len(data.drawn(split)) for split in ("train", "val", "test")] == [8, 2, 4]
    labels = data.drawn("test").show(9)[1]
    assert [data.class_names[labels[0, 0]], data.class_names[labels[5, 0]], int(labels[2, 0])] == ["sky", "road", -100]


def test_cityscapes_says_what_to_unpack(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"unpack leftImg8bit_trainvaltest\.zip there$"):
        Cityscapes(seed=0, root=str(tmp_path)).check()
    next(city(tmp_path, "train", 2).glob("gtFine/train/ulm/*")).unlink()
    with pytest.raises(DataError, match=r"unpack gtFine_trainvaltest\.zip$"):
        Cityscapes(seed=0, root=str(tmp_path)).check()


@pytest.mark.shared_data
def test_camvid_is_read_as_it_is(shared: Path) -> None:
    data = folder(shared / "data/camvid", ignore=11, image_size=60)
    assert len(data.class_names) == 11
    assert sum(len(data.drawn(split)) for split in ("train", "val", "test")) == 468


def turned(file: Path, turn: Image.Transpose, orientation: int) -> None:
    """Store an image turned, with the EXIF data that says so."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.open(file).transpose(turn).save(file, exif=exif)


def test_a_mask_that_is_stored_turned_is_turned_as_its_image_is(tmp_path: Path) -> None:
    plain = folder(plant(tmp_path / "plain"))
    upright = {n: plain.drawn(split).show(row) for split in ("train",) for n, row in rows_by_name(plain, split)}
    plant(tmp_path / "turned")
    for kind in ("images", "masks"):
        for file in (tmp_path / "turned" / kind).iterdir():
            turned(file, Image.Transpose.ROTATE_180, 3)  # sizes alone could not tell
    data = folder(tmp_path / "turned")
    compared = 0
    for name, row in rows_by_name(data, "train"):
        if name in upright:
            assert all(torch.equal(a, b) for a, b in zip(upright[name], data.drawn("train").show(row), strict=True))
            compared += 1
    assert compared > 0


def rows_by_name(data: SegmentationFolder, split: str) -> list[tuple[str, int]]:
    examples = data.drawn(split).examples
    return list(zip(examples.ids, examples.rows.tolist(), strict=True))


@pytest.mark.parametrize("mode", ["L", "RGBA", "LA", "P", "I;16", "CMYK"])
def test_images_of_every_mode_are_shown_in_colour(tmp_path: Path, mode: str) -> None:
    plant(tmp_path, size=(16, 8))
    for number, file in enumerate(sorted((tmp_path / "images").iterdir())):
        grey = np.full((8, 16), 1000 * (number + 1), dtype=np.uint16)
        image = Image.fromarray(grey) if mode == "I;16" else Image.open(file).convert(mode)
        if mode == "CMYK":
            file.unlink()
            file = file.with_suffix(".jpg")
        image.save(file)
    image, labels = folder(tmp_path).drawn("train").show(0)
    assert (image.shape, image.dtype, labels.shape) == ((3, 8, 16), torch.uint8, (8, 16))


def test_masks_of_16_bits_hold_what_they_say(tmp_path: Path) -> None:
    plant(tmp_path)
    for file in (tmp_path / "masks").iterdir():
        values = np.asarray(Image.open(file)).astype(np.uint16) * 1000
        Image.fromarray(values).save(file)
    data = folder(tmp_path, ignore=65535)
    assert data.class_names == ["0", "1000", "2000"]
    assert set(data.drawn("train").show(0)[1].unique().tolist()) <= {0, 1, 2}


def test_a_mask_of_more_than_16_bits_is_named(tmp_path: Path) -> None:
    plant(tmp_path)
    (tmp_path / "masks/003.png").unlink()
    Image.fromarray(np.full((8, 16), 70_000, dtype=np.int32)).save(tmp_path / "masks/003.tiff")
    told = "'003' (its mask 003.tiff: a mask holds numbers from 0 to 65535, not 70000 to 70000)"
    assert told in refusal(tmp_path)


def test_a_truncated_mask_is_named(tmp_path: Path) -> None:
    plant(tmp_path, size=(64, 64))
    redraw(tmp_path, "003", np.random.default_rng(0).integers(0, 3, (64, 64), dtype=np.uint8))
    whole = (tmp_path / "masks/003.png").read_bytes()
    (tmp_path / "masks/003.png").write_bytes(whole[: len(whole) // 2])
    assert "'003' (its mask 003.png: " in refusal(tmp_path)


def test_a_split_in_which_no_pixel_has_a_class_is_refused(tmp_path: Path) -> None:
    plant(tmp_path, 8, split="train")
    plant(tmp_path, 2, split="val", first=50)
    for name in ("050", "051"):
        redraw(tmp_path, f"val/{name}", np.full((8, 16), 255, dtype=np.uint8))
    told = f"{tmp_path}: no pixel of the 2 image(s) of val has a class; add images that have some"
    assert refusal(tmp_path) == told


def test_an_image_in_two_splits_is_kept_in_one_and_counted(tmp_path: Path) -> None:
    plant(tmp_path, 8, split="train")
    plant(tmp_path, 3, split="val", first=7)  # its first is the last of train
    plant(tmp_path, 3, split="test", first=60)
    data = folder(tmp_path)
    assert [len(data.drawn(split)) for split in ("train", "val", "test")] == [7, 3, 3]
    assert data.describe()["duplicates_removed"] == {"train": 1, "val": 0, "test": 0}
    (told,) = data.remarks()
    assert told.endswith("stands elsewhere too, such as 'train/007' of train, which is 'val/007' of val")


def test_one_image_with_two_masks_is_told(tmp_path: Path) -> None:
    plant(tmp_path)
    (tmp_path / "images/copy.png").write_bytes((tmp_path / "images/003.png").read_bytes())
    redraw(tmp_path, "copy", np.zeros((8, 16), dtype=np.uint8))
    data = folder(tmp_path)
    assert data.describe()["contradictory_labels"] == 1
    _, told = data.remarks()
    assert "the same content stands under different labels 1 time(s), such as '003' and 'copy'" in told
    assert told.endswith("in train, the mask of the first name is kept")
    kept = [data.example_ids(split) for split in ("train", "val", "test")]
    assert ["003" in names or "copy" in names for names in kept].count(True) == 1
    assert not any("copy" in names for names in kept)


def test_cityscapes_reads_masks_by_class_where_there_are_no_others(tmp_path: Path) -> None:
    city(city(tmp_path, "train", 10), "val", 4, first=50)
    by_class = np.full(256, 255, dtype=np.uint8)
    by_class[[7, 23]] = 0, 10
    for file in list(tmp_path.glob("gtFine/*/*/*_labelIds.png")):
        ids = np.asarray(Image.open(file))
        Image.fromarray(by_class[ids]).save(file.with_name(file.name.replace("_labelIds", "_labelTrainIds")))
        file.unlink()
    data = Cityscapes(seed=0, root=str(tmp_path))
    data.expect(SPEC)
    data.setup()
    labels = data.drawn("test").show(9)[1]
    assert [data.class_names[labels[0, 0]], data.class_names[labels[5, 0]], int(labels[2, 0])] == ["sky", "road", -100]


def test_a_mask_of_two_bits_is_refused(tmp_path: Path) -> None:
    plant(tmp_path)
    Image.fromarray(np.zeros((8, 16), dtype=np.uint8)).save(tmp_path / "masks/003.png", bits=2)
    assert "in grey of 2 or 4 bits" in refusal(tmp_path)
