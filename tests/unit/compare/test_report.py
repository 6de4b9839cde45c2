"""The report's files: whole, self-contained, and the same each time."""

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from frostline.compare import report, table
from frostline.compare.comparison import compare
from frostline.compare.question import Comparison, Measured, Question

SCORES = {
    "full": (0.90, 0.91, 0.92, 0.90, 0.91, 0.93),
    "<thaw>": (0.91, 0.922, 0.934, 0.911, 0.923, 0.945),
    "head": (0.80, 0.82, 0.81, 0.83, 0.82, 0.80),
}


def a_comparison(*, timed: bool = True) -> Comparison:
    question = Question(
        name="thaw & pay",
        question="Does <b>thawing</b> pay?",
        metric="test/accuracy",
        arms=tuple(SCORES),
        seeds=tuple(range(6)),
        reference="full",
    )
    runs = [
        Measured(
            arm=arm,
            seed=seed,
            score=score,
            pairing=f"batch-{seed}",
            cost={"wall_s": {"full": 100.0, "<thaw>": 60.0, "head": 2.0}[arm]} if timed else {},
            frozen_intact=True,
            run_id=f"{arm}-{seed}",
        )
        for arm, scores in SCORES.items()
        for seed, score in enumerate(scores)
        if (arm, seed) != ("head", 4)
    ]
    return compare(question, runs)


class Page(HTMLParser):
    """The cells, the addresses and the text of a page; a tag that is closed out of turn is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.addresses: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def test_write_leaves_three_whole_files_and_nothing_else(tmp_path: Path) -> None:
    comparison = a_comparison()
    paths = report.write(comparison, tmp_path / "out", footer=["commit 1234abc"])
    assert [path.name for path in paths] == ["compare.json", "compare.md", "report.html"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["compare.json", "compare.md", "report.html"]
    assert json.loads(paths[0].read_text()) == table.as_json(comparison)
    assert paths[1].read_text(encoding="utf-8") == table.markdown(comparison, footer=["commit 1234abc"])
    assert paths[2].read_text(encoding="utf-8") == report.html(comparison, footer=["commit 1234abc"])


def test_a_write_that_breaks_off_leaves_the_old_file_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report.write(a_comparison(), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def half(path: Path, text: str, **_: object) -> int:
        path.write_bytes(text.encode()[: len(text) // 2])
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(OSError, match="no space"):
        report.write(a_comparison(timed=False), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_page_has_the_table_s_cells_and_loads_nothing() -> None:
    comparison = a_comparison()
    page = Page(report.html(comparison, footer=["a < b"]))
    assert page.rows == [
        table.columns(comparison.question),
        *(table.cells(comparison.question, result) for result in comparison.arms),
    ]
    assert len(page.addresses) == 2
    assert all(address.startswith("data:image/svg+xml;base64,") for address in page.addresses)


def test_what_users_wrote_is_escaped() -> None:
    text = report.html(a_comparison(), footer=["a < b"])
    assert "Does &lt;b&gt;thawing&lt;/b&gt; pay?" in text
    assert "<thaw>" not in text
    assert "<title>thaw &amp; pay</title>" in text
    assert "a &lt; b" in text


def test_equal_comparisons_give_equal_pages() -> None:
    assert report.html(a_comparison()) == report.html(a_comparison())


def test_the_pictures_are_well_formed() -> None:
    pictures = re.findall(r"base64,([^\"]+)", report.html(a_comparison()))
    assert [ElementTree.fromstring(base64.b64decode(data)).tag for data in pictures] == [
        "{http://www.w3.org/2000/svg}svg"
    ] * 2


def test_without_wall_time_there_is_no_cost_picture() -> None:
    assert len(Page(report.html(a_comparison(timed=False))).addresses) == 1


def test_the_scores_picture_shows_every_seed_mean_and_interval() -> None:
    comparison = a_comparison()
    left, right = report.draw_scores(comparison).axes
    assert [label.get_text() for label in left.get_yticklabels()] == list(SCORES)
    by_seed = [list(line.get_xdata()) for line in left.lines[:6]]
    assert by_seed[0] == [0.90, 0.91, 0.80]
    assert by_seed[4][:2] == [0.91, 0.923]
    assert by_seed[4][2] != by_seed[4][2], "a missing seed breaks the line"
    drawn = [tuple(line.get_xdata()) for line in right.lines]
    thaw = comparison.arms[1].difference
    assert thaw is not None
    assert tuple(thaw.interval) in drawn
    assert (thaw.mean,) in drawn
    assert tuple(thaw.by_seed.values()) in drawn


def test_the_cost_picture_joins_the_front() -> None:
    comparison = a_comparison()
    axes = report.draw_cost(comparison).axes[0]
    front = sorted((arm.cost["wall_s"], arm.mean) for arm in comparison.arms if "wall_s" in arm.pareto)
    assert list(zip(*axes.lines[0].get_data(), strict=True)) == front
    assert axes.lines[0].get_drawstyle() == "steps-post", "between two arms, the cheaper one's score is what one gets"
    assert [text.get_text() for text in axes.texts] == ["head", "<thaw>", "full"]
    assert axes.get_xscale() == "log"
