"""The arithmetic of a forecast, by hand, and the text that people read."""

from dataclasses import replace

import pytest
from rigs import SGD, Rig

from frostline.flops import ELSEWHERE, Count, Work, kind_of
from frostline.forecast import Forecast, Memory, Pace, Spell, as_text
from frostline.freeze.gradual import Gradual
from frostline.freeze.lisa import Lisa
from frostline.plan import Plan

MEMORY = Memory(parameters=40, gradients=10, state=20, activations=3)


def spells(plan: Plan, *, flops: int = 8_000) -> list[Spell]:
    """Spells of ten batches of eight examples an epoch, each as dear again as the one before."""
    return [
        Spell(
            phase=phase,
            batches=10 * (phase.stop - phase.start) // phase.per_epoch,
            examples=75 * (phase.stop - phase.start) // phase.per_epoch,
            trainable=plan.trainable(phase),
            count=Count(work={"stem": Work(forward=flops * 2**place), ELSEWHERE: Work()}, activations=0),
            memory=MEMORY,
        )
        for place, phase in enumerate(plan.phases)
    ]


def forecast(*, timed: tuple[int, ...] = (), epochs: int = 4) -> Forecast:
    """Four epochs, each thawing a stage; of the steps of some, the seconds are known: 1, 2, 4 and 8 hundredths."""
    plan = Rig(Gradual(every=1), epochs=epochs, optimizer=SGD).plan
    steps = {kind_of(plan.phases[place]): 0.01 * 2**place for place in timed}
    pace = Pace(steps=steps, opening=0.5, first=0.1, epoch=0.2, evaluation=0.05) if timed else None
    return Forecast(
        spells=spells(plan), batch_size=8, epochs=epochs, evaluations=3, tests=7, resident=1_000, processes=2, pace=pace
    )


def test_flops_are_those_of_all_examples_in_all_processes() -> None:
    assert forecast().flops == 2 * (1_000 + 2_000 + 4_000 + 8_000) * 75
    assert forecast().metrics().keys() == {"cost/predicted_train_flops", "cost/predicted_peak_memory_mb"}
    unknown = forecast().at(None, resident=0, on_gpu=False)
    assert unknown.metrics() == {"cost/predicted_train_flops": forecast().flops}


def test_seconds_are_steps_and_what_lies_between_epochs() -> None:
    whole = forecast(timed=(0, 1, 2, 3))
    assert whole.training == pytest.approx(10 * (0.01 + 0.02 + 0.04 + 0.08) + 4 * 0.1)
    assert whole.validating == pytest.approx(4 * (0.2 + 3 * 0.05))
    assert whole.wall == 0.5 + whole.training + whole.validating
    assert whole.testing == pytest.approx(7 * 0.05)
    assert whole.metrics()["cost/predicted_wall_s"] == whole.wall


def test_examples_are_read_in_the_first_epoch() -> None:
    whole = forecast(timed=(0, 1, 2, 3))
    assert whole.pace is not None
    reading = replace(whole, pace=replace(whole.pace, reading=0.03))
    assert reading.training == pytest.approx(whole.training + 10 * 0.03)


def test_what_was_not_timed_lies_between_what_was_or_grows_with_its_flops() -> None:
    between = forecast(timed=(0, 3))
    assert [round(between.step(spell), 4) for spell in between.spells] == [0.01, 0.02, 0.04, 0.08]
    alone = forecast(timed=(1,))
    assert [round(alone.step(spell), 4) for spell in alone.spells] == [0.01, 0.02, 0.04, 0.08]


def test_the_peak_is_that_of_a_step_or_of_reading_the_best_epoch_behind_the_last() -> None:
    assert forecast().peak == 1_000 + 10 + 20 + 40 + 20
    assert forecast().at(None, resident=500, on_gpu=True).peak == 500 + 10 + 20 + 3


def test_the_text_has_stages_memory_time_and_the_sum() -> None:
    text = as_text(forecast(timed=(0, 1, 2, 3)))
    assert text.splitlines()[:5] == [
        "epochs 0: 1 kFLOP per example, 75 kFLOP in all",
        "  kFLOP per example     forward  input grad  weight grad",
        "  stem                    1.000           -            -",
        "  memory  parameters 0.0 MB, gradients 0.0 MB, optimizer state 0.0 MB, activations 0.0 MB",
        "  time    10 x 10.0 ms = 0.1 s",
    ]
    assert text.splitlines()[-3:] == [
        "in all: 2.25 MFLOP of training",
        "  memory  peak 0.0 MB: 0.0 MB before, 0.0 MB to train and to keep the best epoch",
        "  time    3.8 s: start 0.5 s, steps 1.9 s, validation and checkpoints 1.4 s; then test 0.4 s",
    ]
    assert max(map(len, text.splitlines())) <= 120


def test_hundreds_of_phases_are_told_by_their_kinds() -> None:
    plan = Rig(Lisa(seed=0, active=1, interval=1), epochs=100, optimizer=SGD).plan
    assert len(plan.phases) > 50
    text = as_text(Forecast(spells=spells(plan, flops=8), batch_size=8, epochs=100, evaluations=1, tests=1))
    kinds = len({kind_of(phase) for phase in plan.phases})
    assert text.count("more of the kind") == kinds
    assert len(text.splitlines()) < 8 * kinds


def test_what_training_has_still_to_decide_is_a_bound() -> None:
    known = forecast()
    text = as_text(known.__class__(**{**vars(known), "spells": [*known.spells[:-1], open_(known.spells[-1])]}))
    assert "epochs 3, at the most: " in text
    assert "in all at the most: " in text


def open_(spell: Spell) -> Spell:
    return Spell(**{**vars(spell), "settled": False})
