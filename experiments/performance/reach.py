"""How near a run comes to the least time that its work takes, measured against plain PyTorch on the same machine.

Each row is measured in a process of its own: what Frostline does and what plain PyTorch does alternate, and the ratio
is of their medians. A floor computes each shared piece once and nothing else: no validation metrics, no record,
no checkpoint. Run it on a quiet machine:

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
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

FROSTLINE = str(Path(sys.executable).parent / "frostline")
TIMES = 3
"""How often each side of a row is measured."""


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


def finetune(*overrides: str, callbacks: Sequence[object] = ()) -> dict[str, float]:
    """Run `frostline finetune` in this process, with nothing kept of earlier runs, and return its metrics."""
    from frostline.config.compose import compose
    from frostline.prepare import open_store, prepare
    from frostline.run import execute

    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp()
    quiet = ("trainer.accelerator=cpu", "trainer.enable_progress_bar=false")
    cfg = compose("finetune", [*quiet, *overrides])
    store = open_store(cfg)
    begun = perf_counter()
    outcome = execute(prepare(cfg, "finetune", store), store, callbacks=callbacks)
    return {**outcome.metrics, "whole_s": perf_counter() - begun}


def alternate(ours: Callable[[], float], floor: Callable[[], float]) -> tuple[float, float]:
    """Return the medians of both, in seconds, behind a first time that does not count."""
    ours(), floor()
    pairs = [(ours(), floor()) for _ in range(TIMES)]
    return median(pair[0] for pair in pairs), median(pair[1] for pair in pairs)


def frozen_features_floor(network, head: str, *, examples: int, val: int, side: int, epochs: int, batch: int) -> float:
    """Take the features once, then train a linear head on them: plain PyTorch, tensors in memory."""
    import torch
    from torch import nn

    inputs, targets = torch.randn(examples, 3, side, side), torch.randint(8, (examples,))
    others, labels = torch.randn(val, 3, side, side), torch.randint(8, (val,))
    begun = perf_counter()
    network = network.eval()
    last = getattr(network, head)
    setattr(network, head, nn.Identity())
    with torch.no_grad():
        features = torch.cat([network(part) for part in inputs.split(batch)])
        kept = torch.cat([network(part) for part in others.split(batch)])
    optimizer = torch.optim.SGD(last.parameters(), lr=0.01, momentum=0.9)
    for _ in range(epochs):
        for places in torch.randperm(examples).split(batch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(last(features[places]), targets[places]).backward()
            optimizer.step()
        with torch.no_grad():
            nn.functional.cross_entropy(last(kept), labels)
    return perf_counter() - begun


def head() -> Row:
    """Fit the head of a frozen ResNet-18."""
    from torchvision.models import resnet18

    images(Path("images"), side=64, counts={"train": 512, "val": 64, "test": 64})
    asked = ("model=torchvision", "model.name=resnet18", "model.weights=null", "data=image_folder", "data.root=images")
    ran: list[dict[str, float]] = []

    def ours() -> float:
        ran.append(finetune(*asked, "data.image_size=64", "freeze=head", "trainer.max_epochs=10"))
        return ran[-1]["cost/wall_s"]

    sizes = {"examples": 512, "val": 64, "side": 64, "epochs": 10, "batch": 64}
    seconds, least = alternate(ours, lambda: frozen_features_floor(resnet18(num_classes=8), "fc", **sizes))
    whole = median(each["whole_s"] for each in ran[1:])
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
    finetune(*asked, "trainer.max_epochs=8", callbacks=[Alternate()])
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
    import torch
    from torch import nn

    from frostline.nn.cifar_resnet import CifarResNet

    images(Path("images"), side=32, counts={"train": 1024, "val": 128, "test": 64})
    asked = ("model=resnet20", "data=image_folder", "data.root=images", "data.batch_size=128", "freeze=last_k")

    def floor() -> float:
        network = CifarResNet().network(8)
        inputs, targets = torch.randn(1024, 3, 32, 32), torch.randint(8, (1024,))
        others = torch.randn(128, 3, 32, 32)
        begun = perf_counter()
        below = nn.Sequential(network.conv1, network.bn1, nn.ReLU(), network.layer1, network.layer2).eval()
        above = nn.Sequential(network.layer3, nn.AdaptiveAvgPool2d(1), nn.Flatten(), network.linear).train()
        with torch.no_grad():
            maps, kept = torch.cat([below(part) for part in inputs.split(128)]), below(others)
        optimizer = torch.optim.SGD(above.parameters(), lr=0.01, momentum=0.9)
        for _ in range(10):
            for places in torch.randperm(1024).split(128):
                optimizer.zero_grad()
                nn.functional.cross_entropy(above(maps[places]), targets[places]).backward()
                optimizer.step()
            with torch.no_grad():
                above.eval()(kept)
                above.train()
        return perf_counter() - begun

    seconds, least = alternate(lambda: finetune(*asked, "trainer.max_epochs=10")["cost/wall_s"], floor)
    return Row(
        work="last stage of ResNet-20 on a frozen prefix, 1,024 images, batch 128, 10 epochs",
        ours=f"{seconds:.2f} s of training",
        floor=f"{least:.2f} s",
        ratio=f"{seconds / least:.2f}",
        reach="1.15",
    )


def loading() -> Row:
    """Load 10,000 JPEG files, against the same decoding and stacking without the framework."""
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
    data.drawn("train").pixels.held.clear()
    files = sorted(Path("images/train").rglob("*.jpg"))
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (spec.mean, spec.std))

    def ours() -> float:
        begun = perf_counter()
        for _ in data.reference_dataloader():
            pass
        return perf_counter() - begun

    def floor() -> float:
        begun = perf_counter()
        for first in range(0, len(files), 64):
            decoded = [np.asarray(Image.open(file).convert("RGB")) for file in files[first : first + 64]]
            pixels = torch.stack([torch.from_numpy(array).permute(2, 0, 1) for array in decoded])
            pixels.to(torch.float32).div_(255).sub_(mean).div_(std)
        return perf_counter() - begun

    seconds, least = ours(), floor()
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


MEMORY_FLOOR = """
import torch
from pathlib import Path
from torch import nn
from frostline.nn.cifar_resnet import CifarResNet
import mlflow, pytorch_lightning, torchvision, matplotlib.pyplot, hydra, sklearn.datasets, frostline.run  # as a run has
network = CifarResNet().network(8)
below = nn.Sequential(network.conv1, network.bn1, nn.ReLU(), network.layer1, network.layer2).eval()
above = nn.Sequential(network.layer3, nn.AdaptiveAvgPool2d(1), nn.Flatten(), network.linear).train()
if HEAD:
    below, above = nn.Sequential(*below, *above[:3]).eval(), above[3]
