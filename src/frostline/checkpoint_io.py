"""Writes checkpoints: one that is asked for twice at one moment, as the best and as the last, is written once."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import TorchCheckpointIO

from frostline.interruption import OURS


class OnceAMoment(TorchCheckpointIO):
    """Give a checkpoint that was just written to the same folder a second name, in place of writing it again.

    Each is written whole under another name first, so that one of two names can be written anew without the other.
    """

    def __init__(self) -> None:
        self._moment: object = None
        self._written = Path()

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Args:
            checkpoint: What to write.
            path: Where to.
            storage_options: Nothing, of a local file.
        """
        if "://" in str(path):  # whoever keeps checkpoints elsewhere keeps each by itself
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        moment = (path.parent, checkpoint["global_step"], checkpoint.get(OURS, {}).get("position"))
        if moment != self._moment or not _named(self._written, path):
            _write(checkpoint, path)
            self._moment, self._written = moment, path


def _write(checkpoint: dict[str, Any], path: Path) -> None:
    """Write a checkpoint whole or not at all; Lightning would first copy all of it in memory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:  # of a path, torch would not say that the disk is full
        torch.save(checkpoint, file)
    partial.replace(path)


def _named(file: Path, also: Path) -> bool:
    """Give a file another name, where the file system can."""
    between = also.with_suffix(".link")
    try:
        between.unlink(missing_ok=True)
        os.link(file, between)
        between.replace(also)
    except OSError:
        return False
    return True
