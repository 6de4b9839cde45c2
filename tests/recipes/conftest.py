"""What the tests of the command line share."""

from pathlib import Path

import pytest
import torch
from workplace import Workplace


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Keep tiny tensors from waiting on each other's threads where cores are shared."""
    torch.set_num_threads(1)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Workplace:
    """An empty folder with an empty database."""
    return Workplace(tmp_path, monkeypatch, capsys)
