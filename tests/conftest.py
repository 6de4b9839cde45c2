"""What all tests share."""

import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from frostline.training import REMARKS

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture
def shared() -> Path:
    """Real data and weights, where this machine has them."""
    folder = Path(os.environ.get("FROSTLINE_SHARED", REPOSITORY.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"the real data of $FROSTLINE_SHARED ({folder}) are not here")
    return folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test finds what another one has kept, nor what this machine's user has."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(autouse=True)
def _quiet_lightning() -> Iterator[None]:
    """Lightning's remarks on deliberate choices are no news; every other warning stays an error."""
    with warnings.catch_warnings():
        for remark in REMARKS:
            warnings.filterwarnings("ignore", remark)
        yield
