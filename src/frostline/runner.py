"""Runs what is missing of a study, and records what was asked.

The study is a run of MLflow and its runs are that run's children. A run whose signature is already recorded is not run
again, so that an interrupted or widened study goes on where it stopped. What runs have in common is trained once.
"""

import traceback
from collections.abc import Collection, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from socket import gethostname
from typing import Any, Protocol

import yaml
from omegaconf import DictConfig
from pytorch_lightning.callbacks import Callback

from frostline.beginnings import Beginning, Beginnings, Course, Leaving, course_of, names_for, those_that_share
from frostline.errors import RequestError
from frostline.interruption import LAST, Continued
from frostline.memory import look_past_what_is_loaded
from frostline.modules import headline
from frostline.prepare import Prepared, Preparing, open_store, prepare
from frostline.record import RunRecord
from frostline.run import Outcome, checkpoints, execute, folder_of
from frostline.store import Run, Store
from frostline.study import STUDY
from frostline.study_configs import Composed, label_of
from frostline.study_runs import (
    prepared_arms,
    prepared_pretrainings,
    refuse_before_pretraining,
    refuse_unknown_metric,
    start_from,
)
from frostline.together.kin import ToCome, goes_with, share_what_is_frozen, takes_others
from frostline.together.taking_along import MOST, TakingAlong
from frostline.waiting import Waiting


class Display(Protocol):
    """Shows a study's progress to a person."""

    def begin(self, name: str) -> Callback:
        """A run begins; return a callback that follows it."""

    def end(self, name: str, result: str) -> None:
        """A run has ended, with this result."""

    def skip(self, name: str) -> None:
        """A run was recorded before."""


@dataclass(kw_only=True)
class Progress:
    """What became of the study's runs so far."""

    runs: dict[str, dict[int, str]]
    pretrained: dict[str, str] = field(default_factory=dict)
    """The ids of the pre-training runs, by what `init_from` calls them."""
    failed: list[str] = field(default_factory=list)
    reused: int = 0

    @property
    def count(self) -> int:
        """Runs that were asked for, those of pre-training and the failed ones included."""
        return len(self.pretrained) + sum(map(len, self.runs.values())) + len(self.failed)


