"""A checkpoint that is asked for twice at one moment is one file of two names, and each name goes its own way then."""

import os
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning.demos.boring_classes import BoringModel

from frostline.checkpoint_io import Last, OnceAMoment
from frostline.interruption import OURS


def checkpoint(step: int, *, batch: int = 0) -> dict[str, object]:
    return {"global_step": step, OURS: {"position": {"epoch": 1, "batch": batch}}, "weights": torch.full((3,), step)}


def step_of(path: Path) -> int:
    return int(torch.load(path, weights_only=True)["global_step"])


def test_the_best_that_is_the_last_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    best, last = tmp_path / "best.ckpt", Path("last.ckpt")  # Lightning gives whole paths
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


@pytest.mark.parametrize(
    ("asked", "steps"),
    [
        ({}, [4, 8]),
        ({"val_check_interval": 2}, [2, 4, 6, 8]),
        ({"check_val_every_n_epoch": 2}, [4, 8]),
        ({"fast_dev_run": True}, []),
    ],
    ids=["epochs", "validation within one", "validation now and then", "a try"],
)
def test_the_last_is_kept_at_the_end_of_each_epoch_and_validation(
    asked: dict[str, Any], steps: list[int], tmp_path: Path
) -> None:
    saved = []

    class Noting(TorchCheckpointIO):
        def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
            saved.append((checkpoint["global_step"], path))

    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=2,
        limit_train_batches=4,
        limit_val_batches=1,
        callbacks=[Last(tmp_path / "last.ckpt")],
        plugins=[Noting()],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **asked,
    )
    trainer.fit(BoringModel())
    trainer.validate(trainer.lightning_module, verbose=False)
    assert saved == [(step, tmp_path / "last.ckpt") for step in steps]
