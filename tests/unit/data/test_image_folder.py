"""Any layout of class folders is read the same way, and what is wrong with it is said before training."""

import io
import re
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from frostline.data import pixels
from frostline.data.image_folder import ImageFolder
from frostline.data.pixels import decode, fit
from frostline.errors import DataError
from frostline.nn.backbone import ImageInput

SPEC = ImageInput(size=8, mean=(0.0,) * 3, std=(1.0,) * 3)
SUFFIXES = ".jpg, .jpeg, .png, .ppm, .bmp, .pgm, .tif, .tiff, .webp"


def folder(root: Path, **options) -> ImageFolder:
    data = ImageFolder(**{"seed": 0, "root": str(root), **options})
    data.expect(SPEC)
    data.setup()
    return data


def sizes(data: ImageFolder) -> tuple[int, int, int]:
    return len(data.drawn("train")), len(data.drawn("val")), len(data.drawn("test"))


def test_class_folders_are_split_by_content(plant) -> None:
    data = folder(plant({"cat": 20, "dog": 20}))
    assert data.class_names == ["cat", "dog"]
    assert sizes(data) == (28, 6, 6)
    names = [name for split in ("train", "val", "test") for name in data.example_ids(split)]
    assert sorted(names) == [f"{pet}/{number:03d}.png" for pet in ("cat", "dog") for number in range(20)]


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"train": 20, "val": 3, "test": 4}, (40, 6, 8)),
        ({"train": 20, "valid": 3, "test": 4}, (40, 6, 8)),
        ({"train": 20, "test": 4}, (34, 6, 8)),
        ({"train": 20, "val": 3}, (34, 6, 6)),
        ({"train": 20}, (28, 6, 6)),
    ],
)
def test_a_folder_per_split_is_kept_and_what_lacks_is_carved_from_train(plant, counts, expected) -> None:
    data = folder(plant({f"{split}/{pet}": count for split, count in counts.items() for pet in ("cat", "dog")}))
    assert sizes(data) == expected
    assert all(name.startswith("train/") for name in data.example_ids("train"))


def test_a_class_may_be_called_train(plant) -> None:
    assert folder(plant({"bus": 10, "train": 10})).class_names == ["bus", "train"]


def test_classes_are_found_below_a_wrapping_folder_and_images_below_their_class(plant) -> None:
    data = folder(plant({"pets/v1/cat/indoors": 10, "pets/v1/cat/outdoors": 10, "pets/v1/dog": 20}))
    assert data.class_names == ["cat", "dog"]
    assert sum(sizes(data)) == 40


@pytest.mark.parametrize("held_bytes", [0, 10_000])
def test_batches_lie_in_memory_alike_whether_or_not_images_are_held(plant, monkeypatch, held_bytes: int) -> None:
    monkeypatch.setattr(pixels, "HELD_BYTES", held_bytes)
    root = plant({"cat": 10, "dog": 10})
    for file in root.rglob("*.png"):  # at the size that the network sees, nothing needs to be laid out anew
        Image.open(file).crop((0, 0, 8, 8)).save(file)
    data = folder(root)
    for _ in range(2):
        assert all(batch.inputs.is_contiguous() for batch in data.reference_dataloader())


def test_pixels_and_labels_are_those_of_the_file(plant) -> None:
    root = plant({"cat": 10, "dog": 10})
    data = folder(root)
    for place, name in enumerate(data.example_ids("train")):
        inputs, target, index = data.drawn("train")[place]
        assert torch.equal(inputs, torch.from_numpy(fit(decode((root / name).read_bytes()), size=8)).float() / 255)
        assert (data.class_names[target], index) == (name.split("/")[0], place)


def packed_tar(root: Path, archive: Path) -> Path:
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(root, "pics")
    return archive


def packed_zip(root: Path, archive: Path) -> Path:
    with zipfile.ZipFile(archive, "w") as packed:
        for path in root.rglob("*"):
            packed.write(path, Path("pics") / path.relative_to(root))
    return archive


@pytest.mark.parametrize(("pack", "name"), [(packed_tar, "pics.tar.gz"), (packed_zip, "pics.zip")])
def test_an_archive_is_the_folder_that_was_packed(plant, tmp_path, pack, name) -> None:
    root = plant({"cat": 10, "dog": 10})
    opened, closed = folder(root), folder(pack(root, tmp_path / name))
    assert opened.fingerprint() == closed.fingerprint()
    assert torch.equal(opened.drawn("train")[3][0], closed.drawn("train")[3][0])
    assert [f"pics/{name}" for name in opened.example_ids("test")] == closed.example_ids("test")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pics", name]


