"""Which runs begin alike, and how far."""

from pathlib import Path

import pytest
import torch
from workplace import TINY

from frostline.beginnings import Beginnings, Course, course_of, names_for, those_that_share
from frostline.config.compose import compose
from frostline.interruption import LAST
from frostline.prepare import prepare
from frostline.together.kin import kin_of

BASE = (*TINY, "data.digits=[3,4]", "trainer.max_epochs=6", "cache=off")
PROBE, GRADUAL = ("freeze=lp_ft", "freeze.probe=0.5"), ("freeze=gradual", "freeze.every=2")


def course(*overrides: str) -> Course:
    return course_of(prepare(compose("finetune", [*BASE, *overrides]), "finetune"))


@pytest.mark.parametrize(
    ("one", "other", "epochs"),
    [
        (PROBE, (*PROBE, "freeze.rate=0.1"), 3),
        (PROBE, GRADUAL, 2),
        (GRADUAL, (*GRADUAL, "freeze.ratio=1.0"), 2),
        (PROBE, ("freeze=head",), 3),
        (("freeze=head",), ("freeze=gradual", "freeze.every=9"), 5),
        (("trainer.max_epochs=7", "freeze=chain_thaw"), ("trainer.max_epochs=7", *PROBE), 1),
        (PROBE, PROBE, 0),
        (PROBE, ("freeze=full",), 0),
        (PROBE, (*GRADUAL, "optimizer.lr=0.5"), 0),
        (PROBE, (*GRADUAL, "seed=1"), 0),
        (PROBE, (*GRADUAL, "trainer.max_epochs=7"), 0),
        (PROBE, (*GRADUAL, "data.augment=true"), 0),
        (PROBE, (*GRADUAL, "freeze.norm_stats=running"), 0),
        (PROBE, (*GRADUAL, "freeze.norm_affine=train"), 0),
        (("freeze=layer_decay",), ("freeze=layer_decay", "freeze.decay=0.5"), 0),
        (("freeze=lora",), ("freeze=lora", "freeze.rank=2"), 0),
    ],
    ids=str,
)
def test_runs_share_the_epochs_in_which_the_same_trains_at_the_same_rates(
    one: tuple[str, ...], other: tuple[str, ...], epochs: int
) -> None:
    assert course(*one).shares(course(*other)) == course(*other).shares(course(*one)) == epochs


@pytest.mark.parametrize(("cache", "epochs"), [("off", 1), ("require", 1), ("auto", 0)])
def test_runs_share_only_what_both_compute_or_are_both_given(cache: str, epochs: int) -> None:
    """What frozen stages give is kept from the second epoch of a phase on; a probe of one epoch keeps nothing."""
    asked = f"cache={cache}"
    assert course(*PROBE, asked).shares(course("freeze=lp_ft", "freeze.probe=0.17", asked)) == epochs
    assert course(*PROBE, asked).shares(course(*PROBE, "freeze.rate=0.1", asked)) == 3


@pytest.mark.parametrize(
    "overrides",
    [
        ("freeze=auto_rgn",),
        ("freeze=freezeout",),
        ("freeze=full", "trainer.max_epochs=1"),
        ("freeze=full", "trainer.max_epochs=0"),
        ("freeze=full", "+trainer.callbacks=[{_target_: pytorch_lightning.callbacks.Timer}]"),
        ("freeze=full", "trainer.devices=2"),
        ("freeze=schedule", "freeze.phases=[{train: [head]}, {train: [all], plateau: {patience: 1}}]"),
    ],
    ids=str,
)
def test_what_is_not_known_beforehand_epoch_by_epoch_is_not_shared(overrides: tuple[str, ...]) -> None:
    assert not course(*overrides).names


def test_what_was_trained_for_one_run_is_the_beginning_of_no_other(tmp_path: Path) -> None:
    here = Beginnings(tmp_path / "beginnings")
    told = {"run_id": "r", "arm": "a", "step": 1, "logged": {}}
    here.leave("short", lambda folder: None, **told)
    here.leave("long", lambda folder: None, **told, own="mine")
    mine, another = (here.longest(Course(signature=each, names=["short", "long"])) for each in ("mine", "another"))
    assert (mine and mine.folder.name, another and another.folder.name) == ("long", "short")
    here.clear()
    assert (tmp_path / "beginnings" / "long").exists()
    assert not (tmp_path / "beginnings" / "short").exists()


def test_a_beginning_that_was_cut_short_is_none(tmp_path: Path) -> None:
    here, course = Beginnings(tmp_path), Course(signature="s", names=["a"])
    told = {"run_id": "r", "arm": "a", "step": 1, "logged": {}}
    here.leave("a", lambda folder: torch.save({"w": torch.zeros(9)}, folder / LAST), **told)
    assert here.longest(course)
    whole = (tmp_path / "a" / LAST).read_bytes()
    (tmp_path / "a" / LAST).write_bytes(whole[: len(whole) // 2])
    assert here.longest(course) is None


@pytest.mark.parametrize("own", ["+optimizer.foreach=true", "optimizer.nesterov=true", "optimizer.lr=0.5", "seed=3"])
def test_kin_may_differ_in_any_setting_of_the_optimizer_and_in_the_seed(own: str) -> None:
    one, other = compose("finetune", [*BASE]), compose("finetune", [*BASE, own])
    assert kin_of(one) == kin_of(other)
    assert kin_of(one) != kin_of(compose("finetune", [*BASE, "optimizer=adamw"]))
    assert kin_of(one) != kin_of(compose("finetune", [*BASE, "data.batch_size=3"]))


def test_what_is_left_is_what_others_will_begin_with() -> None:
    here = Course(signature="1", names=["a", "b", "c"])
    others = {
        "two": Course(signature="2", names=["a", "b", "x"]),
        "three": Course(signature="3", names=["a", "b", "y"]),
        "one": Course(signature="4", names=["a", "z", "c"]),
        "none": Course(signature="5", names=["x", "b", "c"]),
        "same": Course(signature="1", names=["a", "b", "c"]),
    }
    assert names_for(here, others.values()) == {0: "a", 1: "b"}
    assert set(those_that_share({"here": here, **others})) == {"here", "one", "two", "three", "same"}
    assert not names_for(here, [])
