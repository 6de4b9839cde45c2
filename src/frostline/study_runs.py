"""What a study asks for: the config of each run, and what is wrong with any of them, found before the first one."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from omegaconf import DictConfig

from frostline.config.build import build
from frostline.config.compose import compose, compose_seeds
from frostline.errors import ConfigError, Mistakes, RequestError
from frostline.nearest import did_you_mean
from frostline.objectives.objective import Objective, scalars
from frostline.prepare import Prepared, Preparing, prepare
from frostline.store import Store
from frostline.study import PRETRAINED, STUDY, Study

QUIET = ("trainer.enable_progress_bar=false",)
"""A study has one display; Lightning's own would fight with it for the terminal."""


UNTESTED = ("trainer.limit_test_batches=0",)
"""A study that chooses by a metric of val leaves the test split alone: it is looked at once, after the choice."""


def pretrainings_of(study: Study, overrides: Sequence[str]) -> dict[str, DictConfig]:
    """Compose the pre-training runs, by what `init_from` calls them."""
    asked = study.pretrainings.items()
    return {called: compose("pretrain", [*QUIET, *own, *overrides]) for called, own in asked}


def label_of(pretraining: str) -> str:
    """Return how a pre-training is shown, by what `init_from` calls it."""
    return f"pre-training {pretraining.removeprefix(STUDY)}".removesuffix(" pretrain")


def configs_of(study: Study, overrides: Sequence[str]) -> dict[tuple[str, int], DictConfig]:
    """Compose every run; what is wrong with any arm is told at once."""
    if seeds := [override for override in overrides if override.lstrip("+").startswith("seed=")]:
        raise RequestError(f"{seeds[0]}: a study's seeds stand in its study.yaml; change them there")
    mistakes, configs = Mistakes(), {}
    for arm in study.arms:
        with mistakes.gathered(), named(f"arm '{arm}'"):
            configs[arm] = _compose(study, arm, overrides)
            _refuse_unknown_pretraining(configs[arm][study.seeds[0]], study)
    mistakes.refuse()
    return {(arm, seed): configs[arm][seed] for seed in study.seeds for arm in study.arms}


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


def awaiting(
    configs: Mapping[tuple[str, int], DictConfig], pretrained: Mapping[str, str | None]
) -> set[tuple[str, int]]:
    """Return the runs that start from a pre-training of the study which has still to run."""
    untrained = {called for called, run_id in pretrained.items() if run_id is None}
    return {run for run, cfg in configs.items() if cfg.init_from in untrained}


def start_from(configs: Iterable[DictConfig], pretrained: Mapping[str, str | None]) -> None:
    """Let configs that name a pre-training of the study start from its run, or from nothing where it has none."""
    for cfg in configs:
        cfg.init_from = pretrained.get(cfg.init_from, cfg.init_from)


def prepared_pretrainings(study: Study, overrides: Sequence[str], store: Store) -> dict[str, Prepared]:
    """Prepare the pre-training runs, by what `init_from` calls them; what is wrong with any is told at once."""
    mistakes, found = Mistakes(), {}
    for called, cfg in pretrainings_of(study, overrides).items():
        with mistakes.gathered(), named(label_of(called)):
            found[called] = prepare(cfg, "pretrain", store)
    mistakes.refuse()
    return found


def refuse_before_pretraining(
    study: Study, configs: Mapping[tuple[str, int], DictConfig], pretrainings: Mapping[str, Prepared], store: Store
) -> None:
    """Find what is wrong with any arm as far as that is known without weights that are still to be trained."""
    runs = {called: store.finished(prepared.signature) for called, prepared in pretrainings.items()}
    ids = {called: run and str(run.info.run_id) for called, run in runs.items()}
    if all(ids.values()):
        return
    seed = study.seeds[0]
    copies = {(arm, seed): configs[arm, seed].copy() for arm in study.arms}
    arms = {arm for arm, _ in awaiting(copies, ids)}
    start_from(copies.values(), ids)
    for _ in prepared_arms(study, copies, Preparing(store), arms):
        pass  # what is wrong with any arm is told behind the last


def prepared_arms(
    study: Study,
    configs: Mapping[tuple[str, int], DictConfig],
    preparing: Preparing,
    without_weights: Collection[str] = (),
) -> Iterator[tuple[str, Prepared]]:
    """Yield each arm, prepared with the first seed, one at a time; tell behind the last what is wrong with any.

    Args:
        study: What was asked.
        configs: Its runs, by arm and seed.
        preparing: Prepares a run.
        without_weights: The arms whose weights are still to be trained.

    Raises:
        RequestError: Some arms are wrong; all of them are named.
    """
    mistakes, metrics = Mistakes(), []
    for arm in study.arms:
        prepared = None
        with mistakes.gathered(), named(f"arm '{arm}'"):
            prepared = preparing(configs[arm, study.seeds[0]], awaited=arm in without_weights)
        if prepared is not None:
            metrics.append(scalars(prepared.module.test_metrics))
            yield arm, prepared
    mistakes.refuse()
    _refuse_unknown_metric(study, metrics[0])


def refuse_unknown_metric(study: Study, cfg: DictConfig) -> None:
    """Refuse a metric that no run can log, before its data is known: any number of classes may be there."""
    objective: Objective = build(cfg.objective, key="objective")
    _refuse_unknown_metric(study, scalars(objective.metrics([str(number) for number in range(10)])))


def _refuse_unknown_metric(study: Study, metrics: Iterable[str]) -> None:
    names = [*metrics, "loss"]
    known = ["train/loss", *(f"{split}/{name}" for split in ("val", "test") for name in names)]
    if study.metric not in known:
        raise RequestError(f"metric: no run logs '{study.metric}'; {did_you_mean(study.metric, known)}")