def test_a_link_that_leads_back_up_is_not_followed(plant) -> None:
    root = plant({"cat": 10, "dog": 10})
    (root / "cat/up").symlink_to(root)
    assert sum(sizes(folder(root))) == 20


def test_splits_without_one_to_train_on_are_no_classes(plant) -> None:
    root = plant({f"{split}/{pet}": 4 for split in ("val", "test") for pet in ("cat", "dog")})
    with pytest.raises(DataError, match=r"holds test and val, but no train; add a folder of this name$"):
        folder(root)


def test_two_folders_of_one_split_are_told(plant) -> None:
    root = plant({f"{split}/{pet}": 8 for split in ("train", "val", "valid") for pet in ("cat", "dog")})
    with pytest.raises(DataError, match=r"'val' and 'valid' both stand for val; keep one of them$"):
        folder(root)


def test_new_names_change_neither_splits_nor_shots(plant, tmp_path) -> None:
    root = plant({"cat": 20, "dog": 20})
    renamed = tmp_path / "renamed"
    for path in root.rglob("*.png"):
        target = renamed / path.parent.name / f"{999 - int(path.stem)}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    one, other = folder(root, shots=4), folder(renamed, shots=4)
    assert one.fingerprint() == other.fingerprint()
    assert one.example_ids("train") != other.example_ids("train")


def test_a_class_that_val_and_test_lack_is_told(plant) -> None:
    root = plant({"cat": 20, "dog": 3})
    assert folder(root).remarks() == [f"{root}: val has no example of 'dog'", f"{root}: test has no example of 'dog'"]


def test_a_planted_copy_of_a_test_image_leaves_train(plant) -> None:
    root = plant({f"{split}/{pet}": 8 for split in ("train", "val", "test") for pet in ("cat", "dog")})
    shutil.copy(root / "test/cat/000.png", root / "train/cat/copy.png")
    shutil.copy(root / "test/dog/001.png", root / "val/dog/copy.png")
    shutil.copy(root / "val/cat/002.png", root / "train/cat/other.png")
    data = folder(root)
    assert sizes(data) == (16, 16, 16)
    assert data.describe()["duplicates_removed"] == {"test": 0, "val": 1, "train": 2}
    said = data.describe()["duplicates"]
    assert said["val"] == [{"name": "val/dog/copy.png", "kept": "test/dog/001.png", "by": "test"}]
    assert {each["name"]: (each["kept"], each["by"]) for each in said["train"]} == {
        "train/cat/copy.png": ("test/cat/000.png", "test"),
        "train/cat/other.png": ("val/cat/002.png", "val"),
    }
    assert data.remarks() == [
        f"{root}: 3 example(s) are left out (1 of val, 2 of train), as their content stands elsewhere too, "
        "such as 'val/dog/copy.png' of val, which is 'test/dog/001.png' of test"
    ]


def test_a_copy_over_splits_is_told_before_one_within_train_and_records_name_twenty(plant) -> None:
    root = plant({f"{split}/{pet}": 8 for split in ("train", "val", "test") for pet in ("cat", "dog")})
    for number in range(25):
        shutil.copy(root / "train/cat/000.png", root / f"train/cat/again{number:02d}.png")
        shutil.copy(root / "train/dog/000.png", root / f"train/cat/other{number:02d}.png")
    assert folder(root).remarks()[0].split(" example(s)")[0] == f"{root}: 50"
    shutil.copy(root / "test/dog/001.png", root / "train/dog/copy.png")
    more = root.rename(root.with_name("more"))
    data = folder(more)
    assert data.remarks()[0] == (
        f"{more}: 51 example(s) are left out (51 of train), as their content stands elsewhere too, "
        "such as 'train/dog/copy.png' of train, which is 'test/dog/001.png' of test"
    )
    assert len(data.describe()["duplicates"]["train"]) == 20
    assert (data.describe()["contradictory_labels"], data.describe()["contradictions"]) == (
        1,
        [["train/cat/other00.png", "train/dog/000.png"]],
    )


