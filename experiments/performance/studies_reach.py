"""The rows of `reach.py` that are whole studies: many runs as one command, with all that it does."""

import json
from collections.abc import Sequence
from pathlib import Path

from measuring import CPU, Row, command, given, images, noise, resnet20_around, seconds, train


def run_study(name: str, *, base: Sequence[str], arms: dict[str, list[str]], seeds: int = 1) -> float:
    """Run a study as a process, in a new folder, with nothing recorded or kept of others; return the seconds."""
    folder = Path(name)
    (folder / "arms").mkdir(parents=True)
    asked = {"question": "What does it take?", "base": [CPU, *base], "arms": arms, "seeds": list(range(seeds))}
    (folder / "arms" / "study.yaml").write_text(json.dumps(asked | {"reference": next(iter(arms))}))
    return command("study", "arms", folder=folder)


def image_folder(*, side: int, train: int, others: int) -> list[str]:
    """Write images to fine-tune on, so many of them for validation and as many for the test; return what names them."""
    images(Path("images"), side=side, counts={"train": train, "val": others, "test": others})
    return ["data=image_folder", f"data.root={Path('images').resolve()}", f"data.image_size={side}"]


def start_of(network, *, side: int) -> list[str]:
    """Write weights to start from, whose batch normalisation has seen images, and return what names them.

    With statistics of none, what is frozen would give numbers so large that arms diverge.
    """
    import torch

    with torch.no_grad():
        for _ in range(20):
            network.train()(noise(examples=64, side=side)[0])
    torch.save(network.state_dict(), "start.pt")
    return [f"init_from={Path('start.pt').resolve()}"]


def rates_and_decays(*, first: float, rates: int, decays: int) -> dict[str, list[str]]:
    """Return arms that differ in the optimizer alone: learning rates, each twice the one before, and weight decays."""
    return {
        f"lr{i}wd{j}": [f"optimizer.lr={first * 2**i}", f"optimizer.weight_decay={j * 1e-4}"]
        for i in range(rates)
        for j in range(decays)
    }