inputs, targets = torch.randn(1024, 3, 32, 32), torch.randint(8, (1024,))
with torch.no_grad():
    kept = torch.cat([below(part) for part in inputs.split(128)])
optimizer = torch.optim.SGD(above.parameters(), lr=0.01, momentum=0.9)
for places in torch.randperm(1024).split(128):
    optimizer.zero_grad()
    nn.functional.cross_entropy(above(kept[places]), targets[places]).backward()
    optimizer.step()
print(next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line))
"""


def memory() -> Row:
    """Train the head, and the last stage, of ResNet-20: the peak of the whole process."""
    images(Path("images"), side=32, counts={"train": 1024, "val": 128, "test": 64})
    asked = ("model=resnet20", "data=image_folder", "data.root=images", "data.batch_size=128", "trainer.max_epochs=2")
    ours, floors = {}, {}
    for freeze in ("head", "last_k"):
        program = MEMORY_FLOOR.replace("HEAD", str(freeze == "head"))
        said = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
        floors[freeze] = int(said.stdout.split()[-1]) * 1024 / 1e6
        code = f"import reach; print(reach.finetune(*{asked!r}, 'freeze={freeze}')['cost/peak_memory_mb'])"
        said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=here())
        ours[freeze] = float(said.stdout.split()[-1])
    return Row(
        work="peak memory of a process that trains the head · the last stage of ResNet-20, batch 128",
        ours=" · ".join(f"{each:,.0f} MB" for each in ours.values()),
        floor=" · ".join(f"{each:,.0f} MB" for each in floors.values()),
        ratio=" · ".join(f"{ours[each] / floors[each]:.2f}" for each in ours),
        reach="1.1",
    )


def here() -> dict[str, str]:
    """Return an environment in which this file can be imported."""
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}


def heads() -> Row:
    """Train 32 heads on one backbone as a study, against one of them run alone."""
    images(Path("images"), side=64, counts={"train": 2048, "val": 256, "test": 256})
    base = ["model=torchvision", "model.name=resnet18", "model.weights=null", "data=image_folder"]
    base += [f"data.root={Path('images').resolve()}", "data.image_size=64", "freeze=head", "trainer.max_epochs=10"]
    arms = {
        f"lr{i}wd{j}": [f"optimizer.lr={0.003 * 2**i}", f"optimizer.weight_decay={j * 1e-4}"]
        for i in range(8)
        for j in range(4)
    }

    def study(name: str, chosen: dict[str, list[str]]) -> float:
        folder = Path(name)
        folder.mkdir()
        asked = {"question": "which head?", "base": base, "arms": chosen, "seeds": [0], "metric": "test/accuracy"}
        (folder / "study.yaml").write_text(json.dumps(asked))
        os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp()
        begun = perf_counter()
        subprocess.run([FROSTLINE, "study", name], check=True, capture_output=True)
        return perf_counter() - begun

    alone = study("alone", dict(list(arms.items())[:1]))
    together = study("together", arms)
    return Row(
        work="32 head configurations on one ResNet-18, 2,048 images of 64x64, 10 epochs, as a study",
        ours=f"{together:.1f} s, all commands and records included",
        floor=f"{alone:.1f} s, one of them alone",
        ratio=f"{together / alone:.2f}",
        reach="1.5",
    )


ROWS = {row.__name__: row for row in (head, full, last_stage, loading, start, memory, heads)}


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
