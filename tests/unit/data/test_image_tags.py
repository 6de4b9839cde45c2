"""Several labels of an image, however a table says them; drawn evenly, whatever their combinations."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from frostline.data.image_tags import ImageTags
from frostline.errors import DataError
from frostline.nn.backbone import ImageInput

Rows = Sequence[tuple[str, list[str]]]
SETS = [["sky"], ["sky", "sea"], [], ["sea"], ["tree", "sky"]]


def tags(train: Path, **options: object) -> ImageTags:
    data = ImageTags(**{"seed": 0, "train": str(train), **options})
    data.expect(ImageInput(size=8, mean=(0.0,) * 3, std=(1.0,) * 3))
    data.setup()
    return data


@pytest.fixture
def pics(plant) -> Path:
    return plant({".": 60})


def rows_of(sets: Sequence[list[str]] = SETS, count: int = 60) -> Rows:
    return [(f"{n:03d}.png", sets[n % len(sets)]) for n in range(count)]


def as_csv(pics: Path, rows: Rows, separator: str = "|", name: str = "tags.csv") -> Path:
    (pics / name).write_text("image,label\n" + "".join(f"{image},{separator.join(said)}\n" for image, said in rows))
    return pics / name


def as_columns(pics: Path, rows: Rows) -> Path:
    lines = [",".join([image, *(str(int(each in said)) for each in ("sea", "sky", "tree"))]) for image, said in rows]
    (pics / "columns.csv").write_text("\n".join(["image,sea,sky,tree", *lines]))
    return pics / "columns.csv"


def as_jsonl(pics: Path, rows: Rows) -> Path:
    (pics / "t.jsonl").write_text("\n".join(json.dumps({"image": image, "label": said}) for image, said in rows))
    return pics / "t.jsonl"


def as_parquet(pics: Path, rows: Rows) -> Path:
    names = ["sea", "sky", "tree"]
    label = {"feature": {"_type": "ClassLabel", "names": names}, "_type": "List"}
    content = pa.table({"image": [image for image, _ in rows], "label": [[*map(names.index, s)] for _, s in rows]})
    metadata = {"huggingface": json.dumps({"info": {"features": {"label": label}}})}
    pq.write_table(content.replace_schema_metadata(metadata), pics / "t.parquet")
    return pics / "t.parquet"


@pytest.mark.parametrize(
    ("write", "options"),
    [
        (as_csv, {}),
        (as_columns, {"labels": ["sea", "sky", "tree"]}),
        (as_jsonl, {}),
        (as_parquet, {}),
        (lambda pics, rows: as_csv(pics, rows, " ; "), {"label_separator": ";"}),
    ],
)
def test_every_way_to_say_labels_gives_the_same_targets(
    pics: Path, write: Callable[[Path, Rows], Path], options: dict[str, object]
) -> None:
    data, said = tags(write(pics, rows_of()), **options), dict(rows_of())
    assert data.class_names == ["sea", "sky", "tree"]
    for split in ("train", "val", "test"):
        batch = data.drawn(split).__getitems__(range(len(data.drawn(split))))
        assert batch.targets.dtype == torch.float32
        for name, row in zip(data.example_ids(split), batch.targets.tolist(), strict=True):
            assert row == [float(each in said[name]) for each in data.class_names]
    assert data.fingerprint() == tags(as_csv(pics, rows_of(), name="plain.csv")).fingerprint()


def test_splits_are_carved_evenly_by_rarest_label(pics: Path) -> None:
    told = tags(as_csv(pics, rows_of()), val_fraction=0.25, test_fraction=0.25).describe()["splits"]
    whole = {"sea": 24, "sky": 36, "tree": 12, "(no label)": 12}
    for split in ("val", "test"):
        counts = told[split]["per_class"]
        assert [counts[name] for name in ("sea", "tree", "(no label)")] == [6, 3, 3]
        assert abs(counts["sky"] - 9) <= 3, "the commonest label follows from the others"
    assert {name: sum(told[split]["per_class"][name] for split in told) for name in whole} == whole


def test_shots_are_so_many_of_each_label_by_the_rarest_and_as_many_of_none(pics: Path) -> None:
    data = tags(as_csv(pics, rows_of()), shots=2)
    assert len(data.drawn("train")) == 8
    per_class = data.describe()["splits"]["train"]["per_class"]
    assert (per_class["tree"], per_class["(no label)"]) == (2, 2)
    assert min(per_class.values()) >= 2
    assert per_class["sky"] >= 4, "two by themselves, two with trees"


def test_combinations_that_all_differ_break_nothing(pics: Path) -> None:
    generator = np.random.default_rng(0)
    names = [f"l{n}" for n in range(10)]
    sets = [[name for name in names if generator.random() < 0.4] for _ in range(60)]
    assert len({tuple(each) for each in sets}) > 50
    data = tags(as_csv(pics, rows_of(sets)), shots=1)
    assert len(tags(as_csv(pics, rows_of(sets))).drawn("val")) > 4
    assert all(count >= 1 for name, count in data.describe()["splits"]["train"]["per_class"].items() if name in names)


def test_a_label_that_is_never_the_rarest_needs_no_stratum(pics: Path) -> None:
    data = tags(as_csv(pics, rows_of([["all", "b"], ["all", "c"], ["all", "d"]])))
    assert set(data.source().strata) == {"b", "c", "d"}
    assert data.class_names == ["all", "b", "c", "d"]


def test_a_label_set_that_train_lacks_is_fine_in_test_as_long_as_its_labels_are_known(pics: Path) -> None:
    train = as_csv(pics, rows_of([["all", "b"], ["all", "c"]])[:50])
    test = as_csv(pics, [("050.png", ["all"]), ("051.png", []), ("052.png", ["b", "c"])], name="test.csv")
    data = tags(train, test=str(test))
    targets = {n: t.tolist() for n, t in zip(data.example_ids("test"), data.drawn("test").__getitems__([0, 1, 2])[1], strict=True)}  # fmt: skip # noqa: E501
    assert targets == {"050.png": [1, 0, 0], "051.png": [0, 0, 0], "052.png": [0, 1, 1]}


def test_the_fingerprint_sees_every_label(pics: Path) -> None:
    """Also one that changes no stratum."""
    rows = rows_of()
    changed = [(image, [*said, "sky"] if n == 3 else said) for n, (image, said) in enumerate(rows)]
    one, other = tags(as_csv(pics, rows)), tags(as_csv(pics, changed, name="changed.csv"))
    assert one.source().splits["train"].labels.tolist() == other.source().splits["train"].labels.tolist()
    assert one.fingerprint() != other.fingerprint()


def test_one_content_with_other_labels_is_told(pics: Path) -> None:
    data = tags(as_csv(pics, [*rows_of(), ("000.png", ["sea"])]))
    assert data.describe()["contradictory_labels"] == 1
    assert "1 time(s), such as that of '000.png'; in train" in data.remarks()[1]


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixing_mixes_the_targets_as_the_images(pics: Path, kind: str) -> None:
    plain, mixed = (tags(as_csv(pics, rows_of()), mix=each, batch_size=8) for each in (None, kind))
    for one, other in zip(plain.train_dataloader(), mixed.train_dataloader(), strict=True):
        rolled = one.targets.roll(1, 0)
        differ = one.targets != rolled
        shares = ((other.targets - rolled) / (one.targets - rolled))[differ]
        assert torch.allclose(shares, shares[0], atol=1e-5)
        assert torch.equal(other.targets[~differ], one.targets[~differ])
        if kind == "mixup":
            blended = shares[0] * one.inputs + (1 - shares[0]) * one.inputs.roll(1, 0)
            torch.testing.assert_close(other.inputs, blended, rtol=1e-4, atol=1e-5)


def sentence_of(train: Path, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        tags(train, **options)
    return str(caught.value)


def test_what_is_wrong_with_labels_is_said(pics: Path) -> None:
    rows = rows_of()
    gap = as_csv(pics, [("000.png", ["sky", "", "sea"])], name="gap.csv")
    assert sentence_of(gap) == "data.label=label: gap.csv:2 has an empty label among others; remove it"
    none = as_csv(pics, rows_of([[]]), name="none.csv")
    assert sentence_of(none) == (f"data.train: {none} has no label; add images of others, or choose another data.label")
    one = as_csv(pics, rows_of([["sky"], []]), name="one.csv")
    assert sentence_of(one) == (
        f"data.train: {one} has only the label 'sky'; add images of others, or choose another data.label"
    )
    val = as_csv(pics, [("000.png", ["sky", "sun"])], name="val.csv")
    assert sentence_of(as_csv(pics, rows), val=str(val)) == (
        "data.val: val.csv:2 has a label 'sun' that train lacks; add images of it to train, or remove it from val"
    )


def test_what_is_wrong_with_columns_is_said(pics: Path) -> None:
    file = as_columns(pics, rows_of())
    assert sentence_of(file, labels=["sea", "sun"]).startswith(f"data.labels.1=sun: {file} has 'image', ")
    assert sentence_of(file, labels=["sea", "sea"]) == (
        "data.labels=['sea', 'sea']: 'sea' stands there twice; name each label once"
    )
    (pics / "odd.csv").write_text("image,sea,sky\n000.png,1,0\n001.png,2,1\n")
    assert sentence_of(pics / "odd.csv", labels=["sea", "sky"]) == (
        "data.labels: odd.csv:3 says '2' of 'sea'; say 0 or 1"
    )
    (pics / "dry.csv").write_text("image,sea,sky\n000.png,0,0\n001.png,0,1\n")
    assert sentence_of(pics / "dry.csv", labels=["sea", "sky"]) == (
        "data.labels: no image of train has the label 'sea'; add some, or leave it out"
    )


def test_too_many_shots(pics: Path) -> None:
    assert sentence_of(as_csv(pics, rows_of()), shots=9) == (
        "data.shots=9: class 'tree' has 8 training examples; choose at most 8, or add examples of 'tree'"
    )
