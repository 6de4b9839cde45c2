"""Rows come out the same whatever the format, and every problem has a file and a line."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from frostline.data.table import Column, read_rows
from frostline.errors import DataError

ROWS = [("a, b", "1"), ('say "x"', "2"), ("Füße", "3")]
COLUMNS = {"data.text": "text", "data.label": "label"}


def asked(columns: dict[str, str | int] | None = None) -> list[Column]:
    return [Column(key=key, asked=column) for key, column in (columns or COLUMNS).items()]


def as_csv(folder: Path) -> Path:
    file = folder / "t.csv"
    file.write_text('label,text\n1,"a, b"\n2,"say ""x"""\n\n3,Füße\n')
    return file


def as_tsv(folder: Path) -> Path:
    file = folder / "t.tsv"
    file.write_text('text\tlabel\na, b\t1\nsay "x"\t2\nFüße\t3\n')
    return file


def as_jsonl(folder: Path) -> Path:
    file = folder / "t.jsonl"
    file.write_text("\n".join(json.dumps({"label": label, "text": text}) for text, label in ROWS))
    return file


def table() -> pa.Table:
    texts, labels = zip(*ROWS, strict=True)
    return pa.table({"label": labels, "more": [0, 0, 0], "text": texts})


def as_parquet(folder: Path) -> Path:
    pq.write_table(table(), folder / "t.parquet")
    return folder / "t.parquet"


def as_arrow_stream(folder: Path) -> Path:
    with pa.OSFile(str(folder / "t.arrow"), "wb") as file, pa.ipc.new_stream(file, table().schema) as stream:
        stream.write_table(table())
    return folder / "t.arrow"


def as_arrow_file(folder: Path) -> Path:
    with pa.OSFile(str(folder / "t.arrow"), "wb") as file, pa.ipc.new_file(file, table().schema) as whole:
        whole.write_table(table())
    return folder / "t.arrow"


