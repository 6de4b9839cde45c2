"""Prepared runs that wait hold what is equal in them once, and have tensors of their own when their turn comes."""

import pytest
import torch

from frostline import waiting as module
from frostline.config.compose import compose
from frostline.prepare import Prepared, prepare
from frostline.waiting import Waiting

BASE = ("model=resnet20", "data=digits", "data.shots=2", "trainer.accelerator=cpu", "trainer.max_epochs=3")


def run(*overrides: str) -> Prepared:
    return prepare(compose("finetune", [*BASE, *overrides]), "finetune")


def state(prepared: Prepared) -> dict[str, torch.Tensor]:
    return prepared.network.state_dict()


def places(prepared: Prepared) -> set[int]:
    return {tensor.data_ptr() for tensor in state(prepared).values() if tensor.ndim}


def test_what_is_equal_is_held_once_and_given_back_as_its_own() -> None:
    arms = {"head": run("freeze=head"), "full": run("freeze=full"), "lora": run("freeze=lora")}
    before = {arm: {name: tensor.clone() for name, tensor in state(each).items()} for arm, each in arms.items()}
    held = Waiting()
    for arm, each in arms.items():
        held.hold(arm, each)
    assert places(arms["head"]) == places(arms["full"]) < places(arms["lora"])

    for arm in arms:
        taken = held.take(arm)
        for name, tensor in state(taken).items():
            assert torch.equal(tensor, before[arm][name]), f"{arm}: {name}"
            tensor.add_(1)  # as training would; those that still wait, and those before, are none of it
    assert held.take("head") is None
    assert len(places(arms["head"]) | places(arms["full"])) == 2 * len(places(arms["full"]))
    assert places(arms["lora"]).isdisjoint(places(arms["head"]) | places(arms["full"]))


def test_what_lies_otherwise_in_memory_is_not_taken_for_equal() -> None:
    held = Waiting()
    for layout in ("false", "true"):
        held.hold(layout, run("freeze=head", f"channels_last={layout}"))
    for layout, lies in (("false", torch.contiguous_format), ("true", torch.channels_last)):
        maps = [tensor for tensor in state(held.take(layout)).values() if tensor.ndim == 4]
        assert all(tensor.is_contiguous(memory_format=lies) for tensor in maps)


def test_one_seed_has_one_first_batch() -> None:
    held = Waiting()
    for arm in ("head", "full"):
        held.hold(arm, run(f"freeze={arm}"))
    assert held.take("head").first is held.take("full").first
    held.hold("again", run("freeze=head"))
    assert held.take("again").first is not None
    assert not held._batches  # nobody waits any more


@pytest.mark.parametrize("why", ["regularizer", "room"])
def test_what_would_take_too_much_does_not_wait(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROOM", 10**9 if why == "regularizer" else 10**6)
    held = Waiting()
    held.hold("full", run("freeze=full", *(["regularizer=l2_sp"] if why == "regularizer" else [])))
    assert held.take("full") is None
