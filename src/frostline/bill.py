"""What a study will take, before anything of it runs: which runs are recorded, what the others cost, in which order."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from omegaconf import DictConfig

from frostline.calibration import calibrated
from frostline.errors import Mistakes, counted
from frostline.forecast import Forecast, amount, duration
from frostline.prepare import Prepared, Preparing, Verb, tracking_of
from frostline.store import Store
from frostline.study_configs import Composed, label_of
from frostline.study_runs import awaiting, prepared_arms, refuse_unknown_metric, start_from

EACH = 4.0
"""Seconds that the rehearsals of an arm may train."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One run of a study.

    Attributes:
        arm: Its arm, or what a pre-training is called.
        seed: Its seed; None for a pre-training.
        recorded: Whether a run of this signature has finished, so that the study will not run it again.
        forecast: What it takes; as that of the arm's other seeds, where one of them was looked at.
    """

    arm: str
    seed: int | None
    recorded: bool
    forecast: Forecast | None


@dataclass(kw_only=True)
class _Estimate:
    """Makes the items of a bill."""

    store: Store | None
    prepare: Preparing
    forecasts: dict[str, Forecast]

    def item(self, cfg: DictConfig, verb: Verb, arm: str, seed: int | None, *, fresh: bool) -> tuple[Item, str | None]:
        """Return a run's item and, where it is recorded, its id.

        Args:
            cfg: Its config.
            verb: What it does.
            arm: Its arm.
            seed: Its seed.
            fresh: Whether it cannot be recorded, since what it starts from is not.
        """
        prepared = None
        if not fresh and self.store is not None:
            prepared = self.prepare(cfg, verb)
            if done := self.store.finished(prepared.signature):
                return Item(arm=arm, seed=seed, recorded=True, forecast=None), str(done.info.run_id)
        if arm not in self.forecasts:
            self.forecasts[arm] = self._forecast(prepared or self.prepare(cfg, verb, awaited=fresh))
        return Item(arm=arm, seed=seed, recorded=False, forecast=self.forecasts[arm]), None

    def _forecast(self, prepared: Prepared) -> Forecast:
        return calibrated(prepared, seconds=EACH)


def items_of(asked: Composed) -> Iterator[Item]:
    """Yield the runs of a study in the order in which it takes them; nothing is trained or recorded.

    Where a pre-training has not run, what starts from it is forecast without its weights: they cost the same.

    Raises:
        RequestError: The request is wrong; of all pre-trainings, then of all arms, it is told at once.
    """
    refuse_unknown_metric(asked)
    store = Store.reading(tracking_of(asked.first), asked.first.experiment_name)
    estimate = _Estimate(store=store, prepare=Preparing(store), forecasts={})
    ids, mistakes = dict[str, Any](), Mistakes(alike=map(label_of, asked.pretrainings))
    for called, cfg in asked.pretrainings.items():
        with mistakes.gathered(label_of(called)):
            item, ids[called] = estimate.item(cfg, "pretrain", label_of(called), None, fresh=False)
            yield item
    mistakes.refuse()
    fresh = awaiting(asked.runs, ids)
    start_from(asked.runs.values(), ids)
    for _ in prepared_arms(asked, estimate.prepare, {arm for arm, seed in fresh if seed == asked.study.seeds[0]}):
        pass  # what is wrong with any arm is told behind the last
    for (arm, seed), cfg in asked.runs.items():
        item, _ = estimate.item(cfg, "finetune", arm, seed, fresh=(arm, seed) in fresh)
        yield item


def as_text(name: str, items: Sequence[Item]) -> str:
    """Return the bill as plain text: what each arm takes, the sum, and the order of runs."""
    done = sum(item.recorded for item in items)
    rows: list[tuple[str, ...]] = [("arm", "runs", "recorded", "to run", "FLOPs each", "time each", "FLOPs", "time")]
    rows += [_row(arm, [item for item in items if item.arm == arm]) for arm in dict.fromkeys(i.arm for i in items)]
    rows.append(_row("in all", items, whole=True))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = [
        f"{row[0]:{widths[0]}}" + "".join(f"  {c:>{w}}" for c, w in zip(row[1:], widths[1:], strict=True))
        for row in rows
    ]
    title = f"study '{name}': {counted(len(items), 'run')}, {done} recorded, {len(items) - done} to run"
    return "\n".join([title, *table, "", *_notes(items), *_order(items)]) + "\n"


def _row(arm: str, items: Sequence[Item], *, whole: bool = False) -> tuple[str, ...]:
    due = [item.forecast for item in items if item.forecast is not None]
    done, sign = len(items) - len(due), "" if all(forecast.settled for forecast in due) else "<= "
    each = (sign + amount(due[0].flops), _seconds(due[:1])) if due and not whole else ("", "")
    sums = (sign + amount(sum(f.flops for f in due)), _seconds(due)) if due else ("-", "-")
    return arm, str(len(items)), str(done), str(len(due)), *each, *sums


def _seconds(forecasts: Sequence[Forecast]) -> str:
    """Return how long runs take, from the first step to the end of the test, those that were not timed left out."""
    timed = [forecast for forecast in forecasts if forecast.pace is not None]
    partial, settled = len(timed) < len(forecasts), all(forecast.settled for forecast in forecasts)
    if not timed or (partial and not settled):
        return "?"
    sign = ">= " if partial else "" if settled else "<= "
    return sign + duration(sum(forecast.wall + forecast.testing for forecast in timed))


def _notes(items: Sequence[Item]) -> Iterator[str]:
    if sum(item.forecast is not None for item in items) > 1:
        yield "each run is billed as if it were alone: what runs share of this is spent once"
    waiting = [item.arm for item in items if item.seed is None and not item.recorded]
    if waiting:
        have = "has" if len(waiting) == 1 else "have"
        yield f"{', '.join(waiting)} {have} not run: part of the bill, and what starts from there is counted without"


def _order(items: Sequence[Item]) -> Iterator[str]:
    """Yield the order of what is to run: all arms of a seed come before the next seed."""
    yield "order of runs:"
    due = {
        "first" if seed is None else f"seed {seed}": [i.arm for i in items if i.seed == seed and not i.recorded]
        for seed in dict.fromkeys(item.seed for item in items)
    }
    for arms, alike in groupby(due, key=due.__getitem__):
        if arms:
            yield f"  {', '.join(alike)}: {', '.join(arms)}"
    if not any(due.values()):
        yield "  none: every run is recorded"
