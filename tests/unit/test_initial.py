"""Runs that begin alike have copies of one network, and are what each would be if it were prepared alone."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from frostline import initial as module
from frostline.config.compose import compose
from frostline.data import image_tree
from frostline.digest import digests
from frostline.initial import Initials
from frostline.prepare import Prepared, prepare

BASE = ("model=resnet20", "data=digits", "data.shots=2", "trainer.accelerator=cpu", "trainer.max_epochs=3")
OTHERS = (
    ["freeze=head"],
    ["freeze=lora"],
    ["freeze=full", "regularizer=l2_sp", "optimizer=adamw", "scheduler=cosine", "stopping=early"],
)


def run(*overrides: str, initials: Initials | None = None) -> Prepared:
    return prepare(compose("finetune", [*BASE, *overrides]), "finetune", initials=initials)


def told(prepared: Prepared) -> tuple[object, ...]:
    return (
        prepared.signature,
        prepared.apart_from_freeze,
        prepared.weights,
        dict(prepared.fingerprints),
        prepared.pairing,
        prepared.unfilled,
        repr(prepared.network),
        torch.get_rng_state().tolist(),
    )


@pytest.fixture
def networks_drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A mark for each network that is really drawn."""
    taken: list[str] = []
    before = module.fingerprints

    def noticing(network: torch.nn.Module) -> dict[str, str]:
        taken.append("network")
        return before(network)

    monkeypatch.setattr(module, "fingerprints", noticing)
    return taken


@pytest.mark.parametrize("others", OTHERS, ids=" ".join)
@pytest.mark.parametrize("model", [(), ("model=torchvision", "model.name=mobilenet_v3_small", "model.weights=null")])
def test_a_copy_is_the_network_that_would_have_been_drawn(
    model: tuple[str, ...], others: list[str], networks_drawn: list[str]
) -> None:
    initials = Initials()
    first = run(*model, "freeze=full", initials=initials)
    second = run(*model, *others, initials=initials)
    assert networks_drawn == ["network"]
    here = told(second)
    alone = run(*model, *others)
    assert here == told(alone)
    for name, tensor in alone.network.state_dict().items():
        assert torch.equal(second.network.state_dict()[name], tensor), name
    own, others_own = ({p.data_ptr() for p in each.network.parameters()} for each in (first, second))
    assert own.isdisjoint(others_own)
    assert {id(p) for group in second.plan.groups for p in group.parameters.values()} <= {
        id(p) for p in second.network.parameters()
    }
    assert {id(m) for stage in second.plan.stages for m in stage.modules.values()} <= {
        id(m) for m in second.network.modules()
    }


def test_what_was_trained_meanwhile_is_not_copied() -> None:
    initials = Initials()
    for freeze in ("head", "last_k"):  # the network that was drawn, and its first copy
        for tensor in run(f"freeze={freeze}", initials=initials).network.state_dict().values():
            tensor.add_(1)
    here, alone = (run("freeze=full", initials=each).network.state_dict() for each in (initials, None))
    for name, tensor in alone.items():
        assert torch.equal(here[name], tensor), name


@pytest.mark.parametrize("freeze", ["head", "lora", "ia3", "bitfit", "lp_ft"])
def test_what_never_moves_is_known_by_what_it_is(freeze: str) -> None:
    prepared = run(f"freeze={freeze}")
    state, stays = prepared.network.state_dict(), prepared.plan.never_moves()
    assert prepared.module.unmoving == digests({name: state[name] for name in state if name in stays})
    assert bool(prepared.module.unmoving) == (freeze != "lp_ft")


@pytest.mark.parametrize(
    "other",
    ["seed=1", "data.digits=[1,2]", "data.image_size=16", "data.shots=3", "model.depth=32", "data.batch_size=2"],
)
def test_what_begins_otherwise_is_drawn_anew(other: str, networks_drawn: list[str]) -> None:
    initials = Initials()
    run(initials=initials)
    here = told(run(other, initials=initials))
    assert networks_drawn == ["network"] * 2
    assert here == told(run(other))


def test_a_network_that_is_too_large_is_drawn_anew(networks_drawn: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGEST", 10)
    initials = Initials()
    first, second = run(initials=initials), run("freeze=head", initials=initials)
    assert networks_drawn == ["network"] * 2
    assert first.weights == second.weights


def test_other_examples_under_an_equal_config_are_another_beginning(tmp_path: Path, networks_drawn: list[str]) -> None:
    initials, found = Initials(), []
    for brightness in (10, 200):
        for i, split in enumerate(("train", "val", "test")):
            for j, kind in enumerate(("a", "b")):
                file = tmp_path / "images" / split / kind / "0.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (8, 8), (brightness, i, j)).save(file)
        image_tree._read.cache_clear()  # a process reads a folder once
        asked = ["data=image_folder", f"data.root={tmp_path / 'images'}", "data.image_size=8", "data.batch_size=2"]
        cfg = compose("finetune", ["model=resnet20", "trainer.accelerator=cpu", *asked])
        found.append(prepare(cfg, "finetune", initials=initials).pairing)
    assert networks_drawn == ["network"] * 2
    assert len(set(found)) == 2
