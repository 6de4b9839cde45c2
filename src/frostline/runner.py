"""Runs what is missing of a study, and records what was asked.

The study is a run of MLflow and its runs are that run's children. A run whose signature is already recorded is not run
again, so that an interrupted or widened study goes on where it stopped.
"""

import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from time import perf_counter
from typing import Any, Protocol

import yaml
from omegaconf import DictConfig
from pytorch_lightning.callbacks import Callback

from frostline.config.compose import compose
from frostline.prepare import Prepared, open_store, prepare
from frostline.record import RunRecord, Store
from frostline.run import Outcome, execute, headline
from frostline.study import Study

PRETRAINED = "study:pretrain"
"""The value of `init_from` that stands for the run that the study's `pretrain` names."""


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
    failed: list[str] = field(default_factory=list)
    reused: int = 0
    seconds: float = 0.0

    @property
    def count(self) -> int:
        """Runs that were asked for, the failed ones included."""
        return sum(map(len, self.runs.values())) + len(self.failed)


def run_study(study: Study, name: str, overrides: Sequence[str], display: Display) -> tuple[Store, str, Progress]:
    """Run what is missing of a study.

    Args:
        study: What was asked.
        name: The study's name, its folder's.
        overrides: More overrides, of every run.
        display: Where progress is shown.

    Returns:
        The store, the id of the study's run, and what became of the runs.

    Raises:
        RequestError: The request is wrong; nothing has been trained, but perhaps the pre-training.
        KeyboardInterrupt: A person interrupted; what has finished is recorded and will not run again.
    """
    arms = {arm: _compose(study, said, overrides) for arm, said in study.arms.items()}
    source = compose("pretrain", [*study.pretrain, *overrides]) if study.pretrain is not None else None
    store = open_store(next(iter(arms.values())))
    store.bury_the_dead()
    begun = perf_counter()
    progress = Progress(runs={arm: {} for arm in arms})
    with _reopened(store, name) as parent:
        parent.text("study.yaml", yaml.safe_dump(asdict(study), sort_keys=False))
        if source is not None:
            _start_from(arms, _pretrained(source, store, parent.run_id, name, display))
        for cfg in arms.values():
            prepare(_seeded(cfg, study.seeds[0]), "finetune", store)  # a wrong request is found before the first run
        for arm, seed in _order(study):
            _fill(study, progress, arms[arm], arm, seed, store, parent, name, display)
        progress.seconds = perf_counter() - begun
        parent.metrics({"study/failed": len(progress.failed), "study/reused": progress.reused})
    return store, parent.run_id, progress


def _compose(study: Study, said: Sequence[str], overrides: Sequence[str]) -> DictConfig:
    start = [f"init_from='{PRETRAINED}'"] if study.pretrain is not None else []
    return compose("finetune", [*start, *study.base, *said, *overrides])


def _order(study: Study) -> Iterator[tuple[str, int]]:
    """Yield all arms of a seed before the next seed, so that a study cut short is still balanced."""
    return ((arm, seed) for seed in study.seeds for arm in study.arms)


def _seeded(cfg: DictConfig, seed: int) -> DictConfig:
    """Return the arm's config with another seed; data follow the run's seed, as every `conf/data` says."""
    copy = cfg.copy()
    copy.seed = copy.data.seed = seed
    return copy


def _start_from(arms: Mapping[str, DictConfig], run_id: str) -> None:
    for cfg in arms.values():
        if cfg.init_from == PRETRAINED:
            cfg.init_from = run_id


def _reopened(store: Store, name: str) -> RunRecord:
    """Open this study's record: the one there is, or a new one."""
    before = store.runs(phase="study", study=name)
    if before:
        return store.reopen(before[0].info.run_id)
    return store.record(name, tags={"phase": "study", "study": name})


def _pretrained(cfg: DictConfig, store: Store, parent: str, name: str, display: Display) -> str:
    prepared = prepare(cfg, "pretrain", store)
    tags = {"study": name, "arm": "pretrain"}
    return _once(prepared, "pre-training", store, tags, parent, display)[0]


def _fill(
    study: Study,
    progress: Progress,
    cfg: DictConfig,
    arm: str,
    seed: int,
    store: Store,
    parent: RunRecord,
    name: str,
    display: Display,
) -> None:
    """Run one arm with one seed unless that is recorded; a failure is counted and the study goes on."""
    label = f"{arm} seed {seed}"
    try:
        prepared = prepare(_seeded(cfg, seed), "finetune", store)
        run_id, reused = _once(prepared, label, store, {"study": name, "arm": arm}, parent.run_id, display)
    except Exception as error:
        progress.failed.append(label)
        parent.text(f"failed/{arm}-seed{seed}.txt", traceback.format_exc())
        display.end(label, f"FAILED: {error}")
        return
    progress.runs[arm][seed] = run_id
    progress.reused += reused
    parent.json("study.json", _manifest(study, name, progress))


def _once(
    prepared: Prepared, label: str, store: Store, tags: Mapping[str, str], parent: str, display: Display
) -> tuple[str, bool]:
    """Return the id of a finished run of this signature, and whether it was there before."""
    if done := store.finished(prepared.signature):
        display.skip(label)
        return done.info.run_id, True
    follow = display.begin(label)
    outcome = execute(prepared, store, tags=tags, parent=parent, callbacks=[follow])
    display.end(label, _result(outcome))
    return outcome.run_id, False


def _result(outcome: Outcome) -> str:
    name, value = headline(outcome.metrics)
    return f"{name} {value:.4f} in {outcome.metrics['cost/wall_s']:.1f} s"


def _manifest(study: Study, name: str, progress: Progress) -> dict[str, Any]:
    """Return what a comparison needs to know of the study: what was asked, and which run answers what."""
    asked = {k: v for k, v in asdict(study).items() if k not in ("base", "pretrain")}
    return asked | {"name": name, "arms": list(study.arms), "runs": progress.runs, "failed": progress.failed}
