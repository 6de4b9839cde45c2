"""How long the same fine-tuning takes in Frostline and in what people would use instead, on the same machine.

Every measurement is a process of its own. Training is the time from the start of a tool's fit to its end; the process
is the time from its start to its exit: imports, set-up and record as well. All tools start from the same weights (new
ones, drawn from a seed, whose normalisation has seen the training images), see the same images, step with the same
optimizer at a constant rate, validate after each epoch and keep the epoch of the lowest validation loss. What that
epoch's network makes of all training images (its loss) and of the validation images (its accuracy) stands beside the
times, measured by one function outside both of them, so that equal work is visible. Nearly equal: the orders of the
batches differ.

What differs otherwise favours the others:

- They are given decoded and normalised tensors in memory before their training begins, by whole batches; Frostline
  reads a folder of PNG files.
- They are given a network that runs its frozen part without gradients and leaves it in evaluation mode whatever is
  called, which a careful user has to write for them; Frostline is given the plain network.
- Frostline alone proves that nothing frozen has changed, keeps what a run can be resumed from, tests at the end and
  writes a record, into a store that each run has to make. The cache of frozen stages is empty when a run begins.
- Bars, loggers and summaries are off, and the plain loops keep the best epoch in memory.

One thing does not: transformers and fastai read the best epoch's weights back within their fit, once, where Frostline
and Lightning do so behind it. Lightning freezes by its `BackboneFinetuning`, which would thaw after the last epoch, and
without it where everything trains.

A tool that is not installed gets a row that says how to install it. Run it on a quiet machine:

    python experiments/performance/head_to_head.py                  all works, as a table in Markdown
    python experiments/performance/head_to_head.py head last_stage  some of them
"""

import json
import logging
import os
import platform
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import update_bn

TIMES = 3
"""How often each tool does each work."""
CLASSES = 8
SEED = 0
LR, MOMENTUM = 0.01, 0.9
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Parts(nn.Module):
    """A backbone and what stands on it; a frozen backbone runs without gradients and stays in evaluation mode."""

    def __init__(self, backbone: nn.Module, head: nn.Module, *, frozen: bool) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(not frozen)
        self.head = head
        self.frozen = frozen
        self.train()

    def forward(self, images: Tensor) -> Tensor:
        if not self.frozen:
            return self.head(self.backbone(images))
        with torch.no_grad():
            maps = self.backbone(images)
        return self.head(maps)

    def train(self, mode: bool = True) -> "Parts":
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network, how it is cut into a backbone and a head, and how Frostline is asked for it."""

    new: Callable[[], nn.Module]
    cut: Callable[[nn.Module], tuple[nn.Module, nn.Module]]
    asked: tuple[str, ...]


def new_resnet18() -> nn.Module:
    from torchvision.models import resnet18

    return resnet18(num_classes=CLASSES)


def cut_resnet18(network: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Cut before the classifier."""
    return nn.Sequential(*list(network.children())[:-1], nn.Flatten()), network.fc


def new_resnet20() -> nn.Module:
    from frostline.nn.cifar_resnet import CifarResNet

    return CifarResNet().network(CLASSES)