def heads(*, examples: int = 2048, rates: int = 8, decays: int = 4, epochs: int = 10) -> Row:
    """Train 32 heads on one backbone as a study, against one of them run alone.

    Images are of the size that the backbone is made for: of smaller ones, starting and recording would be most of both.
    """
    base = ["model=torchvision", "model.name=resnet18", "model.weights=null", "freeze=head"]
    base += [*image_folder(side=224, train=examples, others=examples // 8), f"trainer.max_epochs={epochs}"]
    arms = rates_and_decays(first=0.003, rates=rates, decays=decays)
    alone = run_study("alone", base=base, arms=dict(list(arms.items())[:1]))
    together = run_study("together", base=base, arms=arms)
    return Row(
        work=f"{len(arms)} head configurations on one ResNet-18, {examples:,} images of 224x224, {epochs} "
        "epochs, as a study",
        ours=f"{together:.1f} s, all commands and records included",
        floor=f"{alone:.1f} s, one of them alone",
        ratio=f"{together / alone:.2f}",
        reach="1.5",
    )


def study(*, examples: int = 1000, epochs: int = 10, seeds: int = 6) -> Row:
    """Fine-tune ResNet-20 in eight ways, with six seeds each, as a study, against the least that its FLOPs take.

    All runs start from the same weights, a new head aside, so that what is frozen gives the same for all arms and
    seeds. The head at the base's rate is the probe of `lp_ft`: the runs share these epochs.
    """
    from frostline.nn.cifar_resnet import CifarResNet

    others = min(examples, 128)
    base = ["model=resnet20", *start_of(CifarResNet().network(10), side=32), f"trainer.max_epochs={epochs}"]
    base += [*image_folder(side=32, train=examples, others=others), "data.batch_size=128", "optimizer.lr=0.01"]
    arms = {"full": ["freeze=full"]}
    arms |= {f"head_{lr}": ["freeze=head", f"optimizer.lr={lr}"] for lr in (0.01, 0.03, 0.1)}
    arms |= {f"last_{lr}": ["freeze=last_k", "freeze.k=1", f"optimizer.lr={lr}"] for lr in (0.003, 0.01, 0.03)}
    arms |= {"lp_ft": ["freeze=lp_ft"]}
    pieces = study_pieces(examples=examples, others=others, epochs=epochs)
    counts = {"shared": 1, "full": seeds, "last stage": 3 * seeds, "head": 3 * seeds, "lp_ft": seeds}
    least = sum(counts[name] * taken for name, taken in pieces.items())
    taken = run_study("study", base=base, arms=arms, seeds=seeds)
    told = ", ".join(f"{name} {counts[name]} x {each:.2f}" for name, each in pieces.items())
    return Row(
        work=f"{len(arms)} arms (full, 3 heads, 3 last stages, lp_ft) x {seeds} seeds of ResNet-20, {examples:,} "
        f"images of 32x32, batch 128, {epochs} epochs, as a study; validation in each epoch and the test count as work",
        ours=f"{taken:.1f} s, all of the command",
        floor=f"{least:.1f} s, each kind measured once: {told}",
        ratio=f"{taken / least:.2f}",
        reach="1.2",
    )


def study_pieces(*, examples: int, others: int, epochs: int) -> dict[str, float]:
    """Measure each kind of work of `study` once, in plain PyTorch, with its validation passes and its test pass.

    What is frozen is shared by all: the maps below the last stage of all images, and the features that the last stage
    makes of these. Of `lp_ft` it is the epochs in which everything trains; its probe is one of the heads.
    """
    from torch import nn

    batch = 128
    inputs, targets = noise(examples=examples, side=32)
    val, test = (noise(examples=others, side=32)[0] for _ in range(2))
    below, above = resnet20_around("last_stage")
    stage, head = above[:-1], above[-1]
    maps, features = [], []

    def shared() -> None:
        maps.extend(given(below, each, batch=batch) for each in (inputs, val, test))
        features.extend(given(stage, each, batch=batch) for each in maps)

    def run(network, of, *, epochs: int) -> float:
        def work() -> None:
            train(network, of[0], targets, others=of[1], epochs=epochs, batch=batch)
            given(network, of[2], batch=batch)

        return seconds(work)

    def whole():
        return nn.Sequential(*resnet20_around("last_stage"))

    run(whole(), [inputs, val, test], epochs=1)  # the first steps of a process are slow
    return {
        "shared": seconds(shared),
        "full": run(whole(), [inputs, val, test], epochs=epochs),
        "last stage": run(above, maps, epochs=epochs),
        "head": run(head, features, epochs=epochs),
        "lp_ft": run(whole(), [inputs, val, test], epochs=epochs - max(1, round(epochs / 2))),
    }


def bottleneck(*, examples: int = 256, rates: int = 8, decays: int = 2, epochs: int = 10) -> Row:
    """Train the last bottleneck of ResNet-50, and its head, in 16 arms, against the same arms run one by one.

    These are 5.3 % of the FLOPs of the forward pass. Two of the arms are run one by one, each as a process that
    computes what is frozen in every epoch, in the study's folder, where the database is there already; the others are
    taken to last as long.
    """
    from torchvision.models import resnet50

    base = ["model=torchvision", "model.name=resnet50", "model.weights=null"]
    base += start_of(resnet50(num_classes=10), side=64)
    base += [*image_folder(side=64, train=examples, others=examples // 4), "data.batch_size=32"]
    base += ["freeze=schedule", r"freeze.phases=[{train:['re:layer4\.2\..*',head]}]", f"trainer.max_epochs={epochs}"]
    arms = rates_and_decays(first=0.0001, rates=rates, decays=decays)
    together = run_study("study", base=base, arms=arms)
    two = [
        command("finetune", CPU, *base, *arm, "seed=0", "cache=off", folder=Path("study"))
        for arm in list(arms.values())[:2]
    ]
    apart = sum(two) * len(arms) / 2
    return Row(
        work=f"{len(arms)} arms that train the last bottleneck and the head of ResNet-50, {examples} images of 64x64, "
        f"batch 32, {epochs} epochs, as a study",
        ours=f"{together:.1f} s, all of the command",
        floor=f"{apart:.1f} s, one by one without what is kept: {len(arms) // 2} x two of them",
        ratio=f"{together / apart:.2f}",
        reach="0.2",
    )
