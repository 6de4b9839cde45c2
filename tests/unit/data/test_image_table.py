"""Images in the rows of a table are those of the files, and what is wrong with a row is said with its line."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from frostline.data.image_folder import ImageFolder
from frostline.data.image_table import ImageTable
from frostline.errors import DataError
from frostline.nn.backbone import ImageInput

SPEC = ImageInput(size=8, mean=(0.0,) * 3, std=(1.0,) * 3)
Rows = Sequence[tuple[str, str]]


def drawn(data: ImageTable | ImageFolder) -> ImageTable | ImageFolder:
    data.expect(SPEC)
    data.setup()
    return data


def table(train: Path, **options: object) -> ImageTable:
    return drawn(ImageTable(**{"seed": 0, "train": str(train), **options}))


def sizes(data: ImageTable) -> tuple[int, ...]:
    return tuple(len(data.drawn(split)) for split in ("train", "val", "test"))


@pytest.fixture
def pics(plant) -> Path:
    """Twenty images of cats and twenty of dogs, in folders of these names."""
    return plant({"cat": 20, "dog": 20})


def rows_of(pics: Path) -> list[tuple[str, str]]:
    return [(f"{pet}/{number:03d}.png", pet) for number in range(20) for pet in ("cat", "dog")]


def as_csv(pics: Path, rows: Rows, name: str = "labels.csv") -> Path:
    file = pics / name
    file.write_text("image,label\n" + "".join(f"{image},{label}\n" for image, label in rows))
    return file


def as_tsv(pics: Path, rows: Rows) -> Path:
    file = pics / "labels.tsv"
    file.write_text("label\timage\n" + "".join(f"{label}\t{image}\n" for image, label in rows))
    return file


def as_jsonl(pics: Path, rows: Rows) -> Path:
    file = pics / "labels.jsonl"
    file.write_text("".join(json.dumps({"image": image, "label": label}) + "\n" for image, label in rows))
    return file


def hugging_face(pics: Path, rows: Rows) -> pa.Table:
    """Rows as `datasets` stores images and classes."""
    names = sorted({label for _, label in rows})
    content = {
        "image": [{"bytes": (pics / image).read_bytes(), "path": Path(image).name} for image, _ in rows],
        "label": [names.index(label) for _, label in rows],
    }
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    return pa.table(content).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def as_parquet(pics: Path, rows: Rows, name: str = "labels.parquet") -> Path:
    (pics / name).parent.mkdir(exist_ok=True, parents=True)
    pq.write_table(hugging_face(pics, rows), pics / name)
    return pics / name


def as_bytes_in_parquet(pics: Path, rows: Rows) -> Path:
    content = {"image": [(pics / image).read_bytes() for image, _ in rows], "label": [label for _, label in rows]}
    pq.write_table(pa.table(content), pics / "bytes.parquet")
    return pics / "bytes.parquet"


def as_paths_in_parquet(pics: Path, rows: Rows) -> Path:
    """As `datasets` stores images that are not embedded."""
    content = {
        "image": [{"bytes": None, "path": image} for image, _ in rows],
        "label": [label for _, label in rows],
    }
    pq.write_table(pa.table(content), pics / "paths.parquet")
    return pics / "paths.parquet"


def stream(table: pa.Table, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with pa.OSFile(str(file), "wb") as opened, pa.ipc.new_stream(opened, table.schema) as written:
        written.write_table(table)


def as_saved_dataset(pics: Path, rows: Rows) -> Path:
    """What `Dataset.save_to_disk` leaves, in two shards."""
    return saved(pics / "saved", *(hugging_face(pics, part) for part in (rows[:30], rows[30:])))


def saved(folder: Path, *shards: pa.Table) -> Path:
    names = [f"data-{number:05d}-of-{len(shards):05d}.arrow" for number in range(len(shards))]
    for name, shard in zip(names, shards, strict=True):
        stream(shard, folder / name)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (folder / "dataset_info.json").write_text("{}")
    return folder


FORMATS = [as_csv, as_tsv, as_jsonl, as_parquet, as_bytes_in_parquet, as_paths_in_parquet, as_saved_dataset]


@pytest.mark.parametrize("write", FORMATS)
def test_a_table_of_any_format_is_the_folder_of_its_images(pics: Path, write: Callable[..., Path]) -> None:
    folder = drawn(ImageFolder(seed=0, root=str(pics), shots=3))
    data = table(write(pics, rows_of(pics)), shots=3)
    assert data.class_names == ["cat", "dog"]
    assert data.fingerprint() == folder.fingerprint()
    for mine, theirs in zip(data.train_dataloader(), folder.train_dataloader(), strict=True):
        assert torch.equal(mine.inputs, theirs.inputs)
        assert torch.equal(mine.targets, theirs.targets)


def test_an_example_is_called_by_its_path(pics: Path) -> None:
    data = table(as_csv(pics, rows_of(pics)))
    names = [name for split in ("train", "val", "test") for name in data.example_ids(split)]
    assert sorted(names) == sorted(name for name, _ in rows_of(pics))


def test_an_example_without_a_path_is_called_by_its_row(pics: Path) -> None:
    data = table(as_bytes_in_parquet(pics, rows_of(pics)))
    names = {name for split in ("train", "val", "test") for name in data.example_ids(split)}
    assert names == {f"bytes.parquet:{row}" for row in range(1, 41)}


def test_paths_are_relative_to_the_file_or_to_the_root_or_absolute(pics: Path, tmp_path: Path) -> None:
    inside = table(as_csv(pics, rows_of(pics)))
    moved = tmp_path / "elsewhere.csv"
    shutil.copy(pics / "labels.csv", moved)
    rooted = table(moved, root=str(pics))
    absolute = tmp_path / "absolute.csv"
    absolute.write_text("image,label\n" + "".join(f"{pics / image},{label}\n" for image, label in rows_of(pics)))
    assert inside.fingerprint() == rooted.fingerprint() == table(absolute).fingerprint()


def test_a_column_says_the_split(pics: Path) -> None:
    said = ["train", "val ", "test", "valid", "Train", "validation", *["train"] * 34]
    file = pics / "labels.csv"
    file.write_text(
        "image,label,split\n"
        + "".join(f"{image},{label},{split}\n" for (image, label), split in zip(rows_of(pics), said, strict=True))
    )
    data = table(file, split_column="split")
    assert sizes(data) == (36, 3, 1)
    assert data.example_ids("test") == ["cat/001.png"]


def test_files_of_their_own_hold_val_and_test(pics: Path) -> None:
    rows = rows_of(pics)
    files = [as_csv(pics, part, f"{n}.csv") for n, part in enumerate((rows[:30], rows[30:36], rows[36:]))]
    data = table(files[0], val=str(files[1]), test=str(files[2]))
    assert sizes(data) == (30, 6, 4)
    assert sorted(data.example_ids("test")) == sorted(name for name, _ in rows[36:])
    assert sizes(table(files[0], test=str(files[2]))) == (26, 4, 4)


@pytest.mark.parametrize("below", ["", "data/"])
def test_a_folder_of_shards_named_after_splits(pics: Path, below: str) -> None:
    rows, root = rows_of(pics), pics / "hub"
    for name, part in {
        "train-00000-of-00002": rows[:16],
        "train-00001-of-00002": rows[16:30],
        "validation-00000-of-00001": rows[30:36],
        "test-00000-of-00001": rows[36:],
    }.items():
        as_parquet(pics, part, f"hub/{below}{name}.parquet")
    assert sizes(table(root)) == (30, 6, 4)


def test_names_of_splits_may_begin_with_a_capital(pics: Path) -> None:
    rows = rows_of(pics)
    for split, part in {"Train": rows[:30], "Test": rows[30:]}.items():
        as_parquet(pics, part, f"hub/{split}-00000-of-00001.parquet")
        saved(pics / "saved" / split, hugging_face(pics, part))
    (pics / "saved/dataset_dict.json").write_text('{"splits": ["Train", "Test"]}')
    assert sizes(table(pics / "hub")) == sizes(table(pics / "saved")) == (26, 4, 10)
    for name in ("Train", "train"):
        as_parquet(pics, rows, f"both/{name}-00000-of-00001.parquet")
    assert sentence_of(pics / "both") == (
        f"data.train={pics}/both: 'Train' and 'train' both stand for train; keep one of them"
    )


def test_a_folder_of_shards_of_no_split_is_cut_by_content(pics: Path) -> None:
    for number in (0, 1):
        as_parquet(pics, rows_of(pics)[number::2], f"shards/{number}.parquet")
    assert sizes(table(pics / "shards")) == (28, 6, 6)


def test_a_saved_dictionary_of_datasets(pics: Path) -> None:
    rows = rows_of(pics)
    for split, part in {"train": rows[:30], "test": rows[30:]}.items():
        saved(pics / "saved" / split, hugging_face(pics, part))
    (pics / "saved/dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert sizes(table(pics / "saved")) == (26, 4, 10)


def test_what_datasets_keeps_beside_a_saved_one_is_none_of_it(pics: Path) -> None:
    rows = rows_of(pics)
    for split, part in {"train": rows[:30], "test": rows[30:]}.items():
        folder = saved(pics / "saved" / split, hugging_face(pics, part))
        stream(hugging_face(pics, rows), folder / "cache-0123456789abcdef.arrow")
    (pics / "saved/dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    data = table(pics / "saved")
    assert sizes(data) == (26, 4, 10)
    assert data.describe()["duplicates_removed"] == {"train": 0, "test": 0}
    assert sizes(table(pics / "saved/train")) == (22, 4, 4)


@pytest.mark.parametrize("content", ["{}", "[]", '{"_data_files": []}', '{"_data_files": [{}]}', "{", None])
def test_a_saved_dataset_that_names_no_files_is_refused(pics: Path, content: str | None) -> None:
    saved(pics / "saved/train", hugging_face(pics, rows_of(pics)))
    (pics / "saved/dataset_dict.json").write_text('{"splits": ["train"]}')
    state = pics / "saved/train/state.json"
    state.unlink() if content is None else state.write_text(content)
    assert sentence_of(pics / "saved") == (
        f"data.train: {state} should name the dataset's files, and does not; save it again with save_to_disk"
    )


def test_numbers_are_sorted_by_value_and_words_by_letter(pics: Path) -> None:
    rows = [(image, str(n % 12)) for n, (image, _) in enumerate(rows_of(pics))]
    assert table(as_csv(pics, rows)).class_names == [str(n) for n in range(12)]
    as_written = as_csv(pics, [(image, {"0": "01", "2": "b"}.get(n, n)) for image, n in rows], "more.csv")
    assert table(as_written).class_names == ["01", "1", "10", "11", *"3456789", "b"]
    same_value = as_csv(pics, [(image, {"0": "01", "2": "001"}.get(n, n)) for image, n in rows], "same.csv")
    assert table(same_value).class_names[:3] == ["001", "01", "1"]


def test_spaces_around_a_label_and_a_path_are_none_of_it(pics: Path) -> None:
    rows = [(f" {image}", f"{label} " if n % 3 else label) for n, (image, label) in enumerate(rows_of(pics))]
    assert table(as_csv(pics, rows)).class_names == ["cat", "dog"]


def test_some_of_the_classes(pics: Path) -> None:
    rows = [(image, "eel" if n > 25 else label) for n, (image, label) in enumerate(rows_of(pics))]
    assert table(as_csv(pics, rows), classes=["eel", "cat"]).class_names == ["eel", "cat"]


def test_a_class_with_one_example_trains_on_it(pics: Path) -> None:
    rows = [(image, "eel" if n == 0 else label) for n, (image, label) in enumerate(rows_of(pics))]
    balance = {
        split: part["per_class"]["eel"] for split, part in table(as_csv(pics, rows)).describe()["splits"].items()
    }
    assert balance == {"train": 1, "val": 0, "test": 0}


def test_one_content_under_two_labels_is_counted_and_told(pics: Path) -> None:
    shutil.copy(pics / "cat/000.png", pics / "copy.png")
    rows = [*rows_of(pics), ("copy.png", "dog"), ("cat/000.png", "cat"), ("dog/001.png", "cat")]
    data = table(as_csv(pics, rows))
    assert data.describe()["contradictory_labels"] == 2
    assert data.describe()["duplicates_removed"] == {"train": 3}
    assert data.describe()["contradictions"] == [["cat/000.png", "copy.png"], ["dog/001.png", "dog/001.png"]]
    assert data.remarks()[1:] == [
        f"{pics / 'labels.csv'}: the same content stands under different labels 2 time(s), "
        "such as 'cat/000.png' and 'copy.png'; "
        "in train, the first label in the order of the classes is kept"
    ]
    plain = table(as_csv(pics, rows_of(pics), "plain.csv"))
    assert (plain.describe()["contradictory_labels"], plain.remarks()) == (0, [])


def sentence_of(train: Path, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        table(train, **options)
    return str(caught.value)


def test_images_that_cannot_be_read_are_named_with_their_lines(pics: Path) -> None:
    rows = [("cat/none.png", "cat"), *rows_of(pics)[1:3], ("notes.txt", "dog"), ("empty.png", "dog")]
    (pics / "notes.txt").write_text("purrs")
    (pics / "empty.png").write_text("")
    assert sentence_of(as_csv(pics, rows)) == (
        f"data.train={pics}/labels.csv: cannot read 'labels.csv:2 cat/none.png' (no such file or directory), "
        "'labels.csv:5 notes.txt' (not an image), 'labels.csv:6 empty.png' (an empty file); "
        "replace or remove what is broken"
    )


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"label": "cat", "image": ""}, "data.image: t.jsonl:2 has no image; correct or remove the row, "
         "or choose another data.image"),
        ({"label": "cat", "image": None}, "data.image: t.jsonl:2 has no image; correct or remove the row, "
         "or choose another data.image"),
        ({"label": "cat", "image": 3}, "data.image: t.jsonl:2 has 3, which is neither a path nor an image; "
         "correct or remove the row, or choose another data.image"),
        ({"label": " ", "image": "cat/001.png"}, "data.label=label: t.jsonl:2 has no label; remove the row, "
         "or choose another data.label"),
        ({"label": float("nan"), "image": "cat/001.png"}, "data.label=label: t.jsonl:2 has no label; remove the row, "
         "or choose another data.label"),
        ({"label": ["cat"], "image": "cat/001.png"}, "data.label=label: t.jsonl:2 has several labels; "
         "choose data=image_tags, or another data.label"),
    ],
)  # fmt: skip
def test_a_row_that_lacks_something(pics: Path, row: dict[str, object], sentence: str) -> None:
    file = pics / "t.jsonl"
    file.write_text("\n".join(map(json.dumps, [{"image": "dog/001.png", "label": "dog"}, row])))
    assert sentence_of(file) == sentence


def test_a_class_that_train_lacks(pics: Path) -> None:
    val = as_csv(pics, [("cat/000.png", "cat"), ("cat/001.png", "eel")], "val.csv")
    assert sentence_of(as_csv(pics, rows_of(pics)), val=str(val)) == (
        "data.val: val.csv:3 has a class 'eel' that train lacks; add examples of it to train, or remove it from val"
    )


def test_one_class_only(pics: Path) -> None:
    file = as_csv(pics, [(image, "cat") for image, _ in rows_of(pics)])
    assert sentence_of(file) == f"data.train: 'cat' is the only class of {file}; add examples of another"


def test_a_split_of_another_name(pics: Path) -> None:
    file = pics / "labels.csv"
    file.write_text("image,label,split\ncat/000.png,cat,train\ncat/001.png,cat,fold3\n")
    assert sentence_of(file, split_column="split") == (
        "data.split_column=split: labels.csv:3 is of no split 'fold3'; say train, val, valid, validation, test"
    )
    file.write_text("image,label,split\ncat/000.png,cat,test\n")
    moved = file.rename(pics / "test_only.csv")
    assert sentence_of(moved, split_column="split") == f"data.train={moved}: there is no row of train; it has test"


def test_two_answers_to_which_is_val(pics: Path) -> None:
    file = pics / "labels.csv"
    file.write_text("image,label,split\ncat/000.png,cat,train\ndog/001.png,dog,val\n")
    val = as_csv(pics, rows_of(pics), "val.csv")
    expected = f"data.val: {file} has val images of its own; leave data.val out"
    assert sentence_of(file, split_column="split", val=str(val)) == expected


def test_a_split_that_frostline_does_not_know(pics: Path) -> None:
    for name in ("train", "unsupervised"):
        as_parquet(pics, rows_of(pics), f"hub/{name}-00000-of-00001.parquet")
    assert sentence_of(pics / "hub") == (
        f"data.train={pics}/hub: it has a split 'unsupervised', which is not train, val or test; "
        "name the files that you mean with data.train, data.val and data.test"
    )
    assert sentence_of(pics / "cat") == (
        f"data.train={pics}/cat: there is no table in this folder; "
        "name a table, or a folder of .parquet files or one that save_to_disk left"
    )


def test_two_names_of_one_split(pics: Path) -> None:
    for name in ("train", "val", "validation"):
        as_parquet(pics, rows_of(pics), f"hub/{name}-00000-of-00001.parquet")
    assert sentence_of(pics / "hub") == (
        f"data.train={pics}/hub: 'val' and 'validation' both stand for val; keep one of them"
    )


def test_a_root_that_is_not_there(pics: Path) -> None:
    file = as_csv(pics, rows_of(pics))
    assert sentence_of(file, root="nowhere") == (
        "data.root=nowhere: there is no such folder; paths of images are relative to it"
    )
