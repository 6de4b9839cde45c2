"""Where a run came from, as it is found in the working directory and in this interpreter."""

import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from frostline import provenance

CACHED = (provenance.commit, provenance.diff, provenance.environment)


@pytest.fixture(autouse=True)
def _asked_anew() -> Iterator[None]:
    for answer in CACHED:
        answer.cache_clear()
    yield
    for answer in CACHED:
        answer.cache_clear()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):  # set while a hook of git runs the tests
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def git(*arguments: str) -> str:
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    return subprocess.run(["git", *identity, *arguments], check=True, capture_output=True, text=True).stdout.strip()


def commit_of(repository: Path, text: str) -> str:
    git("init", "--quiet")
    (repository / "file.txt").write_text(text)
    git("add", "file.txt")
    git("commit", "--quiet", "--message", "First")
    return git("rev-parse", "HEAD")


def test_a_clean_tree_is_its_commit_and_untracked_files_do_not_count(repository: Path) -> None:
    head = commit_of(repository, "one\n")
    (repository / "mlflow.db").write_text("")
    assert provenance.commit() == head
    assert provenance.diff() == ""


def test_what_differs_is_marked_and_kept_staged_or_not(repository: Path) -> None:
    head = commit_of(repository, "one\n")
    (repository / "file.txt").write_text("two\n")
    git("add", "file.txt")
    assert provenance.commit() == f"{head}-dirty"
    assert "-one\n+two\n" in provenance.diff()


def test_outside_a_repository_there_is_no_commit(repository: Path) -> None:
    assert (provenance.commit(), provenance.diff()) == ("", "")


def test_without_git_there_is_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert (provenance.commit(), provenance.diff()) == ("", "")


def test_the_environment_names_interpreter_and_packages() -> None:
    lines = provenance.environment().splitlines()
    assert lines[0] == f"python {sys.version.split()[0]}"
    assert f"torch=={version('torch')}" in lines
    assert [line.split()[0] for line in lines[:5]] == ["python", "platform", "processor", "torch", "accelerator"]
    assert provenance.hardware() in lines[2]


def test_the_command_can_be_typed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FROSTLINE_COMMAND", raising=False)
    monkeypatch.setattr(sys, "argv", ["/bin/frostline", "finetune", "data.root=my images", "seed=1"])
    assert provenance.command() == "frostline finetune 'data.root=my images' seed=1"
    monkeypatch.setenv("FROSTLINE_COMMAND", "frostline plan")
    assert provenance.command() == "frostline plan"
