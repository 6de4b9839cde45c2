"""How near a run comes to the least time that its work takes, measured against plain PyTorch on the same machine.

What Frostline does and what plain PyTorch does take turns, in one process or each in its own, and the ratio
is of their medians. A floor computes each shared piece once and nothing else: no validation metrics, no record,
no checkpoint. A study takes long: both sides are measured once, and its row says
against what. Run it on a quiet machine:

    python experiments/performance/reach.py            all rows, as a table in Markdown
    python experiments/performance/reach.py head full  some of them
"""

import json
import logging
import os
import platform
import subprocess
import sys
import tempfile
import warnings
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from statistics import median
from time import perf_counter

from measuring import FROSTLINE, TIMES, Row, alternate, each_alone, finetune, images, resnet20_around, train_on_frozen
from studies_reach import bottleneck, heads, study


def head() -> Row:
    """Fit the head of a frozen ResNet-18."""
    images(Path("images"), side=64, counts={"train": 512, "val": 64, "test": 64})
    asked = ("model=torchvision", "model.name=resnet18", "model.weights=null", "data=image_folder", "data.root=images")

    def ours() -> dict[str, float]:
        return finetune(*asked, "data.image_size=64", "freeze=head", "trainer.max_epochs=10")

    def floor() -> float:
        from torch import nn
        from torchvision.models import resnet18

        network = resnet18(num_classes=8)
        above, network.fc = network.fc, nn.Identity()
        return train_on_frozen(network, above, examples=512, val=64, side=64, epochs=10, batch=64)

    ran, floors = each_alone(ours, floor, processes=9)  # both scatter by a tenth
    seconds, whole = (median(each[name] for each in ran) for name in ("cost/wall_s", "whole_s"))
    least = median(floors)
    return Row(
        work="head on frozen ResNet-18, 512 images of 64x64, 10 epochs",
        ours=f"{seconds:.2f} s of training, validated each epoch (with plan, test and record {whole:.2f} s)",
        floor=f"{least:.2f} s",
        ratio=f"{seconds / least:.2f}",
        reach="1.15",
    )


def full() -> Row:
    """Step ResNet-20 as a whole, and behind each step a plain loop that takes the same one."""
    import torch
    from pytorch_lightning.callbacks import Callback

    theirs: list[float] = []
    ours: list[float] = []

    class Alternate(Callback):
        """Takes a plain step behind each of Frostline's."""

        def on_train_start(self, trainer, module) -> None:
            self.twin = deepcopy(module.network).train()
            self.optimizer = torch.optim.SGD(self.twin.parameters(), lr=0.01, momentum=0.9)

        def on_train_epoch_start(self, trainer, module) -> None:
            self.begun = None

        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
            if self.begun is not None:
                ours.append(perf_counter() - self.begun)
            begun = perf_counter()
            self.optimizer.zero_grad()
            torch.nn.functional.cross_entropy(self.twin(batch.inputs), batch.targets).backward()
            self.optimizer.step()
            theirs.append(perf_counter() - begun)
            self.begun = perf_counter()

    asked = ("model=resnet20", "data=digits", "data.image_size=32", "data.batch_size=128", "freeze=full")
    finetune(*asked, "trainer.max_epochs=16", callbacks=[Alternate()])
    step, plain = median(ours[5:]), median(theirs[5:])
    return Row(
        work="full fine-tuning, ResNet-20, batch 128, one step",
        ours=f"{1000 * step:.1f} ms",
        floor=f"{1000 * plain:.1f} ms",
        ratio=f"{step / plain:.3f}",
        reach="1.02",
    )


def last_stage() -> Row:
    """Train the last stage of ResNet-20 and its head on what the stages below give."""
    images(Path("images"), side=32, counts={"train": 1024, "val": 128, "test": 64})
    asked = ("model=resnet20", "data=image_folder", "data.root=images", "data.batch_size=128", "freeze=last_k")

    def floor() -> float:
        parts = resnet20_around("last_stage")
        return train_on_frozen(*parts, examples=1024, val=128, side=32, epochs=10, batch=128)

    seconds, least = map(median, each_alone(lambda: finetune(*asked, "trainer.max_epochs=10")["cost/wall_s"], floor))
    return Row(
        work="last stage of ResNet-20 on a frozen prefix, 1,024 images, batch 128, 10 epochs",
        ours=f"{seconds:.2f} s of training",
        floor=f"{least:.2f} s",
        ratio=f"{seconds / least:.2f}",
        reach="1.15",
    )


