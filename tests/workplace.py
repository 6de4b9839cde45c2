"""A folder to use the command line in, as a person would, without the seconds that starting a process takes."""

import atexit
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from frostline.cli import main
from frostline.record import Tracking
from frostline.store import Run, Store

REPOSITORY = Path(__file__).parents[1]

TINY = (
    "data=digits",
    "data.image_size=8",
    "data.shots=2",
    "data.val_shots=4",
    "data.batch_size=4",
    "trainer.max_epochs=1",
    "trainer.accelerator=cpu",
)
"""A run of some tenths of a second."""

SET_BY_THE_PROGRAM = ("FROSTLINE_COMMAND", "HYDRA_FULL_ERROR", "PL_GLOBAL_SEED", "PL_SEED_WORKERS")

FOREIGN = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),  # MLflow's use of SQLAlchemy 2.1
]
"""Marks that leave alone what a dependency says of itself."""


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a command said.

    Attributes:
        code: Its exit code.
        out: Its standard output.
        err: Its standard error.
    """

    code: int
    out: str
    err: str

    @property
    def run_id(self) -> str:
        """The id of the run that the last line tells."""
        return self.out.splitlines()[-1].split()[1]


class Workplace:
    """A working directory with a database of its own.

    Args:
        folder: Where.
        monkeypatch: Takes everything back after the test.
        capsys: Hears what is said.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        for name in SET_BY_THE_PROGRAM:  # and gone after the test
            monkeypatch.setenv(name, os.environ.get(name, ""))
            monkeypatch.delenv(name)
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        self.enter(folder)

    def enter(self, folder: Path) -> None:
        """Go to a folder and give it a database."""
        folder.mkdir(exist_ok=True)
        database_in(folder)
        self.folder = folder
        self._monkeypatch.chdir(folder)
        self._monkeypatch.syspath_prepend(folder)

    def frostline(self, *arguments: str) -> Said:
        """Run `frostline` with these arguments in this process."""
        self._capsys.readouterr()
        with self._monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["frostline", *arguments])
            patch.setattr(sys, "path", [*sys.path])
            with pytest.raises(SystemExit) as exit_:
                main()
        GlobalHydra.instance().clear()
        heard = self._capsys.readouterr()
        return Said(code=exit_.value.code, out=heard.out, err=heard.err)

    def train(self, *arguments: str) -> str:
        """Run a verb in the smallest way, expect it to finish, and return the run's id."""
        said = self.frostline(arguments[0], *TINY, *arguments[1:])
        assert said.code == 0, said.err
        return said.run_id

    @property
    def store(self) -> Store:
        """The experiment of this folder."""
        return Store.open(Tracking(uri=f"sqlite:///{self.folder / 'mlflow.db'}"), "frostline")

    def runs(self, **tags: str) -> list[Run]:
        """Return the recorded runs of these tags, newest first."""
        return self.store.runs(**tags)

    def artifact(self, run_id: str, name: str) -> str:
        """Return the text of an artifact."""
        return self.store.read(run_id, name)


def database_in(folder: Path) -> Path:
    """Put a database without runs into a folder; making its tables anew would take seconds."""
    target = folder / "mlflow.db"
    if not target.exists():
        shutil.copy(_empty_database(), target)
    return target


@cache
def _empty_database() -> Path:
    path = Path(tempfile.mkdtemp(prefix="frostline-tests-")) / "mlflow.db"
    atexit.register(shutil.rmtree, path.parent)
    Store.open(Tracking(uri=f"sqlite:///{path}"), "none", create=True)
    return path
