"""Texts with labels: any common file without further keys, and a sentence for whatever is wrong with one."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from language import LINES, bert_like

from frostline.data.text import TextFiles
from frostline.data.tokens import TokenFiles
from frostline.errors import DataError, RequestError
from frostline.nn.backbone import ImageInput
from frostline.nn.text_input import TextInput
from frostline.nn.transformers import TextClassifier

ROWS = [(text, str(place % 2)) for place, text in enumerate(LINES[:12])]


@pytest.fixture
def spec(tmp_path: Path) -> TextInput:
    folder = str(bert_like(tmp_path / "tokenizer"))
    return TextClassifier(name="bert", pretrained=False, tokenizer=folder).input


def written(folder: Path, name: str, rows: list[tuple[str, str]] = ROWS) -> str:
    path = folder / name
    kind = name.partition(".")[2]
    if kind == "jsonl":
        path.write_text("".join(json.dumps({"label": int(label), "sentence": text}) + "\n" for text, label in rows))
    elif kind == "parquet":
        pq.write_table(pa.table({"text": [t for t, _ in rows], "label": [int(x) for _, x in rows]}), path)
    elif kind == "txt":
        path.write_text("".join(f"{label} {text}\n" for text, label in rows))
    elif kind == "csv":
        path.write_text("id,Label,Text\n" + "".join(f'7,{label},"{text}"\r\n' for text, label in rows))
    elif kind == "tsv":
        path.write_text("".join(f"{text}\t{label}\n" for text, label in rows))
    return str(path)


@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.jsonl", "a.parquet", "a.txt"])
def test_every_format_is_read_without_a_further_key(name: str, tmp_path: Path) -> None:
    source = TextFiles(seed=0, train=written(tmp_path, name)).source()
    examples = source.splits["train"]
    assert source.classes == ("0", "1")
    assert [examples.content[row] for row in examples.rows] == [text for text, _ in ROWS]
    assert examples.labels.tolist() == [int(label) for _, label in ROWS]


def test_a_header_names_the_columns_of_a_tsv_and_quotes_are_letters(tmp_path: Path) -> None:
    file = tmp_path / "glue.tsv"
    file.write_text('label\tsentence\n1\ta "quoted\n0\tdull\n')
    source = TextFiles(seed=0, train=str(file)).source()
    assert list(source.splits["train"].content) == ['a "quoted', "dull"]


def test_columns_can_be_named_or_counted(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("stars,review\n1,warm\n0,dull\n")
    assert TextFiles(seed=0, train=str(file), text="review", label="stars").source().classes == ("0", "1")
    file = tmp_path / "b.tsv"
    file.write_text("1\tx\twarm\n0\ty\tdull\n")
    assert TextFiles(seed=0, train=str(file), text=2, label=0).source().splits["train"].content == ("warm", "dull")


def test_a_file_out_of_domain_has_its_own_format_and_the_classes_of_train(tmp_path: Path, spec: TextInput) -> None:
    train = written(tmp_path, "train.tsv")
    test = written(tmp_path, "other.txt", [("only a plot", "1"), ("no cast", "0"), (" ", "0")])
    data = TextFiles(seed=0, train=train, test=test, val_fraction=0.2)
    data.expect(spec)
    data.setup()
    assert len(data.drawn("test")) == 2
    assert data.class_names == ["0", "1"]
    assert data.remarks() == ["data: 1 row(s) are left out, as they have no text: 'other.txt:3'"]
    assert data.describe()["without_text"] == 1


def test_batches_are_padded_to_their_longest_and_cut_texts_are_counted(tmp_path: Path, spec: TextInput) -> None:
    data = TextFiles(seed=0, train=written(tmp_path, "a.tsv"), max_length=5, batch_size=4, val_fraction=0.2)
    data.expect(spec)
    data.setup()
    counts = data.describe()["over_long"]
    tokens = {text: spec.tokenizer(text)["input_ids"] for text, _ in ROWS}
    assert sum(counts.values()) == sum(len(ids) > 5 for ids in tokens.values()) > 0
    assert data.remarks()[0].startswith("data.max_length=5: ")
    seen = 0
    for batch in data.train_dataloader():
        ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
        assert ids.shape == mask.shape == (len(batch.places), int(mask.sum(dim=1).max()))
        assert ((ids == 0) == (mask == 0)).all()
        examples = data.drawn("train").examples
        for row, place in enumerate(batch.places.tolist()):
            whole = tokens[examples.content[examples.rows[place]]]
            kept = ids[row][mask[row].bool()].tolist()
            assert kept == (whole if len(whole) <= 5 else [*whole[:4], whole[-1]])
            assert batch.targets[row] == examples.labels[place]
            seen += 1
    assert seen == len(data.drawn("train"))


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.tsv", b"warm\t1\nd\xff\t0\n", "data.train={}: line 2 is not UTF-8; save the file as UTF-8"),
        ("a.tsv", b"warm\t1\ndull\n", "data.train={}: line 2 has 1 field, but data.label is field 2; mend the line"),
        ("a.tsv", b"warm\t1\ndull\t \n", "data.train: a.tsv:2 has no label; remove the row, or choose another"),
        ("a.tsv", b"", "data.train={}: it is empty; a table has a line of column names and a line for each example"),
        ("a.tsv", b"warm\t1\nfunny\t1\n", "data.train: '1' is the only class of {}; add examples of another"),
        (
            "a.tsv",
            b"review\tstars\nwarm\t1\ndull\t0\nfunny\t1\nempty\t0\n",
            "data.train={}: the first line looks like a header ('review', 'stars'); name its columns with data.text",
        ),
        ("a.csv", b'text,label\n"warm,1\n', "data.train={}: line 2 is no CSV (unexpected end of data)"),
        ("a.jsonl", b'{"text": "warm", "label": 1}\n{"text"\n', "data.train={}: line 2 is no JSON ("),
        ("a.jsonl", b"[1]\n", "data.train={}: line 1 is no JSON object, such as"),
        ("a.jsonl", b'{"body": "warm", "label": 1}\n', "data.text: {}:1 has 'body', 'label', and no 'text'; say which"),
        ("a.jsonl", b'{"text": 3, "label": 1}\n', "data.train: a.jsonl:1 has no text, but 3; choose another data.text"),
        *(
            (
                "a.jsonl",
                b'{"text": "warm", "label": %b}\n' % cell,
                f"data.train: a.jsonl:1 has {said} another data.label",
            )
            for cell, said in [
                (b"null", "no label; remove the row, or choose"),
                (b"NaN", "no label; remove the row, or choose"),
                (b"[1]", "several labels; choose"),
                (b'{"a": 1}', "several labels; choose"),
            ]
        ),
        ("a.parquet", b"PAR1", "data.train={}: it is no whole parquet file ("),
        (
            "a.xls",
            b"x",
            "data.train={}: it ends in none of .csv, .tsv, .txt, .jsonl, .parquet, .arrow; save it as one of these",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_line(
    name: str, content: bytes, sentence: str, tmp_path: Path
) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(DataError) as caught:
        TextFiles(seed=0, train=str(file)).source()
    assert str(caught.value).startswith(sentence.format(file))


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([("", "1")], "there is no example of val; add some"),
        (ROWS, "every example of val stands in test too; add others"),
    ],
)
def test_a_file_that_gives_a_split_nothing_is_named(
    rows: list[tuple[str, str]], problem: str, tmp_path: Path, spec: TextInput
) -> None:
    val = written(tmp_path, "b.tsv", rows)
    train, test = written(tmp_path, "a.tsv", [*ROWS, ("and warm", "1"), ("and dull", "0")]), written(tmp_path, "c.tsv")
    data = TextFiles(seed=0, train=train, val=val, test=test)
    data.expect(spec)
    with pytest.raises(DataError) as caught:
        data.setup()
    assert str(caught.value) == f"data.val={val}: {problem}, or remove it to have val carved from train"


def test_a_class_that_train_lacks_is_refused(tmp_path: Path) -> None:
    data = TextFiles(seed=0, train=written(tmp_path, "a.tsv"), test=written(tmp_path, "b.tsv", [("x", "2")]))
    sentence = (
        "^data.test: b.tsv:1 has a class '2' that train lacks; add examples of it to train, or remove it from test$"
    )
    with pytest.raises(DataError, match=sentence):
        data.source()


def test_a_file_that_is_not_there_has_a_neighbour(tmp_path: Path) -> None:
    written(tmp_path, "train.tsv")
    with pytest.raises(DataError, match=r"trian.tsv: there is no such file; did you mean 'train.tsv'\?"):
        TextFiles(seed=0, train=str(tmp_path / "trian.tsv")).source()


@pytest.mark.parametrize(
    ("kind", "name", "row"), [(TextFiles, "a.tsv", "{0}\t{1}\n"), (TokenFiles, "a.conll", "{0} {1}\n\n")]
)
def test_rows_are_never_those_of_another_folder_or_time(
    kind: type[TextFiles] | type[TokenFiles], name: str, row: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def classes() -> tuple[str, ...]:
        return kind(seed=0, train=name).source().classes

    for folder, labels in (("one", "xy"), ("other", "vw")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text("".join(row.format("warm", label) for label in labels))
    monkeypatch.chdir(tmp_path / "one")
    assert classes() == ("x", "y")
    assert kind(seed=0, train=name).source() is kind(seed=1, train=name).source()
    monkeypatch.chdir(tmp_path / "other")
    assert classes() == ("v", "w")
    Path(name).write_text("".join(row.format("warm", label) for label in "stu"))
    assert classes() == ("s", "t", "u")


def test_a_network_of_images_and_too_long_texts_are_refused(tmp_path: Path, spec: TextInput) -> None:
    data = TextFiles(seed=0, train=written(tmp_path, "a.tsv"), max_length=600)
    with pytest.raises(RequestError, match="model: takes no text, but the data is text; choose another model, or data"):
        data.expect(ImageInput(size=8, mean=(0.0,), std=(1.0,)))
    with pytest.raises(RequestError, match=r"data.max_length=600: this network sees at most 512 tokens; choose 512"):
        data.expect(spec)


@pytest.mark.shared_data
def test_sst2_and_mpqa_are_read_as_they_are(shared: Path) -> None:
    sst2 = {
        split: str(shared / "data" / "sst2" / f"{file}.tsv") for split, file in (("train", "train"), ("val", "dev"))
    }
    source = TextFiles(seed=0, **sst2, test=str(shared / "data" / "mpqa" / "mpqa.txt")).source()
    assert {split: len(each) for split, each in source.splits.items()} == {"train": 6920, "val": 872, "test": 10603}
    assert len(source.ignored) == 3
    assert source.splits["test"].per_stratum(source.classes) == {"0": 7294 - 2, "1": 3312 - 1}


# Labels for each word

CONLL = "-DOCSTART- -X- O\n\nannfunnyfilm NN B\nis V O\nwarm JJ B\n\nfunny JJ B\nplot NN O\n"


def test_labels_stand_at_the_first_part_of_each_word(tmp_path: Path, spec: TextInput) -> None:
    file = tmp_path / "train.conll"
    file.write_text(CONLL + "\n" + "\n".join(f"{line.replace(' ', ' O' + chr(10))} B\n" for line in LINES[:10]))
    data = TokenFiles(seed=0, train=str(file), batch_size=3, val_fraction=0.1, test_fraction=0.1)
    data.expect(spec)
    data.setup()
    assert data.class_names == ["B", "O"]
    for split in ("train", "val", "test"):
        drawn = data.drawn(split)
        for place in range(len(drawn)):
            batch = drawn[place]
            sentence = drawn.examples.content[drawn.examples.rows[place]]
            ids, targets = batch.inputs["input_ids"][0], batch.targets[0]
            assert targets[targets >= 0].tolist() == ["BO".index(tag) for tag in sentence.tags]
            pieces = [spec.tokenizer(word, add_special_tokens=False)["input_ids"] for word in sentence.words]
            begins = torch.tensor([1, *(1 + sum(map(len, pieces[: n + 1])) for n in range(len(pieces) - 1))])
            assert torch.equal((targets >= 0).nonzero()[:, 0], begins)
            assert len(ids) == sum(map(len, pieces)) + 2


@pytest.mark.parametrize("name", ["A.JSONL", "a.Parquet"])
def test_a_suffix_in_capitals_says_the_same(name: str, tmp_path: Path) -> None:
    columns = {"tokens": [["warm", "plot"]], "tags": [["B", "O"]]}
    if name == "a.Parquet":
        pq.write_table(pa.table(columns), tmp_path / name)
    else:
        (tmp_path / name).write_text(json.dumps({key: cells[0] for key, cells in columns.items()}) + "\n")
    (sentence,) = TokenFiles(seed=0, train=str(tmp_path / name)).source().splits["train"].content
    assert (sentence.words, sentence.tags) == (("warm", "plot"), ("B", "O"))


def test_words_that_are_cut_off_are_counted(tmp_path: Path, spec: TextInput) -> None:
    rows = [{"tokens": line.split(), "tags": ["O", *"B" * (len(line.split()) - 1)]} for line in LINES[:12]]
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = TokenFiles(seed=0, train=str(file), max_length=4, val_fraction=0.2)
    data.expect(spec)
    data.setup()
    labelled = sum(
        int((data.drawn(s)[p].targets >= 0).sum()) for s in ("train", "val", "test") for p in range(len(data.drawn(s)))
    )
    words = sum(len(line.split()) for line in LINES[:12])
    assert sum(data.describe()["words_left_out"].values()) == words - labelled > 0


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.conll", "warm B\nalone\n", "data.train={}: line 2 has no word and tag; mend it, or set data.tokens and"),
        ("a.conll", "\n\n", "data.train={}: it has no sentences; choose another file"),
        ("a.conll", "warm B\n", "data.train={}: 'B' is the only tag; add words of another"),
        (
            "a.jsonl",
            '{"tokens": ["a", "b"], "tags": ["O"]}\n',
            "data.train: a.jsonl:1 should hold two lists of one length, of words and of tags; mend it",
        ),
        *(
            ("a.jsonl", f'{{"tokens": ["a", "b"], "tags": ["O", {tag}]}}\n', f"data.train: a.jsonl:1 has {said}")
            for tag, said in [
                ("null", "no label; remove the row, or choose another data.tags"),
                ("[1]", "several labels; choose another data.tags"),
            ]
        ),
        *(
            (
                "a.jsonl",
                f'{{"tokens": ["a", {word}], "tags": ["O", "B"]}}\n',
                f"data.train: a.jsonl:1 has {said} where a word should be; mend it, or choose another data.tokens",
            )
            for word, said in [("null", "None"), ("7", "7")]
        ),
    ],
)
def test_what_is_wrong_with_tagged_words_is_said(name: str, content: str, sentence: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_text(content)
    with pytest.raises(DataError) as caught:
        TokenFiles(seed=0, train=str(file)).source()
    assert str(caught.value).startswith(sentence.format(file))