def loading() -> Row:
    """Load 10,000 JPEG files, against the same decoding and stacking, in the same order, without the framework."""
    import numpy as np
    import torch
    from PIL import Image

    from frostline.config.build import build
    from frostline.config.compose import compose
    from frostline.nn.backbone import ImageInput

    images(Path("images"), side=64, counts={"train": 10_000, "val": 64, "test": 64}, suffix="jpg")
    spec = ImageInput(size=64, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    data = build(compose("finetune", ["data=image_folder", "data.root=images", "data.image_size=64"]).data)
    data.expect(spec)
    data.setup()
    examples = data.drawn("train").examples
    files = [examples.content.files[row] for row in examples.rows]  # in another order they would take longer or shorter
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (spec.mean, spec.std))

    def ours() -> float:
        begun = perf_counter()
        for _ in data.reference_dataloader():
            pass
        return perf_counter() - begun

    def anew() -> float:
        data.drawn("train").pixels.held.clear()
        return ours()

    def floor() -> float:
        begun = perf_counter()
        for first in range(0, len(files), 64):
            decoded = [np.asarray(Image.open(file).convert("RGB")) for file in files[first : first + 64]]
            pixels = torch.stack([torch.from_numpy(array).permute(2, 0, 1) for array in decoded])
            pixels.to(torch.float32).div_(255).sub_(mean).div_(std)
        return perf_counter() - begun

    seconds, least = alternate(anew, floor, times=9)  # the floor scatters by a third
    again = ours()
    return Row(
        work="one pass over 10,000 JPEG files of 64x64",
        ours=f"{seconds:.2f} s (a second pass {again:.2f} s: decoded images are held up to 300 MB)",
        floor=f"{least:.2f} s",
        ratio=f"{seconds / least:.2f}",
        reach="1.1",
    )


def start() -> Row:
    """Start the program: its help, an error in a config, the first step."""

    def seconds(*arguments: str) -> float:
        begun = perf_counter()
        subprocess.run([FROSTLINE, *arguments], check=False, capture_output=True)
        return perf_counter() - begun

    one = ("trainer.max_epochs=1", "trainer.accelerator=cpu", "data.shots=2", "data.val_shots=2")
    parts = {
        "`--help`": ("--help",),
        "a config error": ("finetune", "freeze=gradual", "freeze.evry=2"),
        "`plan`": ("plan", *one),
        "a run of one step": ("finetune", *one),
    }
    taken = {name: median(seconds(*arguments) for _ in range(TIMES)) for name, arguments in parts.items()}
    told = [f"{name} {value:.2f} s" for name, value in taken.items()]
    return Row(work="start", ours=", ".join(told), floor="-", ratio="-", reach="0.5 s, 1 s, reported")


PEAK_OF_OURS = """
from measuring import finetune
asked = ["model=resnet20", "data=image_folder", "data.root=images", "data.batch_size=128", "trainer.max_epochs=2"]
print(finetune(*asked, "freeze={freeze}")["cost/peak_memory_mb"])
"""
PEAK_OF_FLOOR = """
from pathlib import Path
import mlflow, pytorch_lightning, torchvision, matplotlib.pyplot, hydra, sklearn.datasets, frostline.run  # as a run has
from measuring import resnet20_around, train_on_frozen
train_on_frozen(*resnet20_around("{cut}"), examples=1024, val=128, side=32, epochs=1, batch=128)
said = next(line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
print(int(said.split()[1]) * 1024 / 1e6)
"""


def memory() -> Row:
    """Train the head, and the last stage, of ResNet-20: the peak of the whole process.

    A peak does not depend on speed, so both sides run at the same time, with one thread each: beside other work,
    several threads would mostly wait for one another. Both hold the libraries of a run; a run holds its database too.
    """
    images(Path("images"), side=32, counts={"train": 1024, "val": 128, "test": 64})
    ours, floors = {}, {}
    for freeze, cut in (("head", "head"), ("last_k", "last_stage")):
        programs = (PEAK_OF_OURS.format(freeze=freeze), PEAK_OF_FLOOR.format(cut=cut))
        ours[freeze], floors[freeze] = map(said_by, [begun(program) for program in programs])
    return Row(
        work="peak memory of a process that trains the head · the last stage of ResNet-20, batch 128",
        ours=" · ".join(f"{each:,.0f} MB" for each in ours.values()),
        floor=" · ".join(f"{each:,.0f} MB" for each in floors.values()),
        ratio=" · ".join(f"{ours[each] / floors[each]:.2f}" for each in ours),
        reach="1.1",
    )


def begun(program: str) -> subprocess.Popen[str]:
    """Begin a program in a process of its own, on one core, that can import what this file does."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", program], env=environment, text=True, **pipes)


def said_by(process: subprocess.Popen[str]) -> float:
    """Return the number that a program prints last."""
    said, wrong = process.communicate()
    if process.returncode:
        raise SystemExit(wrong)
    return float(said.split()[-1])


ROWS = {row.__name__: row for row in (head, full, last_stage, loading, start, memory, heads, study, bottleneck)}


def measured(name: str) -> Row:
    """Measure a row in a process and a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        call = [sys.executable, str(Path(__file__).resolve()), "--one", name]
        said = subprocess.run(call, cwd=folder, capture_output=True, text=True, check=False)
    if said.returncode:
        raise SystemExit(f"{name}: {said.stderr}")
    return Row(**json.loads(said.stdout.splitlines()[-1]))


def main() -> None:
    """Measure what is asked for and print the table."""
    if sys.argv[1:2] == ["--one"]:
        logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
        warnings.filterwarnings("ignore")
        print(json.dumps(asdict(ROWS[sys.argv[2]]())))
        return
    import torch

    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}\n")
    print("| work | Frostline | floor | ratio | to reach |\n|---|---|---|---|---|", flush=True)
    for name in sys.argv[1:] or ROWS:
        print("| " + " | ".join(asdict(measured(name)).values()) + " |", flush=True)


if __name__ == "__main__":
    main()
