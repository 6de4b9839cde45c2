"""A checkpoint that is asked for twice at one moment is one file of two names, and each name goes its own way then."""

import os
from pathlib import Path

import pytest
import torch

from frostline.checkpoint_io import OnceAMoment
from frostline.interruption import OURS


def checkpoint(step: int, *, batch: int = 0) -> dict[str, object]:
    return {"global_step": step, OURS: {"position": {"epoch": 1, "batch": batch}}, "weights": torch.full((3,), step)}


def step_of(path: Path) -> int:
    return int(torch.load(path, weights_only=True)["global_step"])


def test_the_best_that_is_the_last_is_written_once(tmp_path: Path) -> None:
    best, last = tmp_path / "best.ckpt", tmp_path / "last.ckpt"
    writing = OnceAMoment()
    for path in (best, last):
        writing.save_checkpoint(checkpoint(5), path)
    assert best.stat().st_ino == last.stat().st_ino
    writing.save_checkpoint(checkpoint(10), last)
    assert (step_of(best), step_of(last)) == (5, 10)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.ckpt", "last.ckpt"]


@pytest.mark.parametrize(
    "second", [("last.ckpt", checkpoint(5, batch=2)), ("other/last.ckpt", checkpoint(5))], ids=["moment", "folder"]
)
def test_what_is_written_at_another_moment_or_place_is_a_file_of_its_own(second, tmp_path: Path) -> None:
    name, content = second
    writing = OnceAMoment()
    writing.save_checkpoint(checkpoint(5), tmp_path / "best.ckpt")
    writing.save_checkpoint(content, tmp_path / name)
    assert (tmp_path / name).stat().st_nlink == 1
    assert torch.load(tmp_path / name, weights_only=True)[OURS] == content[OURS]


def test_without_second_names_it_is_written_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*paths: object) -> None:
        raise OSError

    monkeypatch.setattr(os, "link", refuse)
    writing = OnceAMoment()
    for name in ("best.ckpt", "last.ckpt"):
        writing.save_checkpoint(checkpoint(5), tmp_path / name)
        assert step_of(tmp_path / name) == 5


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_a_full_disk_is_an_error_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "last.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device"):
        OnceAMoment().save_checkpoint(checkpoint(5), tmp_path / "last.ckpt")
    assert not (tmp_path / "last.ckpt").exists()
