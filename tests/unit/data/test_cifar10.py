"""CIFAR-10 is read from its authors' files or from images, and fetched only where nothing is there."""

import hashlib
import os
import pickle
import tarfile
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10

from frostline.data import cifar10
from frostline.data.cifar10 import Cifar10
from frostline.errors import DataError
from frostline.nn.backbone import ImageInput

SPEC = ImageInput(size=32, mean=(0.0,) * 3, std=(1.0,) * 3)
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
SHARED = Path(os.environ.get("FROSTLINE_SHARED", Path(__file__).parents[3] / "../shared")) / "data/cifar10.tar.gz"


def cifar(root: Path, **options) -> Cifar10:
    data = Cifar10(**{"seed": 0, "root": str(root), **options})
    data.expect(SPEC)
    data.prepare_data()
    data.setup()
    return data


def write_batch(path: Path, content: dict) -> tuple[str, str]:
    path.write_bytes(pickle.dumps(content))
    return path.name, hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


@pytest.fixture
def published(tmp_path: Path, monkeypatch) -> tuple[Path, np.ndarray]:
    """A stand-in for the published batches, whose MD5 sums torchvision is told to expect."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (120, 3072), dtype=np.uint8)
    labels = [number % 10 for number in range(120)]
    train = write_batch(folder / "data_batch_1", {"data": pixels[:100], "labels": labels[:100]})
    test = write_batch(folder / "test_batch", {"data": pixels[100:], "labels": labels[100:]})
    meta = write_batch(folder / "batches.meta", {"label_names": CLASSES})
    monkeypatch.setattr(CIFAR10, "train_list", [train])
    monkeypatch.setattr(CIFAR10, "test_list", [test])
    monkeypatch.setattr(CIFAR10, "meta", {"filename": meta[0], "key": "label_names", "md5": meta[1]})
    return tmp_path, pixels


@pytest.fixture
def offline(monkeypatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(cifar10, "CIFAR10", refuse_construction(refuse))


def refuse_construction(refuse) -> type[CIFAR10]:
    return type("Unreachable", (CIFAR10,), {"download": refuse})


def test_the_published_batches_keep_their_test_set_and_give_val_from_train(published) -> None:
    root, pixels = published
    data = cifar(root, val_fraction=0.2)
    assert data.class_names == CLASSES
    assert [len(split) for split in (data.drawn("train"), data.drawn("val"), data.drawn("test"))] == [80, 20, 20]
    assert set(data.drawn("val").examples.per_stratum(CLASSES).values()) == {2}
    assert sorted(data.example_ids("test")) == [f"test/{row:05d}" for row in range(20)]
    for place, name in enumerate(data.example_ids("test")):
        inputs, target, _ = data.drawn("test")[place]
        row = int(name.removeprefix("test/"))
        assert torch.equal(inputs, torch.from_numpy(pixels[100 + row]).view(3, 32, 32) / 255)
        assert target == row % 10


def test_batches_that_are_not_the_published_ones_are_never_unpickled(published) -> None:
    root, _ = published
    (root / "cifar-10-batches-py/data_batch_1").write_bytes(pickle.dumps(os.getcwd))
    with pytest.raises(DataError) as caught:
        cifar(root)
    assert str(caught.value) == (
        f"data.root={root}: the batches of CIFAR-10 are damaged or incomplete; "
        "remove cifar-10-batches-py/ to have it downloaded again"
    )


def test_images_in_a_folder_or_an_archive_are_taken_without_a_download(plant, tmp_path, offline) -> None:
    root = plant({f"c/{split}/{name}": n for split, n in (("train", 10), ("test", 2)) for name in ("bird", "cat")})
    with tarfile.open(tmp_path / "c.tar.gz", "w:gz") as tar:
        tar.add(root, "anywhere")
    opened, packed = cifar(root), cifar(tmp_path / "c.tar.gz")
    assert opened.fingerprint() == packed.fingerprint()
    assert [len(split) for split in (packed.drawn("train"), packed.drawn("val"), packed.drawn("test"))] == [16, 4, 4]
    assert torch.equal(opened.drawn("test")[1][0], packed.drawn("test")[1][0])


def test_images_without_a_test_folder(plant) -> None:
    root = plant({"train/bird": 3, "train/cat": 3})
    with pytest.raises(DataError) as caught:
        cifar(root)
    assert str(caught.value) == (
        f"data.root={root}: CIFAR-10 needs train/<class>/ and test/<class>/ in it; test/ is not there"
    )


def test_a_download_that_fails_says_what_to_get_and_where_to_put_it(tmp_path, offline) -> None:
    root = tmp_path / "data"
    with pytest.raises(DataError) as caught:
        cifar(root)
    assert str(caught.value) == (
        f"data.root={root}: CIFAR-10 could not be downloaded (<urlopen error no route to host>); "
        f"get https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz and put it into {root}/, "
        "or set data.root to a folder or an archive of its images"
    )


def test_nothing_is_fetched_that_was_not_asked_for(tmp_path, offline) -> None:
    with pytest.raises(DataError) as caught:
        cifar(tmp_path / "nowhere", download=False)
    assert str(caught.value) == (f"data.root={tmp_path}/nowhere: no such file or folder; '{tmp_path}' has no 'nowhere'")


def test_augmentation_shifts_by_an_eighth_and_mirrors(published) -> None:
    root, _ = published
    plain, augmented = cifar(root), cifar(root, augment=True)
    mirrored = 0
    for place in range(20):
        still, view = plain.drawn("train")[place][0], augmented.drawn("train")[place][0]
        padded = torch.nn.functional.pad(still, (4, 4, 4, 4))
        cuts = padded.unfold(1, 32, 1).unfold(2, 32, 1).flatten(1, 2).transpose(0, 1)
        straight = (cuts == view).flatten(1).all(1).any().item()
        turned = (cuts == view.flip(-1)).flatten(1).all(1).any().item()
        assert straight or turned
        mirrored += turned
    assert 0 < mirrored < 20


@pytest.mark.slow
@pytest.mark.shared_data
def test_the_shared_archive_holds_cifar10() -> None:
    if not SHARED.is_file():
        pytest.skip(f"{SHARED} is not there; set FROSTLINE_SHARED to the folder that has data/cifar10.tar.gz")
    data = cifar(SHARED, shots=10)
    assert data.class_names == CLASSES
    assert [len(split) for split in (data.drawn("train"), data.drawn("val"), data.drawn("test"))] == [100, 7500, 10000]
    assert data.describe()["duplicates_removed"] == {"test": 0, "train": 0}