def test_other_files_and_hidden_ones_are_passed_over_and_counted(plant) -> None:
    root = plant({"cat": 10, "dog": 10, ".ipynb_checkpoints": 3})
    (root / "cat/notes.txt").write_text("purrs")
    (root / "labels.csv").write_text("a,b")
    for litter in (".DS_Store", "Thumbs.db", "desktop.ini"):
        (root / "dog" / litter).write_text("")
    shutil.copy(root / "cat/000.png", root / "cover.png")
    data = folder(root)
    assert data.class_names == ["cat", "dog"]
    assert sum(sizes(data)) == 20
    assert data.describe()["ignored_files"] == 3
    assert data.describe()["ignored"] == ["cat/notes.txt", "cover.png", "labels.csv"]


def test_images_of_an_unknown_suffix_are_told_by_name_however_many(plant, tmp_path) -> None:
    root = plant({"cat": 10, "dog": 10})
    assert folder(root).remarks() == []
    more = shutil.copytree(root, tmp_path / "more")
    for number in range(25):
        (more / f"cat/{number:03d}.heic").write_bytes(b"heic")
    (more / "dog/picture").write_bytes((root / "dog/000.png").read_bytes())
    (said,) = folder(more).remarks()
    assert said == (
        f"{more}: 26 file(s) are left out, as images end in {SUFFIXES} and lie in a class folder: 'cat/000.heic', "
        "'cat/001.heic', 'cat/002.heic', 'cat/003.heic', 'cat/004.heic' and 21 more"
    )
    told = folder(more).describe()
    assert (told["ignored_files"], told["ignored"]) == (26, [f"cat/{number:03d}.heic" for number in range(20)])


def test_files_that_an_archive_holds_besides_are_told(plant, tmp_path) -> None:
    root = plant({"cat": 10, "dog": 10})
    (root / "cat/notes.txt").write_text("purrs")
    (said,) = folder(packed_zip(root, tmp_path / "pics.zip")).remarks()
    assert said.endswith("and lie in a class folder: 'pics/cat/notes.txt'")


def test_augmentation_cuts_out_of_the_whole_image_the_same_way_with_any_number_of_workers(plant) -> None:
    root = plant({"cat": 10, "dog": 10})
    alone, helped = (list(folder(root, augment=True, num_workers=n, batch_size=4).train_dataloader()) for n in (0, 2))
    assert all(torch.equal(one[0], other[0]) for one, other in zip(alone, helped, strict=True))
    assert alone[0][0].shape == (4, 3, 8, 8)
    data, plain = folder(root, augment=True), folder(root)
    views = [data.drawn("train").__getitems__([epoch * len(data.drawn("train"))])[0] for epoch in range(5)]
    assert len({view.numpy().tobytes() for view in views}) == 5
    assert not any(torch.equal(view[0], plain.drawn("train")[0][0]) for view in views)


def test_a_source_is_read_once_per_process(plant) -> None:
    root = plant({"cat": 10, "dog": 10})
    folder(root)
    for path in root.rglob("*.png"):
        path.touch()
    assert folder(root, seed=1).source() is folder(root, batch_size=2).source()


def sentence_of(root: Path | str, **options) -> str:
    with pytest.raises(DataError) as caught:
        folder(Path(root), **options)
    return str(caught.value)


def test_a_missing_folder_names_its_nearest_neighbour(plant) -> None:
    root = plant({"cat": 1})
    assert sentence_of(root.with_name("pisc")) == (
        f"data.root={root.with_name('pisc')}: no such file or folder; did you mean '{root}'?"
    )
    assert sentence_of(root / "dgo" / "deep") == (
        f"data.root={root}/dgo/deep: no such file or folder; '{root}' has no 'dgo'"
    )


def test_no_class_folders(plant) -> None:
    root = plant({".": 3})
    assert sentence_of(root) == (
        f"data.root={root}: there is no folder per class; "
        "put the images of each class into a folder of its own, there or below train/"
    )


def test_one_class_only(plant) -> None:
    root = plant({"cat": 3})
    assert sentence_of(root) == f"data.root={root}: 'cat' is the only class folder; add the folder of another class"


