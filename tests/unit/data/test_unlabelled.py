"""Images without labels, wherever they lie."""

import io
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from frostline.data.unlabelled import Unlabelled
from frostline.errors import DataError, RequestError
from frostline.nn.backbone import ImageInput


def images(root: Path, **options: object) -> Unlabelled:
    data = Unlabelled(**{"seed": 0, "root": str(root), **options})
    data.expect(ImageInput(size=8, mean=(0.0,) * 3, std=(1.0,) * 3))
    data.setup()
    return data


def sizes(data: Unlabelled) -> tuple[int, ...]:
    return tuple(len(data.drawn(split)) for split in ("train", "val", "test"))


@pytest.mark.parametrize(
    "counts", [{".": 40}, {"a": 20, "a/b/c": 20}, {"x/y": 40}, {"train": 40}, {"train": 20, "bus": 20}]
)
def test_images_at_any_depth_are_split_by_content(plant, counts: dict[str, int]) -> None:
    assert sizes(images(plant(counts))) == (28, 6, 6)


def test_folders_change_no_split(plant, tmp_path: Path) -> None:
    flat, deep = plant({".": 40}), tmp_path / "deep"
    for file in flat.iterdir():
        target = deep / file.stem[-1] / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    assert images(flat).fingerprint() == images(deep).fingerprint()


@pytest.mark.parametrize("base", ["", "wrapped/"])
def test_folders_named_after_splits_are_kept_apart(plant, base: str) -> None:
    data = images(plant({f"{base}train/a": 10, f"{base}train": 12, f"{base}valid": 4, f"{base}test/x/y": 5}))
    assert sizes(data) == (22, 4, 5)
    assert all(name.startswith(f"{base}test/") for name in data.example_ids("test"))
    assert sizes(images(plant({"more/train": 20, "more/test": 5}).joinpath("more"))) == (17, 3, 5)


@pytest.mark.parametrize("name", ["val", "Valid", "validation", "test", "TEST"])
def test_without_a_folder_of_train_what_lies_in_no_other_split_is_train(plant, name: str) -> None:
    data = images(plant({"bus": 20, ".": 3, name: 5}))
    split = "test" if name.lower() == "test" else "val"
    assert {each for each in data.example_ids(split) if each.startswith(f"{name}/")} == set(data.example_ids(split))
    assert len(data.drawn(split)) == 5
    assert not any(each.startswith(f"{name}/") for each in data.example_ids("train"))


@pytest.mark.parametrize(
    "counts", [{"test": 40}, {"wrapped/Test/a": 20, "wrapped/Test/b": 20}, {"val": 20, "test": 20}]
)
def test_images_of_other_splits_alone_are_never_trained_on(plant, counts: dict[str, int]) -> None:
    root = plant(counts)
    assert sentence_of(root) == (
        f"data.root={root}: every image in it is one of {'val or test' if 'val' in counts else 'test'}; "
        "add some of train, or choose the folder to train on as data.root"
    )
    assert sizes(images(root / next(iter(counts)))) in [(28, 6, 6), (14, 3, 3)]


def test_two_names_of_one_split_are_refused(plant) -> None:
    root = plant({"a": 10, "val": 5, "valid": 5})
    assert sentence_of(root) == f"data.root={root}: 'val' and 'valid' both stand for val; keep one of them"


def test_an_archive_is_the_folder_that_was_packed(plant, tmp_path: Path) -> None:
    root = plant({"a": 20, "b": 20})
    with zipfile.ZipFile(tmp_path / "pics.zip", "w") as packed:
        for path in sorted(root.rglob("*.png")):
            packed.write(path, path.relative_to(root))
    assert images(tmp_path / "pics.zip").fingerprint() == images(root).fingerprint()


def test_files_that_are_no_images_are_told(plant) -> None:
    root = plant({"a": 20})
    (root / "a/holiday.heic").write_bytes(b"heic")
    (told,) = images(root).remarks()
    assert told.startswith(f"{root}: 1 file(s) are left out, as images end in .jpg, ")
    assert told.endswith(".webp: 'a/holiday.heic'")


def test_there_are_no_classes_and_every_target_is_zero(plant) -> None:
    data = images(plant({".": 40}), shots=7)
    assert (data.class_names, data.tasks, len(data.drawn("train"))) == ([], ("self_supervised",), 7)
    (batch,) = data.train_dataloader()
    assert torch.equal(batch.targets, torch.zeros(7, dtype=torch.int64))
    assert data.describe()["splits"]["train"]["per_class"] == {"images": 7}


def sentence_of(root: Path, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        images(root, **options)
    return str(caught.value)


def test_a_folder_without_images(plant) -> None:
    root = plant({"a": 0})
    assert sentence_of(root).startswith(f"data.root={root}: there is no image in it; add some (.jpg, .jpeg, .png,")


def test_images_beside_the_splits_are_not_passed_over(plant) -> None:
    root = plant({"train": 10, "test": 5, "unlabelled": 5})
    assert sentence_of(root) == (
        f"data.root={root}: 'unlabelled/000.png' lies beside test, train; "
        "move it into one of these, or choose one of these as data.root"
    )


def test_a_broken_image_is_named(plant) -> None:
    root, buffer = plant({"a": 20}), io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, "JPEG")
    (root / "a/cut.jpg").write_bytes(buffer.getvalue()[:-30])
    assert sentence_of(root).startswith(f"data.root={root}: cannot read 'a/cut.jpg' (image file is truncated")


def test_more_shots_than_images(plant) -> None:
    assert sentence_of(plant({".": 40}), shots=30) == (
        "data.shots=30: class 'images' has 28 training examples; choose at most 28, or add examples of 'images'"
    )


def test_there_are_no_labels_to_mix() -> None:
    with pytest.raises(RequestError, match=r"^data\.mix=mixup: mixes labels, and these images have none; leave"):
        Unlabelled(seed=0, root="pics", mix="mixup")
