"""Writes a study's comparison to a folder, and into the page of the experiment where there is one."""

from collections.abc import Sequence
from pathlib import Path

from frostline.compare.question import Comparison, Measured
from frostline.compare.report import write
from frostline.compare.table import markdown, results_csv

BEGIN, END = "<!-- results -->", "<!-- /results -->"
"""What stands between these lines of a README.md is generated."""


def publish(comparison: Comparison, runs: Sequence[Measured], folder: Path, *, footer: Sequence[str]) -> list[Path]:
    """Write the comparison, every run as a line of results.csv, and the table of the folder's README.md.

    Args:
        comparison: What was found.
        runs: The runs that it was found in.
        folder: Where to; made where it is not there.
        footer: Lines below the table: command, commit, hardware.

    Returns:
        The files written.
    """
    paths = [*write(comparison, folder, footer=footer), _replace(folder / "results.csv", results_csv(runs))]
    page = folder / "README.md"
    if page.is_file() and BEGIN in (text := page.read_text()) and END in text:
        before, after = text.partition(BEGIN)[0], text.partition(END)[2]
        table = markdown(comparison, footer=footer)
        paths.append(_replace(page, f"{before}{BEGIN}\n\n{table}\n{END}{after}"))
    return paths


def _replace(path: Path, text: str) -> Path:
    part = path.with_name(f".{path.name}.part")
    part.write_text(text)
    return part.replace(path)
