"""What the tests of the command line share."""

from pathlib import Path

import pytest
from workplace import Workplace


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Workplace:
    """An empty folder with an empty database."""
    return Workplace(tmp_path, monkeypatch, capsys)