def test_an_empty_class(plant) -> None:
    root = plant({"train/cat": 3, "train/dog": 0, "val/dog": 2})
    assert sentence_of(root) == (
        f"data.root={root}: class folder 'train/dog' holds no image; add some ({SUFFIXES}), or remove the folder"
    )


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_class_that_train_lacks(plant, split: str) -> None:
    root = plant({"train/cat": 3, "train/dog": 3, f"{split}/bird": 1})
    assert sentence_of(root) == (
        f"data.root={root}: {split} has a class 'bird' that train lacks; "
        f"add images of it to train, or remove it from {split}"
    )


def test_a_val_folder_without_images(plant) -> None:
    root = plant({"train/cat": 10, "train/dog": 10, "val/cat": 0, "val/dog": 0})
    assert sentence_of(root) == (
        f"data.root={root}: 'val/' holds no image in a class folder; "
        "add some, or remove the folder to have val carved from train"
    )


def test_too_few_to_carve_val(plant) -> None:
    root = plant({"train/cat": 3, "train/dog": 3, "test/cat": 1})
    assert sentence_of(root) == (
        f"data.val_fraction=0.15 of 6 training examples of {root} leaves val empty; "
        "raise data.val_fraction, or add examples"
    )


def test_broken_images_are_named_up_to_five(plant) -> None:
    root = plant({"cat": 8, "dog": 3})
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(buffer, "JPEG")
    (root / "dog/cut.jpg").write_bytes(buffer.getvalue()[:-2000])
    reason = r"image file is truncated \(\d+ bytes not processed\)"
    way_out = "replace or remove what is broken"
    assert re.fullmatch(
        rf"data\.root={re.escape(str(root))}: cannot read 'dog/cut\.jpg' \({reason}\); {way_out}", sentence_of(root)
    )
    for number in range(6):
        (root / f"cat/{number:03d}.png").write_text("no image")
    five = ", ".join(f"'cat/{number:03d}.png' (not an image)" for number in range(5))
    renamed = root.rename(root.with_name("more"))
    assert sentence_of(renamed) == (
        f"data.root={renamed}: cannot read {five} and 2 more; replace or remove what is broken"
    )


def test_a_file_that_is_no_archive(tmp_path) -> None:
    file = tmp_path / "pics.rar"
    file.write_text("not packed")
    assert sentence_of(file) == (
        f"data.root={file}: the file is no archive; give a folder, a .tar, a .tar.gz or a .zip"
    )


@pytest.mark.parametrize("missing", [100, 1000, 3000, 5000])
def test_an_archive_cut_short_among_its_images(plant, tmp_path, missing: int) -> None:
    archive = packed_tar(plant({"cat": 10, "dog": 10}), tmp_path / "pics.tar.gz")
    archive.write_bytes(archive.read_bytes()[:-missing])
    reason = "Compressed file ended before the end-of-stream marker was reached"
    assert sentence_of(archive) == f"data.root={archive}: the archive is damaged ({reason}); get it again"


def test_shots_beyond_the_smallest_class(plant) -> None:
    assert sentence_of(plant({"cat": 20, "dog": 10}), shots=8) == (
        "data.shots=8: class 'dog' has 6 training examples; choose at most 6, or add examples of 'dog'"
    )


def test_some_of_the_classes_are_numbered_in_the_order_in_which_they_are_named(plant) -> None:
    root = plant({"cat": 10, "dog": 10, "eel": 10})
    data = folder(root, classes=["eel", "cat"])
    assert data.class_names == ["eel", "cat"]
    names = {data.example_ids("train")[place].split("/")[0]: int(data.drawn("train")[place][1]) for place in range(12)}
    assert names == {"eel": 0, "cat": 1}


@pytest.mark.parametrize(
    ("classes", "sentence"),
    [
        (["cat", "dgo"], r"has no class 'dgo'; did you mean 'dog'\?$"),
        (["cat", "cat"], "'cat' stands there twice; name each class once$"),
        (["cat"], "there is nothing to tell apart; choose at least two classes, or null for all$"),
    ],
)
def test_classes_that_cannot_be_told_apart_are_refused(plant, classes: list[str], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        folder(plant({"cat": 10, "dog": 10}), classes=classes)


def test_folders_of_splits_may_be_written_in_capitals(plant) -> None:
    data = folder(plant({"Train/cat": 10, "Train/dog": 10, "Test/cat": 3, "Test/dog": 3}))
    assert data.class_names == ["cat", "dog"]
    assert all(name.startswith("Test/") for name in data.example_ids("test"))