def cut_resnet20(network: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Cut before the last stage."""
    below = nn.Sequential(network.conv1, network.bn1, nn.ReLU(), network.layer1, network.layer2)
    return below, nn.Sequential(network.layer3, nn.AdaptiveAvgPool2d(1), nn.Flatten(), network.linear)


RESNET18 = Network(
    new=new_resnet18,
    cut=cut_resnet18,
    asked=("model=torchvision", "model.name=resnet18", "model.weights=null", "data.image_size=64"),
)
RESNET20 = Network(new=new_resnet20, cut=cut_resnet20, asked=("model=resnet20",))


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is to be done."""

    told: str
    network: Network
    freeze: str
    side: int
    train: int
    val: int
    batch: int
    epochs: int

    @property
    def frozen(self) -> bool:
        """Whether the backbone is."""
        return self.freeze != "full"


WORKS = {
    "head": Work(
        told="head on frozen ResNet-18, 512 images of 64x64, batch 64, 10 epochs",
        network=RESNET18,
        freeze="head",
        side=64,
        train=512,
        val=64,
        batch=64,
        epochs=10,
    ),
    "full": Work(
        told="full fine-tuning of ResNet-20, 1,024 images of 32x32, batch 128, 5 epochs",
        network=RESNET20,
        freeze="full",
        side=32,
        train=1024,
        val=128,
        batch=128,
        epochs=5,
    ),
    "last_stage": Work(
        told="last stage of ResNet-20 on a frozen prefix, 1,024 images of 32x32, batch 128, 10 epochs",
        network=RESNET20,
        freeze="last_k",
        side=32,
        train=1024,
        val=128,
        batch=128,
        epochs=10,
    ),
}


def write_images(root: Path, work: Work) -> None:
    """Write images of one colour for each class, a cast of their own and noise."""
    random = np.random.default_rng(SEED)
    colours = np.array([[(label >> bit & 1) * 2 - 1 for bit in range(3)] for label in range(CLASSES)])
    for split, count in {"train": work.train, "val": work.val, "test": work.val}.items():
        for number in range(count):
            label = number % CLASSES
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True, exist_ok=True)
            colour = 128 + 24 * colours[label] + random.normal(0, 16, 3)
            pixels = colour + random.normal(0, 32, (work.side, work.side, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")


@dataclass(frozen=True, kw_only=True)
class Split:
    """Images, normalised, or what a frozen backbone makes of them, and their labels."""

    inputs: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, places: Any) -> tuple[Tensor, Tensor]:
        return self.inputs[places], self.labels[places]

    def __getitems__(self, places: list[int]) -> tuple[Tensor, Tensor]:
        """Return a batch at once, which loaders of torch ask for where a dataset can."""
        return self[places]


def read_split(folder: Path) -> Split:
    """Decode and normalise a folder of class folders, as Frostline does."""
    files = sorted(folder.rglob("*.png"))
    pixels = torch.from_numpy(np.stack([np.asarray(Image.open(file)) for file in files])).permute(0, 3, 1, 2)
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (MEAN, STD))
    inputs = pixels.to(torch.float32, memory_format=torch.contiguous_format).div_(255).sub_(mean).div_(std)
    return Split(inputs=inputs, labels=torch.tensor([int(file.parent.name.removeprefix("class")) for file in files]))


@dataclass(frozen=True, kw_only=True)
class Task:
    """A work, and the folder that holds its images and the weights to start from."""

    work: Work
    folder: Path

    @property
    def images(self) -> Path:
        return self.folder / "images"

    @property
    def start(self) -> Path:
        return self.folder / "start.safetensors"

    def write(self) -> None:
        """Write images and weights."""
        write_images(self.images, self.work)
        torch.manual_seed(SEED)
        network = self.work.network.new()
        # A frozen random network is of use only if its normalisation knows what it is shown.
        update_bn(read_split(self.images / "train").inputs.split(self.work.batch), network)
        save_file(network.state_dict(), self.start)

    def parts(self) -> Parts:
        """Return the network with the weights to start from."""
        network = self.work.network.new()
        network.load_state_dict(load_file(self.start))
        return Parts(*self.work.network.cut(network), frozen=self.work.frozen)

    def splits(self) -> tuple[Split, Split]:
        """Return what is trained on, and what validates."""
        return read_split(self.images / "train"), read_split(self.images / "val")