@pytest.mark.parametrize("write", [as_csv, as_tsv, as_jsonl, as_parquet, as_arrow_stream, as_arrow_file])
def test_every_format_gives_the_same_rows(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    rows = read_rows("data.train", str(write(tmp_path)), asked())
    assert [row.values for row in rows] == ROWS


def lines(tmp_path: Path, content: str | bytes, name: str = "t.csv") -> Path:
    file = tmp_path / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def read(file: Path, columns: dict[str, str | int] | None = None, **options: str) -> list[tuple[str, ...]]:
    return [row.values for row in read_rows("data.train", str(file), asked(columns), **options)]


def test_lines_are_counted_as_an_editor_counts_them(tmp_path: Path) -> None:
    for name, content in {
        "t.csv": "text,label\n\na,1\nb,2\n",
        "t.tsv": "text\tlabel\r\n\r\na\t1\r\nb\t2\r\n",
        "t.jsonl": '\n\n{"text":"a","label":"1"}\n{"text":"b","label":"2"}\n',
    }.items():
        rows = read_rows("data.train", str(lines(tmp_path, content, name)), asked())
        assert [(row.where, *row.values) for row in rows] == [(f"{name}:3", "a", "1"), (f"{name}:4", "b", "2")]


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    assert read(lines(tmp_path, b"\xef\xbb\xbftext,label\na,1\n")) == [("a", "1")]


def test_a_suffix_may_be_in_capitals(tmp_path: Path) -> None:
    assert read(lines(tmp_path, "text,label\na,1\n", "T.CSV")) == [("a", "1")]


def test_a_field_in_quotes_may_span_lines(tmp_path: Path) -> None:
    assert read(lines(tmp_path, 'text,label\n"a\nb",1\n')) == [("a\nb", "1")]


def test_positions_stand_for_the_columns_of_files_without_a_header(tmp_path: Path) -> None:
    positions = {"data.text": 1, "data.label": 0}
    assert read(lines(tmp_path, "1,a\n2,b\n"), positions) == [("a", "1"), ("b", "2")]


def test_a_separator_leaves_the_rest_of_the_line_to_the_last_field(tmp_path: Path) -> None:
    file = lines(tmp_path, "1 so it is\n2 and not\n", "t.txt")
    assert read(file, {"data.text": 1, "data.label": 0}, separator=" ") == [("so it is", "1"), ("and not", "2")]
    named = lines(tmp_path, "label;text\n1;a;b\n2;c\n", "n.csv")
    assert read(named, separator=";") == [("a;b", "1"), ("c", "2")]


def test_a_pattern_is_the_files_that_match_in_the_order_of_their_names(tmp_path: Path) -> None:
    for number in (2, 0, 1):
        lines(tmp_path, f"text,label\na,{number}\n", f"train-{number}.csv")
    assert read(tmp_path / "train-*.csv") == [("a", "0"), ("a", "1"), ("a", "2")]


def test_a_name_that_looks_like_a_pattern_is_a_name_first(tmp_path: Path) -> None:
    assert read(lines(tmp_path, "text,label\na,1\n", "t[1].csv")) == [("a", "1")]


def test_the_integers_of_a_class_label_are_spelt(tmp_path: Path) -> None:
    label = {"_type": "ClassLabel", "names": ["no", "yes"]}
    features = {"label": label, "old": [label], "new": {"feature": label, "_type": "List"}}
    content = pa.table({"label": [1, 0, None, -1], "old": [[0, 1]] * 4, "new": [[1], [], None, [0]], "text": [2] * 4})
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(content.replace_schema_metadata(metadata), tmp_path / "t.parquet")
    columns = {"data.label": "label", "data.old": "old", "data.new": "new", "data.text": "text"}
    assert read(tmp_path / "t.parquet", columns) == [
        ("yes", ["no", "yes"], ["yes"], 2),
        ("no", ["no", "yes"], [], 2),
        (None, ["no", "yes"], None, 2),
        (-1, ["no", "yes"], ["no"], 2),
    ]


def sentence_of(file: Path, columns: dict[str, str | int] | None = None, **options: str) -> str:
    with pytest.raises(DataError) as caught:
        read(file, columns, **options)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("t.csv", "", "it is empty; a table has a line of column names and a line for each example"),
        ("t.tsv", "\n\n", "it is empty; a table has a line of column names and a line for each example"),
        ("t.jsonl", "", "it has no rows; add some, or choose another file"),
        ("t.csv", "text,label\n", "it has no rows; add some, or choose another file"),
        ("t.csv", "text,label\na,1\n\nb\n", "line 4 has 1 field, but data.label is field 2; mend the line, or set data.label"),  # noqa: E501
        ("t.csv", "text,label\na,1\na, b,1\n", "line 3 has 3 fields, and the header 2"),
        ("t.tsv", "text\tlabel\na\t1\t\n", "line 2 has 3 fields, and the header 2"),
        ("t.csv", "text,label,text\na,1,b\n", "it has two columns 'text'; rename one of them"),
        ("t.csv", 'text,label\na,1\n"b"c,2\n', "line 3 is no CSV (',' expected after '\"')"),
        ("t.csv", 'text,label\n"a,1\n', "line 2 is no CSV (unexpected end of data)"),
        ("t.csv", b"text,label\na,1\nF\xfc\xdfe,2\n", "line 3 is not UTF-8; save the file as UTF-8"),
        ("t.jsonl", '{"text":"a","label":1}\n[1]\n', "line 2 is no JSON object, such as {...}"),
        ("t.jsonl", '{"text":"a"\n', "line 1 is no JSON (Expecting ',' delimiter: line 1 column 12 (char 11))"),
        ("t.xlsx", "PK", "it ends in none of .csv, .tsv, .txt, .jsonl, .parquet, .arrow; save it as one of these"),
        ("t.json", '[{"text":"a","label":1}]', "a JSON array is not read; save it as .jsonl, which has one object a line"),  # noqa: E501
        ("t.csv", "text;label\na, b;1\n", "it is read with commas, but its first line is 'text;label'; save it with commas"),  # noqa: E501
        ("t.csv", "text\tlabel\na\t1\n", r"it is read with commas, but its first line is 'text\tlabel'; save it with commas"),  # noqa: E501
    ],
)  # fmt: skip
def test_a_problem_has_a_line(tmp_path: Path, name: str, content: str | bytes, problem: str) -> None:
    file = lines(tmp_path, content, name)
    assert sentence_of(file) == f"data.train={file}: {problem}"