@dataclass(kw_only=True)
class _StudyRun:
    """A study that is being run."""

    asked: Composed
    store: Store
    parent: RunRecord
    display: Display
    progress: Progress
    prepare: Preparing
    beginnings: Beginnings
    to_come: ToCome
    sharing: Collection[str] = ()
    """The arms whose runs begin like those of other arms."""
    waiting: Waiting = field(default_factory=Waiting)
    """The runs of this seed that are prepared, or were taken along by an earlier one and have still to finish."""

    def pretrain(self, pretrainings: MutableMapping[str, Prepared]) -> None:
        """Run the pre-trainings that are not recorded."""
        for called in list(pretrainings):  # none is held once it has run
            run_id, reused = self.once(pretrainings.pop(called), label_of(called), called.removeprefix(STUDY))
            self.progress.pretrained[called] = run_id
            self.progress.reused += reused

    def fill_all(self, configs: Mapping[str, DictConfig], seed: int, courses: Mapping[str, Course]) -> None:
        """Run all arms with one seed; what those of these courses have in common is trained by the first of them."""
        ahead = {arm: course for arm, course in courses.items() if not self.store.finished(course.signature)}
        for arm, cfg in configs.items():
            ahead.pop(arm, None)
            self.to_come.begins(arm, seed)
            self.fill(cfg, arm, seed, alike=ahead.values() if arm in courses else None)
        self.beginnings.clear()
        self.waiting.clear()
        self.prepare.clear()

    def fill(self, cfg: DictConfig, arm: str, seed: int, *, alike: Collection[Course] | None) -> None:
        """Run one arm with one seed unless that is recorded; a failure is counted and the study goes on.

        Args:
            cfg: The run's config.
            arm: Its arm.
            seed: Its seed.
            alike: Runs to come that may begin alike; None where no run of the study does.
        """
        label = f"{arm} seed {seed}"
        try:
            prepared = self.waiting.take(arm) or self.prepare(cfg)
            run_id, reused = self.once(prepared, label, arm, alike=alike)
            self.progress.runs[arm][seed] = run_id
            self.progress.reused += reused
        except Exception as error:
            self.progress.failed.append(label)
            self.parent.text(f"failed/{arm}-seed{seed}.txt", traceback.format_exc())
            self.display.end(label, f"FAILED: {error}")
        self.parent.json("study.json", self.manifest())

    def once(
        self, prepared: Prepared, label: str, arm: str, *, alike: Collection[Course] | None = None
    ) -> tuple[str, bool]:
        """Return the id of a finished run of this signature, and whether it was there before."""
        if done := self.store.finished(prepared.signature):
            self.display.skip(label)
            return done.info.run_id, True
        outcome, beginning = self.trained(prepared, label, arm, alike=alike or ())
        self.display.end(label, _result(outcome, beginning))
        return outcome.run_id, False

    def trained(
        self, prepared: Prepared, label: str, arm: str, *, alike: Collection[Course]
    ) -> tuple[Outcome, Beginning | None]:
        """Train a run, from the start, from where it was interrupted, or from what another run has left for it.

        Returns:
            What it came to, and what another run had left.
        """
        begun = self.begun(prepared.signature)
        course = course_of(prepared) if alike or not self.beginnings.empty else Course(signature=prepared.signature)
        beginning = None if begun and (begun.folder / LAST).exists() else self.beginnings.longest(course)
        leaving = Leaving(self.beginnings, names_for(course, alike), store=self.store, arm=arm)
        others = [] if begun or beginning else self.taken_along(prepared, arm)
        along = [TakingAlong(prepared, others, beginnings=self.beginnings, arm=arm)] if others else []
        try:
            outcome = execute(
                prepared,
                self.store,
                tags={"study": self.asked.name, "arm": arm} | (beginning.tags if beginning else {}),
                parent=self.parent.run_id,
                callbacks=[self.display.begin(label), leaving, *along],
                continued=beginning.for_run(begun.run_id if begun else None) if beginning else begun,
            )
        finally:
            for each in along:
                each.let_go()
        for reason in filter(None, (each.why_not for each in along)):
            self.to_come.keep_apart(arm, prepared.cfg.seed)
            self.parent.text(f"apart/{arm}-seed{prepared.cfg.seed}.txt", reason)
        return outcome, beginning

    def taken_along(self, prepared: Prepared, arm: str) -> list[Prepared]:
        """Return the runs that one takes along: what is wrong with one of them is told when its turn comes.

        Those of other seeds are prepared again then: until their turn they would each hold a network. Those from which
        other arms will begin train by themselves.
        """
        if not takes_others(prepared):
            return []
        own, found = int(prepared.cfg.seed), dict[tuple[str, int], Prepared]()
        kin = [
            (run, cfg) for run, cfg in self.to_come.kin(arm, own).items() if run[1] == own or run[0] not in self.sharing
        ]
        for (other, seed), cfg in kin[:MOST]:
            with suppress(Exception):
                here = self.waiting.look(other) if seed == own else None
                run = here or (self.prepare(cfg) if seed == own else prepare(cfg, "finetune", self.store))
                if goes_with(prepared, run) and self.is_untrained(run):
                    if seed == own:
                        self.waiting.hold(other, run)
                    share_what_is_frozen(prepared, run)
                    found[other, seed] = run
        return list(found.values())

    def is_untrained(self, prepared: Prepared) -> bool:
        """Tell whether nothing of a run has been trained, by itself or along with another one."""
        if self.store.finished(prepared.signature) or self.begun(prepared.signature):
            return False
        beginning = None if self.beginnings.empty else self.beginnings.longest(course_of(prepared))
        return not (beginning and beginning.own)

    def begun(self, signature: str) -> Continued | None:
        """Return this study's run of this signature that was interrupted, to go on with it."""
        runs = self.store.runs(signature=signature, study=self.asked.name)
        killed = next((run.info.run_id for run in runs if run.info.status == "KILLED"), None)
        return None if killed is None else Continued(run_id=killed, folder=checkpoints(self.store, killed))

    def courses(self, configs: Mapping[str, DictConfig], arms: Collection[str]) -> dict[str, Course]:
        """Return the courses of some arms' runs; what is wrong with one is told when its turn comes."""
        found = {}
        for arm in arms:
            with suppress(Exception):
                prepared = self.prepare(configs[arm])
                found[arm] = course_of(prepared)
                self.waiting.hold(arm, prepared)
        return found

    def close(self) -> None:
        """Record what the runs came to together, and what they shared."""
        runs = [self.store.run(run_id) for seeds in self.progress.runs.values() for run_id in seeds.values()]
        own = [run for run in runs if run.data.tags.get("frostline.study") == self.asked.name]
        shared = [_shared(run) for run in own if "frostline.forked_at" in run.data.tags]
        together = [_together(run) for run in own if "frostline.trained_with" in run.data.tags]
        self.parent.json("shared.json", [*shared, *together])
        given = sum(run.data.metrics.get("cost/prefix_given", 0.0) for run in own)
        spared = {"study/shared_flops": sum(each["flops"] for each in shared), "study/prefix_given": given}
        self.parent.metrics({"study/failed": len(self.progress.failed), "study/reused": self.progress.reused, **spared})
        self.beginnings.close()

    def manifest(self) -> dict[str, Any]:
        """Return what a comparison needs to know: what was asked, and which run answers what."""
        study = self.asked.study
        asked = {k: v for k, v in asdict(study).items() if k not in ("base", "pretrain")}
        found = {"runs": self.progress.runs, "failed": self.progress.failed, "overrides": list(self.asked.overrides)}
        return asked | {"name": self.asked.name, "arms": list(study.arms)} | found