def sgd(network: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer over what trains."""
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return torch.optim.SGD(trainable, lr=LR, momentum=MOMENTUM)


def accuracy_of(logits: Tensor, labels: Tensor) -> float:
    return (logits.argmax(dim=1) == labels).float().mean().item()


Trained = tuple[float, nn.Module]
"""Seconds of training, and the network as validation chose it."""


def frostline(task: Task) -> Trained:
    """Run `frostline finetune` in this process, with nothing kept of earlier runs."""
    from pytorch_lightning import Trainer

    from frostline.config.compose import compose
    from frostline.prepare import open_store, prepare
    from frostline.run import execute

    work, seconds, fit = task.work, [], Trainer.fit
    os.environ["XDG_CACHE_HOME"] = str(Path("cache").resolve())

    def timed(*args: Any, **kwargs: Any) -> None:
        begun = perf_counter()
        fit(*args, **kwargs)
        seconds.append(perf_counter() - begun)

    overrides = [
        *work.network.asked,
        *("data=image_folder", f"data.root={task.images}", f"data.batch_size={work.batch}", f"seed={SEED}"),
        *(f"init_from={task.start}", "min_coverage=1.0", f"freeze={work.freeze}", "scheduler=constant"),
        *(f"optimizer.lr={LR}", f"optimizer.momentum={MOMENTUM}", "optimizer.weight_decay=0"),
        *(f"trainer.max_epochs={work.epochs}", "trainer.accelerator=cpu", "trainer.enable_progress_bar=false"),
    ]
    cfg = compose("finetune", overrides)
    store = open_store(cfg)
    prepared = prepare(cfg, "finetune", store)
    with patch.object(Trainer, "fit", timed):
        execute(prepared, store)
    return seconds[0], prepared.network


def plain(task: Task) -> Trained:
    """Write the loop by hand."""
    network, (train, val) = task.parts(), task.splits()
    begun = perf_counter()
    loop(network, train, val, task.work)
    return perf_counter() - begun, network


def plain_once(task: Task) -> Trained:
    """Write the loop by hand, over what the frozen backbone gives, which is computed once."""
    network, splits = task.parts(), task.splits()
    begun = perf_counter()
    with torch.no_grad():
        train, val = (features(network.backbone, split, batch=task.work.batch) for split in splits)
    loop(network.head, train, val, task.work)
    return perf_counter() - begun, network


def features(backbone: nn.Module, split: Split, *, batch: int) -> Split:
    return Split(inputs=torch.cat([backbone(part) for part in split.inputs.split(batch)]), labels=split.labels)


def loop(network: nn.Module, train: Split, val: Split, work: Work) -> None:
    """Train a network, validate each epoch, and put back the best one."""
    optimizer = sgd(network)
    least, best = float("inf"), {}
    for _ in range(work.epochs):
        network.train()
        for places in torch.randperm(len(train)).split(work.batch):
            inputs, labels = train[places]
            optimizer.zero_grad()
            cross_entropy(network(inputs), labels).backward()
            optimizer.step()
        loss, _ = validate(network, val, batch=work.batch)
        if loss < least:
            least, best = loss, {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.load_state_dict(best)


def validate(network: nn.Module, split: Split, *, batch: int) -> tuple[float, float]:
    """Return mean loss and accuracy."""
    network.eval()
    with torch.no_grad():
        logits = torch.cat([network(part) for part in split.inputs.split(batch)])
    return cross_entropy(logits, split.labels).item(), accuracy_of(logits, split.labels)


def lightning(task: Task) -> Trained:
    """Train with Lightning, whose callback freezes and would thaw after the last epoch."""
    import pytorch_lightning as pl
    from pytorch_lightning.callbacks import BackboneFinetuning, ModelCheckpoint

    freezing = [BackboneFinetuning(unfreeze_backbone_at_epoch=task.work.epochs + 1)] if task.work.frozen else []
    checkpoint = ModelCheckpoint("checkpoints", monitor="val/loss", save_weights_only=True)
    return fit_lightning(pl, task, freezing, checkpoint)


def finetuning_scheduler(task: Task) -> Trained:
    """Train with Lightning under a schedule of one phase."""
    import lightning.pytorch as pl
    from finetuning_scheduler import FinetuningScheduler, FTSCheckpoint

    trains = r"network\.head\..*" if task.work.frozen else r"network\..*"
    schedule = {0: {"params": [trains], "lr": LR, "max_transition_epoch": task.work.epochs}}
    freezing = FinetuningScheduler(schedule, epoch_transitions_only=True, logging_level=logging.ERROR)
    checkpoint = FTSCheckpoint("checkpoints", monitor="val/loss", save_weights_only=True)
    return fit_lightning(pl, task, [freezing], checkpoint)


def fit_lightning(pl: Any, task: Task, freezing: Sequence[Any], checkpoint: Any) -> Trained:
    """Fit with one of the two packages that Lightning comes in."""

    class Module(pl.LightningModule):
        def __init__(self, network: Parts) -> None:
            super().__init__()
            self.network = network

        @property
        def backbone(self) -> nn.Module:
            """What `BackboneFinetuning` looks for."""
            return self.network.backbone

        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
            inputs, labels = batch
            return cross_entropy(self.network(inputs), labels)

        def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
            inputs, labels = batch
            logits = self.network(inputs)
            measured = {"val/loss": cross_entropy(logits, labels), "val/accuracy": accuracy_of(logits, labels)}
            self.log_dict(measured, batch_size=len(labels))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            # BackboneFinetuning leaves the backbone's batch normalisation trainable, which a head does without.
            return sgd(self.network.head if task.work.frozen else self.network)

    module, (train, val) = Module(task.parts()), task.splits()
    off = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    callbacks = [*freezing, checkpoint]
    trainer = pl.Trainer(max_epochs=task.work.epochs, accelerator="cpu", devices=1, callbacks=callbacks, **off)
    loaders = loader(train, batch=task.work.batch, shuffle=True), loader(val, batch=task.work.batch)
    begun = perf_counter()
    trainer.fit(module, *loaders)
    seconds = perf_counter() - begun
    module.load_state_dict(torch.load(checkpoint.best_model_path, weights_only=True)["state_dict"])
    return seconds, module.network


def loader(split: Split, *, batch: int, shuffle: bool = False) -> Any:
    return torch.utils.data.DataLoader(split, batch_size=batch, shuffle=shuffle, collate_fn=lambda whole: whole)


def transformers(task: Task) -> Trained:
    """Train with the Trainer of transformers."""
    from transformers import Trainer, TrainingArguments

    class WithLoss(nn.Module):
        def __init__(self, network: Parts) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
            logits = self.network(images)
            return {"loss": cross_entropy(logits, labels), "logits": logits}

    model, (train, val), work = WithLoss(task.parts()), task.splits(), task.work
    arguments = TrainingArguments(
        output_dir="trainer",
        use_cpu=True,
        num_train_epochs=work.epochs,
        per_device_train_batch_size=work.batch,
        per_device_eval_batch_size=work.batch,
        lr_scheduler_type="constant",
        max_grad_norm=0,
        eval_strategy="epoch",
        save_strategy="best",
        metric_for_best_model="loss",
        load_best_model_at_end=True,
        save_only_model=True,
        save_total_limit=1,
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        seed=SEED,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        data_collator=lambda whole: dict(zip(("images", "labels"), whole, strict=True)),
        train_dataset=train,
        eval_dataset=val,
        compute_metrics=lambda found: {"accuracy": float((found.predictions.argmax(1) == found.label_ids).mean())},
        optimizers=(sgd(model), None),
    )
    begun = perf_counter()
    trainer.train()
    return perf_counter() - begun, model.network


def fastai(task: Task) -> Trained:
    """Train with fastai, at a constant rate."""
    from fastai.callback.tracker import SaveModelCallback
    from fastai.data.core import DataLoaders
    from fastai.data.load import DataLoader
    from fastai.learner import Learner
    from fastai.metrics import accuracy
    from fastai.optimizer import SGD
    from fastai.torch_core import params

    class Batches(DataLoader):
        """Takes whole batches out of tensors, as fastai's own loader of tables does."""

        def create_batches(self, samps: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
            return (self.dataset[places] for places in torch.tensor(list(samps)).split(self.bs))

    (train, val), work = task.splits(), task.work
    loaders = DataLoaders(
        Batches(train, bs=work.batch, shuffle=True), Batches(val, bs=work.batch), device=torch.device("cpu")
    )
    learner = Learner(
        loaders,
        task.parts(),
        loss_func=cross_entropy,
        opt_func=lambda groups, lr: SGD(groups, lr=lr, mom=MOMENTUM),
        splitter=lambda network: [params(network.backbone), params(network.head)],
        metrics=accuracy,
        path=Path.cwd(),
        train_bn=False,
        cbs=[SaveModelCallback(monitor="valid_loss")],
    )
    if work.frozen:
        learner.freeze()
    with learner.no_bar(), learner.no_logging():
        begun = perf_counter()
        learner.fit(work.epochs, lr=LR)
        return perf_counter() - begun, learner.model


@dataclass(frozen=True, kw_only=True)
class Tool:
    """How a work is done."""

    named: str
    train: Callable[[Task], Trained]
    modules: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    needs_frozen: bool = False

    @property
    def missing(self) -> bool:
        """Whether something that it needs is not installed."""
        return not all(find_spec(module) for module in self.modules)

    @property
    def versions(self) -> str:
        """What is installed of it."""
        return ", ".join(f"{package} {version(package)}" for package in self.packages)


TOOLS = {
    "frostline": Tool(named="Frostline", train=frostline, packages=("frostline",)),
    "plain": Tool(named="plain PyTorch", train=plain, packages=("torch",)),
    "plain_once": Tool(
        named="plain PyTorch, frozen part computed once", train=plain_once, packages=("torch",), needs_frozen=True
    ),
    "lightning": Tool(
        named="Lightning",
        train=lightning,
        modules=("pytorch_lightning",),
        packages=("pytorch-lightning",),
    ),
    "finetuning_scheduler": Tool(
        named="finetuning-scheduler",
        train=finetuning_scheduler,
        modules=("finetuning_scheduler", "lightning"),
        packages=("finetuning-scheduler", "lightning"),
    ),
    "transformers": Tool(
        named="Trainer of transformers",
        train=transformers,
        modules=("transformers", "accelerate"),
        packages=("transformers", "accelerate"),
    ),
    "fastai": Tool(named="fastai", train=fastai, modules=("fastai",), packages=("fastai",)),
}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one process tells, and of several processes the medians."""

    training: float
    process: float
    loss: float
    accuracy: float


def measure_here(tool: Tool, task: Task) -> dict[str, float]:
    """Do a work with a tool in this process, and say what has to be known of it."""
    warnings.filterwarnings("ignore")
    for package in ("pytorch_lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(package).setLevel(logging.ERROR)
    torch.manual_seed(SEED)
    training, network = tool.train(task)
    begun = perf_counter()
    train, val = task.splits()
    loss, _ = validate(network, train, batch=task.work.batch)
    _, accuracy = validate(network, val, batch=task.work.batch)
    return {"training": training, "loss": loss, "accuracy": accuracy, "scoring": perf_counter() - begun}


def measure(tool: str, work: str, folder: Path) -> Measured | str:
    """Do a work with a tool in a process and a folder of its own, or say why that failed."""
    call = [sys.executable, str(Path(__file__).resolve()), "--one", tool, work, str(folder)]
    with tempfile.TemporaryDirectory() as own:
        begun = perf_counter()
        said = subprocess.run(call, cwd=own, capture_output=True, text=True, check=False)
        process = perf_counter() - begun
    if said.returncode:
        return (said.stderr.strip().splitlines() or ["no message"])[-1]
    numbers = json.loads(said.stdout.splitlines()[-1])
    return Measured(process=process - numbers.pop("scoring"), **numbers)


def middle(measured: Sequence[Measured]) -> Measured:
    """Return the medians."""
    columns = [asdict(each) for each in measured]
    return Measured(**{name: median(column[name] for column in columns) for name in columns[0]})


def rows(name: str) -> Iterator[str]:
    """Do a work with every tool in turn, several times, and write its rows of the table."""
    work = WORKS[name]
    tools = [tool for tool in TOOLS if work.frozen or not TOOLS[tool].needs_frozen]
    present = [tool for tool in tools if not TOOLS[tool].missing]
    with tempfile.TemporaryDirectory() as folder:
        Task(work=work, folder=Path(folder)).write()
        found = [{tool: measure(tool, name, Path(folder)) for tool in present} for _ in range(TIMES)]
    for tool in tools:
        cells = told(TOOLS[tool], [each[tool] for each in found] if tool in present else None)
        yield f"| {work.told if tool == tools[0] else ''} | {TOOLS[tool].named} | {' | '.join(cells)} |"


def told(tool: Tool, found: Sequence[Measured | str] | None) -> tuple[str, str, str, str]:
    """Say what was found of a tool; None stands for one that is not installed."""
    if found is None:
        return f"not installed: `pip install {' '.join(tool.packages)}`", "-", "-", "-"
    if failed := next((each for each in found if isinstance(each, str)), None):
        return f"{tool.versions} failed: {failed.replace('|', '/')}", "-", "-", "-"
    usual = middle([each for each in found if isinstance(each, Measured)])
    return f"{usual.training:.2f} s", f"{usual.process:.1f} s", f"{usual.loss:.3f}", f"{usual.accuracy:.1%}"


def main() -> None:
    """Measure what is asked for and print the table."""
    if sys.argv[1:2] == ["--one"]:
        tool, work, folder = sys.argv[2:]
        print(json.dumps(measure_here(TOOLS[tool], Task(work=WORKS[work], folder=Path(folder)))))
        return
    present = [tool.versions for tool in TOOLS.values() if not tool.missing]
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    print(f"{machine}, {torch.get_num_threads()} threads of torch; {', '.join(dict.fromkeys(present))}\n")
    print("| work | tool | training | process | train loss | val accuracy |\n|---|---|---|---|---|---|", flush=True)
    for name in sys.argv[1:] or WORKS:
        for line in rows(name):
            print(line, flush=True)


if __name__ == "__main__":
    main()
