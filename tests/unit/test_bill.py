"""What a study's bill says of its runs, from forecasts by hand."""

from dataclasses import replace

from test_forecast import forecast

from frostline.bill import Item, as_text
from frostline.forecast import Forecast

SHARED = "each run is billed as if it were alone: what runs share of this is spent once"
TIMED = forecast(timed=(0, 1, 2, 3))
"""2.25 MFLOP in 4.15 s: 1.9 s of steps, 1.4 s between epochs and 0.5 s before them; the test takes 0.35 s."""
UNTIMED = forecast()
"""As many FLOPs, in a time that no rehearsal tells, as where nothing trains."""


def item(arm: str, seed: int | None = 0, *, due: Forecast | None = None) -> Item:
    return Item(arm=arm, seed=seed, recorded=due is None, forecast=due)


def test_what_no_rehearsal_timed_is_left_out_of_the_time_and_that_is_said() -> None:
    items = [item(arm, seed, due=due) for seed in (0, 1) for arm, due in (("full", TIMED), ("none", UNTIMED))]
    assert as_text("question", items) == (
        "study 'question': 4 runs, 0 recorded, 4 to run\n"
        "arm     runs  recorded  to run  FLOPs each  time each      FLOPs      time\n"
        "full       2         0       2  2.25 MFLOP      4.1 s  4.5 MFLOP     8.3 s\n"
        "none       2         0       2  2.25 MFLOP          ?  4.5 MFLOP         ?\n"
        "in all     4         0       4                           9 MFLOP  >= 8.3 s\n"
        "\n"
        f"{SHARED}\n"
        "order of runs:\n"
        "  seed 0, seed 1: full, none\n"
    )


def test_an_arm_of_which_one_run_was_timed_takes_at_least_that() -> None:
    (_, _, row, total, *_) = as_text(
        "question", [item("full", 0, due=TIMED), item("full", 1, due=UNTIMED)]
    ).splitlines()
    assert row.endswith(">= 4.1 s")
    assert total.endswith(">= 4.1 s")


def test_a_sum_that_may_be_less_or_more_is_not_given() -> None:
    opened = replace(TIMED, spells=[replace(spell, settled=False) for spell in TIMED.spells])
    _, _, one, _, total, *_ = as_text("question", [item("auto", due=opened), item("none", due=UNTIMED)]).splitlines()
    assert one.endswith("<= 4.1 s")
    assert total.endswith("<= 4.5 MFLOP  " + " " * 7 + "?")


def test_a_note_on_what_runs_share_needs_two_that_are_to_run() -> None:
    assert SHARED in as_text("question", [item("full", due=TIMED), item("head", due=TIMED)])
    assert SHARED not in as_text("question", [item("full", due=TIMED), item("head")])
    assert SHARED not in as_text("question", [item("full"), item("head")])


def test_a_pre_training_that_has_not_run_is_part_of_the_bill() -> None:
    items = [item("pre-training", None, due=TIMED), item("full", due=TIMED)]
    assert as_text("question", items).splitlines()[-5:] == [
        SHARED,
        "pre-training has not run: part of the bill, and what starts from there is counted without",
        "order of runs:",
        "  first: pre-training",
        "  seed 0: full",
    ]