def run_study(asked: Composed, display: Display) -> tuple[Store, str, Progress]:
    """Run what is missing of a study.

    Args:
        asked: The study, with the config of each run.
        display: Where progress is shown.

    Returns:
        The store, the id of the study's run, and what became of the runs.

    Raises:
        RequestError: The request is wrong; nothing has been trained, unless only the weights of a pre-training told.
        KeyboardInterrupt: A person interrupted; what has finished is recorded and will not run again.
    """
    refuse_unknown_metric(asked)
    store = open_store(asked.first)
    store.bury_the_dead()
    look_past_what_is_loaded()
    pretrainings = prepared_pretrainings(asked, store)
    refuse_before_pretraining(asked, pretrainings, store)
    progress = Progress(runs={arm: {} for arm in asked.study.arms})
    with _reopened(store, asked.name) as parent:
        parent.text("study.yaml", yaml.safe_dump(asdict(asked.study), sort_keys=False))
        running = _StudyRun(
            asked=asked,
            store=store,
            parent=parent,
            display=display,
            progress=progress,
            prepare=Preparing(store),
            beginnings=Beginnings(folder_of(parent.run_id) / "beginnings"),
            to_come=ToCome(asked.runs),
        )
        running.pretrain(pretrainings)
        start_from(asked.runs.values(), progress.pretrained)
        _run_all(running)
    return store, parent.run_id, progress


def _run_all(running: _StudyRun) -> None:
    """Run all arms of a seed before those of the next: a study that is cut short is still balanced."""
    first, *others = running.asked.study.seeds
    courses = those_that_share(_refuse_wrong_arms(running))
    running.sharing = courses.keys()
    running.fill_all(running.asked.arms(first), first, courses)
    for seed in others:
        runs = running.asked.arms(seed)
        running.fill_all(runs, seed, running.courses(runs, courses))
    running.close()


def _refuse_wrong_arms(running: _StudyRun) -> dict[str, Course]:
    """Find what is wrong with any arm before the first run; return how each begins with the first seed."""
    courses = {}
    for arm, prepared in prepared_arms(running.asked, running.prepare):
        courses[arm] = course_of(prepared)
        running.waiting.hold(arm, prepared)
    running.prepare.clear()  # those that do not wait are prepared one by one
    return courses


def _reopened(store: Store, name: str) -> RunRecord:
    """Open this study's record: the one there is, or a new one."""
    before = store.runs(phase="study", study=name)
    if before and before[0].info.status == "RUNNING" and before[0].data.tags.get("frostline.host") == gethostname():
        raise RequestError(
            f"study '{name}': process {before[0].data.tags['frostline.pid']} is running it; wait for it or end it first"
        )
    if before:
        return store.reopen(before[0].info.run_id)
    return store.record(name, tags={"phase": "study", "study": name})


def _result(outcome: Outcome, beginning: Beginning | None) -> str:
    name, value = headline(outcome.metrics)
    seconds = outcome.metrics["cost/wall_s"] - outcome.metrics["cost/shared_wall_s"]
    return f"{name} {value:.4f} in {seconds:.1f} s{f', {beginning}' if beginning else ''}"


def _who(run: Run) -> dict[str, Any]:
    tags = run.data.tags
    return {"run": run.info.run_id, "arm": tags["frostline.arm"], "seed": int(tags["frostline.seed"])}


def _together(run: Run) -> dict[str, Any]:
    """Say which run a run was trained along with, and up to where."""
    tags = run.data.tags
    until = int(tags["frostline.trained_with_until"])
    return {**_who(run), "trained_with": tags["frostline.trained_with"], "until_step": until}


def _shared(run: Run) -> dict[str, Any]:
    """Say which run a run began from, where, and what was not spent again."""
    tags, metrics = run.data.tags, run.data.metrics
    return {
        **_who(run),
        "from": tags["frostline.forked_from"],
        "step": int(tags["frostline.forked_at"]),
        "flops": metrics["cost/shared_flops"],
        "wall_s": metrics["cost/shared_wall_s"],
    }
