"""What a study asks for: the config of each run, composed and checked before anything heavy is imported."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from omegaconf import DictConfig

from frostline.config.compose import compose, compose_seeds
from frostline.errors import ConfigError, RequestError, problems_of
from frostline.nearest import did_you_mean
from frostline.study import PRETRAINED, STUDY, Study

QUIET = ("trainer.enable_progress_bar=false",)
"""A study has one display; Lightning's own would fight with it for the terminal."""


UNTESTED = ("trainer.limit_test_batches=0",)
"""A study that chooses by a metric of val leaves the test split alone: it is looked at once, after the choice."""


@dataclass(frozen=True, kw_only=True)
class Composed:
    """A study and the configs of its runs.

    Attributes:
        study: What was asked.
        name: The study's name, its folder's.
        overrides: More overrides, of every run.
        pretrainings: The configs of its pre-training runs, by what `init_from` calls them.
        runs: Those of all others, by arm and seed.
    """

    study: Study
    name: str
    overrides: Sequence[str]
    pretrainings: Mapping[str, DictConfig]
    runs: Mapping[tuple[str, int], DictConfig]

    @property
    def first(self) -> DictConfig:
        """The config of the first run, for what all have in common."""
        return next(iter(self.runs.values()))

    def arms(self, seed: int) -> dict[str, DictConfig]:
        """Return the configs of one seed, by arm."""
        return {arm: cfg for (arm, each), cfg in self.runs.items() if each == seed}


def composed(study: Study, name: str, overrides: Sequence[str]) -> Composed:
    """Compose every run; what is wrong with any is told at once.

    Args:
        study: What is asked.
        name: The study's name, its folder's.
        overrides: More overrides, of every run.

    Raises:
        RequestError: The request is wrong.
    """
    if seeds := [override for override in overrides if override.lstrip("+").startswith("seed=")]:
        raise RequestError(f"{seeds[0]}: a study's seeds stand in its study.yaml; change them there")
    wrong, pretrainings, arms = Wrong(study.arms), dict[str, DictConfig](), dict[str, dict[int, DictConfig]]()
    for called, own in study.pretrainings.items():
        with wrong.gathered(label_of(called)):
            pretrainings[called] = compose("pretrain", [*QUIET, *own, *overrides])
    for arm in study.arms:
        with wrong.gathered(arm_of(arm)):
            arms[arm] = _compose(study, arm, overrides)
            _refuse_unknown_pretraining(arms[arm][study.seeds[0]], study)
    wrong.refuse()
    runs = {(arm, seed): arms[arm][seed] for seed in study.seeds for arm in study.arms}
    return Composed(study=study, name=name, overrides=overrides, pretrainings=pretrainings, runs=runs)


class Wrong:
    """Gathers what is wrong with the runs of a study; what is wrong with every arm is told once.

    Args:
        arms: The arms of the study.
    """

    def __init__(self, arms: Collection[str]) -> None:
        self._arms = [arm_of(arm) for arm in arms]
        self._found: dict[str, RequestError] = {}

    @contextmanager
    def gathered(self, run: str) -> Iterator[None]:
        """Keep the refusal of this context, if there is one, for `refuse`, which names the run."""
        try:
            yield
        except RequestError as error:
            self._found[run] = error

    def refuse(self) -> None:
        """Raise what was gathered, in one error."""
        problems = {run: problems_of(error) for run, error in self._found.items()}
        of_all = [set(problems.get(arm, ())) for arm in self._arms]
        shared = set.intersection(*of_all) if len(of_all) > 1 else set()
        told = dict.fromkeys(
            problem if problem in shared else f"{run}: {problem}" for run, each in problems.items() for problem in each
        )
        if len(told) > 1 or any(isinstance(error, ConfigError) for error in self._found.values()):
            raise ConfigError(list(told))
        if told:
            raise RequestError(next(iter(told)))


def arm_of(name: str) -> str:
    """Return how an arm is named in an error."""
    return f"arm '{name}'"


def label_of(pretraining: str) -> str:
    """Return how a pre-training is shown, by what `init_from` calls it."""
    return f"pre-training {pretraining.removeprefix(STUDY)}".removesuffix(" pretrain")


@contextmanager
def named(run: str) -> Iterator[None]:
    """Put before what is wrong with a run which one it is."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError([f"{run}: {problem}" for problem in error.problems]) from error
    except RequestError as error:
        raise RequestError(f"{run}: {error}") from error


def _compose(study: Study, arm: str, overrides: Sequence[str]) -> dict[int, DictConfig]:
    """Compose the runs of an arm, by seed."""
    start = [f"init_from='{PRETRAINED}'"] if PRETRAINED in study.pretrainings else []
    chosen = [*QUIET, *(UNTESTED if study.metric.startswith("val/") else ()), *start]
    return compose_seeds("finetune", [*chosen, *study.base, *study.arms[arm], *overrides], study.seeds)


def _refuse_unknown_pretraining(cfg: DictConfig, study: Study) -> None:
    asked = str(cfg.init_from)
    if asked.startswith(STUDY) and asked not in study.pretrainings:
        known = study.pretrainings or ["none: the study has no pretrain"]
        raise RequestError(f"init_from={asked}: no such pre-training in study.yaml; {did_you_mean(asked, known)}")