@pytest.mark.parametrize("write", [as_parquet, as_arrow_stream, as_arrow_file])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_binary_table_cut_short_is_told(tmp_path: Path, write: Callable[[Path], Path], share: float) -> None:
    file = write(tmp_path)
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    assert sentence_of(file).startswith(f"data.train={file}: it is no whole {file.suffix[1:]} file (")


@pytest.mark.parametrize("write", [as_csv, as_tsv, as_parquet, as_arrow_stream])
def test_a_column_that_is_not_there_is_told_with_those_that_are(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    file = write(tmp_path)
    said = sentence_of(file, {"data.text": "text", "data.label": "lable"})
    assert said.startswith(f"data.label=lable: {file} has '")
    assert said.endswith(", and no such column; did you mean 'label'?")


@pytest.mark.parametrize("write", [as_csv, as_parquet, as_jsonl])
def test_a_column_that_is_far_from_all_is_told_with_the_way_out(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    file = write(tmp_path)
    said = sentence_of(file, {"data.text": "text", "data.label": "zzz"})
    assert said.endswith(", and no such column; name one of these")


def test_a_csv_of_one_column_may_hold_semicolons_but_not_in_place_of_commas(tmp_path: Path) -> None:
    asked = [Column(key="data.text", asked=None, names=("text",))]
    plain = lines(tmp_path, "one; two\nthree\n")
    assert [row.values for row in read_rows("data.train", str(plain), asked)] == [("one; two",), ("three",)]
    other = lines(tmp_path, "id;text\n1;one\n", "other.csv")
    with pytest.raises(DataError, match="it is read with commas, but its first line is 'id;text'; save it with commas"):
        list(read_rows("data.train", str(other), asked))


def test_an_unsaid_column_is_told_with_the_one_that_is_near(tmp_path: Path) -> None:
    file = lines(tmp_path, '{"text":"a","labels":1}\n', "t.jsonl")
    with pytest.raises(DataError) as caught:
        list(read_rows("data.train", str(file), [Column(key="data.label", asked=None, names=("label",))]))
    assert str(caught.value) == f"data.label: {file}:1 has 'text', 'labels', and no 'label'; did you mean 'labels'?"


def test_an_object_without_a_key_is_told_with_its_line(tmp_path: Path) -> None:
    file = lines(tmp_path, '{"text":"a","label":1}\n{"text":"a"}\n', "t.jsonl")
    assert sentence_of(file) == (f"data.label=label: {file}:2 has 'text', and no such column; name one of these")


def test_a_line_without_the_asked_position(tmp_path: Path) -> None:
    file = lines(tmp_path, "a,1\nb,2\n")
    expected = f"data.train={file}: line 1 has 2 fields, but data.label is field 3; mend the line, or set data.label"
    assert sentence_of(file, {"data.text": 0, "data.label": 2}) == expected


def test_no_such_file_names_the_nearest(tmp_path: Path) -> None:
    lines(tmp_path, "", "train.csv")
    file = tmp_path / "trian.csv"
    assert sentence_of(file) == f"data.train={file}: there is no such file; did you mean 'train.csv'?"
    far = tmp_path / "nowhere" / "train.csv"
    assert sentence_of(far) == f"data.train={far}: there is no such file"


def test_a_folder_is_no_table(tmp_path: Path) -> None:
    way_out = f"it is a folder; name a file, or a pattern such as {tmp_path}/*.parquet"
    assert sentence_of(tmp_path) == f"data.train={tmp_path}: {way_out}"
