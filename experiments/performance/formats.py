"""What formats of numbers and of maps, fused optimizers and compilation save, beside a bare loop that has the same.

Steps of full fine-tuning that Frostline takes alternate with those of a plain PyTorch loop on a twin, in one process,
on the GPU where there is one; the loop is given each batch, which Frostline has loaded. Then what is frozen: the same
run with what is kept and without. It takes a quarter of an hour on two cores; run it on a quiet machine:

    python experiments/performance/formats.py
"""

import json
import logging
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from statistics import median
from time import perf_counter

from measuring import finetune, images

BATCH, EPOCHS, WARM = 128, 4, 5
BF16, LAST = "trainer.precision=bf16-mixed", "channels_last=true"
FORMATS: dict[str, Sequence[str]] = {
    "float32": [],
    "float32, channels last": [LAST],
    "bf16-mixed": [BF16],
    "bf16-mixed, channels last": [BF16, LAST],
    "bf16-mixed, channels last, fused optimizer": [BF16, LAST, "optimizer.fused=true"],
    "compiled": ["compile=inductor"],
    "bf16-mixed, channels last, compiled": [BF16, LAST, "compile=inductor"],
}
ACCELERATOR = "trainer.accelerator=auto"


def asked(*overrides: str) -> list[str]:
    """Return a run on images of noise that lie in the working folder."""
    images(Path("images"), side=32, counts={"train": 1024, "val": BATCH, "test": 64})
    return ["model=resnet20", "data=image_folder", "data.root=images", f"data.batch_size={BATCH}", *overrides]


def steps(name: str) -> list[str]:
    """Step ResNet-20 as a whole in a format, and behind each step a plain loop that takes the same one."""
    import torch
    from pytorch_lightning.callbacks import Callback

    ours, theirs = list[float](), list[float]()

    class Alternate(Callback):
        """Takes a plain step behind each of Frostline's."""

        def on_train_start(self, trainer, module) -> None:
            self.twin = deepcopy(module.network).train()
            if module.network._compiled_call_impl is not None:
                self.twin.compile(backend="inductor")
            self.optimizer = torch.optim.SGD(self.twin.parameters(), **trainer.optimizers[0].defaults)

        def on_train_epoch_start(self, trainer, module) -> None:
            self.begun = None

        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
            now = done(module.device)
            if self.begun is not None:
                ours.append(now - self.begun)
            self.optimizer.zero_grad()
            with trainer.precision_plugin.forward_context():
                loss = torch.nn.functional.cross_entropy(self.twin(batch.inputs), batch.targets)
            loss.backward()
            self.optimizer.step()
            self.begun = done(module.device)
            theirs.append(self.begun - now)

    finetune(
        *asked("freeze=full", f"trainer.max_epochs={EPOCHS}", *FORMATS[name]),
        callbacks=[Alternate()],
        accelerator=ACCELERATOR,
    )
    step, plain = median(ours[WARM:]), median(theirs[WARM:])
    return [name, f"{BATCH / step:,.0f}", f"{BATCH / plain:,.0f}", f"{step / plain:.3f}"]


def done(device) -> float:
    """Return the time once a device has done what it was told."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter()


def kept(name: str) -> list[str]:
    """Train the head, and the last stage, with what is frozen computed in every epoch, and once."""
    seconds = []
    for freeze in ("head", "last_k"):
        run = asked(f"freeze={freeze}", "trainer.max_epochs=10", *FORMATS[name])
        for cache in ("off", "auto"):
            ran = [finetune(*run, f"cache={cache}", accelerator=ACCELERATOR) for _ in range(2)]  # the first is slower
            seconds.append(ran[1]["cost/wall_s"])
    return [name, *(f"{each:.2f} s" for each in seconds)]


TABLES: dict[str, tuple[Callable[[str], list[str]], Sequence[str], str]] = {
    "steps": (steps, [*FORMATS], "full fine-tuning of ResNet-20 | images/s | a bare loop, images/s | a step, ratio"),
    "kept": (
        kept,
        [*FORMATS][:4],
        "10 epochs of 1,024 images | head, all computed | head, kept | last stage, all computed | last stage, kept",
    ),
}


def measured(table: str, name: str) -> list[str]:
    """Measure a line in a process and a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        call = [sys.executable, str(Path(__file__).resolve()), "--one", table, name]
        said = subprocess.run(call, cwd=folder, capture_output=True, text=True, check=False)
    if said.returncode:
        raise SystemExit(f"{name}: {said.stderr}")
    line: list[str] = json.loads(said.stdout.splitlines()[-1])
    return line


def main() -> None:
    """Measure all lines and print the tables."""
    if sys.argv[1:2] == ["--one"]:
        logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
        warnings.filterwarnings("ignore")
        print(json.dumps(TABLES[sys.argv[2]][0](sys.argv[3])))
        return
    for table, (_, names, header) in TABLES.items():
        print(f"| {header} |\n|{'---|' * (header.count('|') + 1)}", flush=True)
        for name in names:
            print("| " + " | ".join(measured(table, name)) + " |", flush=True)
        print()


if __name__ == "__main__":
    main()
