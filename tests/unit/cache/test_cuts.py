"""A cut is proved once in a process for equal networks, and anew for any other."""

from collections.abc import Callable

import pytest
import torch
from omegaconf import DictConfig

from frostline.cache import cuts
from frostline.config.compose import compose
from frostline.prepare import Prepared, prepare

ASKED = ["model=resnet20", "data=digits", "data.image_size=8", "data.shots=2", "data.val_shots=2", "freeze=head"]


@pytest.fixture
def proofs(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What was searched for a cut, with nothing proved before."""
    searched: list[object] = []
    find = cuts.find_cut

    def noticing(*asked: object, **more: object) -> object:
        searched.append(asked[0])
        return find(*asked, **more)

    monkeypatch.setattr(cuts, "find_cut", noticing)
    monkeypatch.setattr(cuts, "_PROVED", {})
    return searched


def cut(*overrides: str, changed: Callable[[Prepared], None] = lambda _: None) -> object:
    cfg: DictConfig = compose("finetune", [*ASKED, *overrides])
    prepared = prepare(cfg, "finetune")
    changed(prepared)
    assert prepared.cuts is not None
    return prepared.cuts.of(prepared.plan, prepared.plan.phases[0])


def test_arms_that_begin_as_equal_networks_share_the_proof(proofs: list[object]) -> None:
    assert cut() == cut("optimizer.lr=0.5") == cut("trainer.max_epochs=7")
    assert len(proofs) == 1


@pytest.mark.parametrize("other", ["seed=1", "freeze=last_k", "model.depth=32", "data.image_size=16"])
def test_another_network_place_or_example_is_proved_anew(other: str, proofs: list[object]) -> None:
    cut()
    cut(other)
    assert len(proofs) == 2


def test_weights_that_have_moved_are_proved_anew(proofs: list[object]) -> None:
    def move(prepared: Prepared) -> None:
        with torch.no_grad():
            prepared.network.linear.bias.add_(1)

    cut()
    cut(changed=move)
    assert len(proofs) == 2


def test_a_network_that_somebody_listens_to_is_asked_again_and_tells_nothing_of_others(proofs: list[object]) -> None:
    def listen(prepared: Prepared) -> None:
        prepared.network.layer1.register_forward_hook(lambda *_: None)

    for _ in range(2):
        with pytest.raises(cuts.NotKept, match="something looks at what 'layer1' gives while training"):
            cut(changed=listen)
        assert cut()
    assert len(proofs) == 3
