"""What the rows of `reach.py` are measured with: images, runs of Frostline, and the same work in plain PyTorch."""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TypeVar

_T = TypeVar("_T")

FROSTLINE = str(Path(sys.executable).parent / "frostline")
CPU = "trainer.accelerator=cpu"
"""Where runs are that are measured against a floor there."""
TIMES = 3
"""How often each side of a row is measured in a process, and in how many, unless the row says otherwise."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table."""

    work: str
    ours: str
    floor: str
    ratio: str
    reach: str


def images(root: Path, *, side: int, counts: dict[str, int], suffix: str = "png") -> None:
    """Write images of noise in eight classes."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    for split, count in counts.items():
        for number in range(count):
            folder = root / split / f"class{number % 8}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(
                folder / f"{number}.{suffix}"
            )


def finetune(*overrides: str, callbacks: Sequence[object] = (), accelerator: str = CPU) -> dict[str, float]:
    """Run `frostline finetune` in this process, with nothing kept of earlier runs, and return its metrics."""
    from frostline.config.compose import compose
    from frostline.prepare import open_store, prepare
    from frostline.run import execute

    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp()
    quiet = (accelerator, "trainer.enable_progress_bar=false")
    cfg = compose("finetune", [*quiet, *overrides])
    store = open_store(cfg)
    begun = perf_counter()
    outcome = execute(prepare(cfg, "finetune", store), store, callbacks=callbacks)
    return {**outcome.metrics, "whole_s": perf_counter() - begun}


def command(*arguments: str, folder: Path) -> float:
    """Run `frostline` as a process in a folder that holds its records and what it keeps; return its seconds."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder.resolve() / "cache")}
    begun = perf_counter()
    ran = subprocess.run(
        [FROSTLINE, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if ran.returncode:
        raise SystemExit(f"frostline {' '.join(arguments)}: {ran.stdout[-2000:]}{ran.stderr[-2000:]}")
    return perf_counter() - begun


def alternate(ours: Callable[[], float], floor: Callable[[], float], *, times: int = TIMES) -> tuple[float, float]:
    """Return the medians of both, in seconds, behind a first time that does not count."""
    ours(), floor()
    pairs = [(ours(), floor()) for _ in range(times)]
    return median(pair[0] for pair in pairs), median(pair[1] for pair in pairs)


def each_alone(
    ours: Callable[[], _T], floor: Callable[[], float], *, processes: int = TIMES
) -> tuple[list[_T], list[float]]:
    """Return what both give: by turns, so many new processes each, and several values in each of them.

    What one side asks of the C library, or leaves in memory, is nothing to the other. A first time in a process does
    not count. The caller must not have imported torch, whose threads do not survive the making of a process.
    """
    rounds = [(_alone(ours), _alone(floor)) for _ in range(processes)]
    return [value for mine, _ in rounds for value in mine], [value for _, theirs in rounds for value in theirs]


def _alone(work: Callable[[], _T]) -> list[_T]:
    fork = multiprocessing.get_context("fork")
    here, there = fork.Pipe(duplex=False)

    def run() -> None:
        work()
        there.send([work() for _ in range(TIMES)])

    process = fork.Process(target=run)
    process.start()
    there.close()
    with here:
        try:
            found: list[_T] = here.recv()
        except EOFError:
            raise SystemExit("a side of the row failed; what it said is above") from None
    process.join()
    return found


def seconds(work: Callable[[], object]) -> float:
    """Return what some work takes."""
    begun = perf_counter()
    work()
    return perf_counter() - begun


def resnet20_around(cut: str, *, classes: int = 8):
    """Return a new ResNet-20 as what is below and what is above its `last_stage` or its `head`."""
    from torch import nn

    from frostline.nn.cifar_resnet import CifarResNet

    network = CifarResNet().network(classes)
    below = [network.conv1, network.bn1, nn.ReLU(), network.layer1, network.layer2]
    last = [network.layer3, nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    if cut == "head":
        return nn.Sequential(*below, *last), network.linear
    return nn.Sequential(*below), nn.Sequential(*last, network.linear)


def noise(*, examples: int, side: int):
    """Return so many images, and classes of theirs."""
    import torch

    return torch.randn(examples, 3, side, side), torch.randint(8, (examples,))


def given(below, inputs, *, batch: int):
    """Return what a frozen part gives of all inputs."""
    import torch

    below.eval()
    with torch.no_grad():
        return torch.cat([below(part) for part in inputs.split(batch)])


def train(above, inputs, targets, *, others, epochs: int, batch: int) -> None:
    """Train with plain PyTorch on tensors in memory, with a forward pass of other inputs behind each epoch."""
    import torch

    optimizer = torch.optim.SGD(above.parameters(), lr=0.01, momentum=0.9)
    for _ in range(epochs):
        above.train()
        for places in torch.randperm(len(inputs)).split(batch):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(above(inputs[places]), targets[places]).backward()
            optimizer.step()
        given(above, others, batch=batch)


def train_on_frozen(below, above, *, examples: int, val: int, side: int, epochs: int, batch: int) -> float:
    """Run what is frozen once, then train the rest on what that gives; return the seconds."""
    inputs, targets = noise(examples=examples, side=side)
    others, _ = noise(examples=val, side=side)

    def work() -> None:
        kept, kept_of_others = (given(below, each, batch=batch) for each in (inputs, others))
        train(above, kept, targets, others=kept_of_others, epochs=epochs, batch=batch)

    return seconds(work)
