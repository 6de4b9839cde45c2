"""A cut is proved once in a process for equal networks, and anew for any other."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from omegaconf import DictConfig

from frostline.cache import cuts
from frostline.cache.cut import Cut
from frostline.cache.prefix import Size
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


@pytest.mark.parametrize(
    "other",
    [
        "seed=1",
        "freeze=last_k",
        "model.depth=32",
        "data.image_size=16",
        "channels_last=true",
        "trainer.precision=bf16-mixed",
    ],
)
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


@pytest.mark.parametrize("freeze", ["freeze=head", "freeze=lp_ft", "freeze=last_k freeze.k=2", "freeze=bitfit"])
def test_a_name_is_that_of_the_weights_whether_or_not_they_were_hashed_before(freeze: str) -> None:
    prepared = prepare(compose("finetune", [*ASKED, *freeze.split()]), "finetune")
    assert bool(prepared.cuts.known) == (freeze != "freeze=lp_ft")  # which trains everything in the end
    names = set()
    for each in (prepared.cuts, replace(prepared.cuts, known={})):
        found = each.of(prepared.plan, prepared.plan.phases[0]) if freeze != "freeze=bitfit" else None
        names.add(each.names(prepared.plan, found or cut()).of("train", 0))
    assert len(names) == 1
    with torch.no_grad():
        prepared.network.conv1.weight.add_(1)
    moved = replace(prepared.cuts, known={})
    assert moved.names(prepared.plan, cut()).of("train", 0) not in names


@pytest.mark.parametrize(("size", "at_once"), [(8, 96), (300, 4)])
@pytest.mark.parametrize("batch_size", [1, 128])
def test_a_processor_computes_as_many_at_once_whatever_is_trained_on(size: int, at_once: int, batch_size: int) -> None:
    asked = [*ASKED, f"data.image_size={size}", f"data.batch_size={batch_size}"]
    prepared = prepare(compose("finetune", asked), "finetune")
    assert prepared.cuts.at_once(prepared.data.drawn("train")) == at_once


@pytest.mark.parametrize(("longest", "at_once"), [(16, 96), (512, 8), (10_000, 1)])
def test_of_long_texts_fewer_are_computed_at_once(longest: int, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = prepare(compose("finetune", ASKED), "finetune")
    train = prepared.data.drawn("train")
    monkeypatch.setattr(type(train), "longest", longest)
    assert prepared.cuts.at_once(train) == at_once


@pytest.mark.parametrize(
    ("asked", "innermost", "dtype"),
    [
        ((), False, torch.float32),
        (("channels_last=true",), True, torch.float32),
        (("trainer.precision=bf16-mixed",), False, torch.bfloat16),
        (("trainer.precision=bf16",), False, torch.bfloat16),
    ],
)
def test_maps_are_kept_as_the_network_lays_them_out_and_rounds_them(
    asked: tuple[str, ...], innermost: bool, dtype: torch.dtype
) -> None:
    found = cut("freeze=last_k", *asked)
    assert isinstance(found, Cut)
    (shape,) = found.shapes(Size(3, 0))
    assert (shape.channels_last, shape.dtype) == (innermost, dtype)


def test_a_cut_that_is_first_asked_for_while_lightning_evaluates_is_the_same(proofs: list[object]) -> None:
    prepared = prepare(compose("finetune", [*ASKED, "freeze=last_k"]), "finetune")
    assert prepared.cuts is not None
    with torch.inference_mode():
        found = prepared.cuts.of(prepared.plan, prepared.plan.phases[0])
    assert len(proofs) == 1
    cuts._PROVED.clear()
    assert found == cut("freeze=last_k")
