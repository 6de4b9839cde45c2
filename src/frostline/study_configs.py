"""What a study asks for: the config of each run, composed and checked before anything heavy is imported."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from omegaconf import DictConfig

from frostline.config.compose import compose, compose_seeds
from frostline.errors import Mistakes, RequestError
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
    mistakes, pretrainings, arms = mistakes_of(study), dict[str, DictConfig](), dict[str, dict[int, DictConfig]]()
    for called, own in study.pretrainings.items():
        with mistakes.gathered(label_of(called)):
            pretrainings[called] = compose("pretrain", [*QUIET, *own, *overrides])
    for arm in study.arms:
        with mistakes.gathered(arm_of(arm)):
            arms[arm] = _compose(study, arm, overrides)
            _refuse_unknown_pretraining(arms[arm][study.seeds[0]], study)
    mistakes.refuse()
    runs = {(arm, seed): arms[arm][seed] for seed in study.seeds for arm in study.arms}
    return Composed(study=study, name=name, overrides=overrides, pretrainings=pretrainings, runs=runs)


def mistakes_of(study: Study) -> Mistakes:
    """Return what gathers the mistakes of a study's runs; what is wrong with every arm is told once."""
    return Mistakes(alike=map(arm_of, study.arms))


def arm_of(name: str) -> str:
    """Return how an arm is named in an error."""
    return f"arm '{name}'"


def label_of(pretraining: str) -> str:
    """Return how a pre-training is shown, by what `init_from` calls it."""
    return f"pre-training {pretraining.removeprefix(STUDY)}".removesuffix(" pretrain")


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
