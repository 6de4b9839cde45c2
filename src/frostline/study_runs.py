"""The runs of a study as they are prepared, and what is wrong with any of them, found before the first one."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace

from omegaconf import DictConfig

from frostline.config.build import build
from frostline.errors import Mistakes, RequestError
from frostline.nearest import did_you_mean
from frostline.objectives.objective import Objective, scalars
from frostline.prepare import Prepared, Preparing, prepare
from frostline.store import Store
from frostline.study import Study
from frostline.study_configs import Composed, arm_of, label_of, mistakes_of


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


def prepared_pretrainings(asked: Composed, store: Store) -> dict[str, Prepared]:
    """Prepare the pre-training runs, by what `init_from` calls them; what is wrong with any is told at once."""
    mistakes, found = Mistakes(alike=map(label_of, asked.pretrainings)), {}
    for called, cfg in asked.pretrainings.items():
        with mistakes.gathered(label_of(called)):
            found[called] = prepare(cfg, "pretrain", store)
    mistakes.refuse()
    return found


def refuse_before_pretraining(asked: Composed, pretrainings: Mapping[str, Prepared], store: Store) -> None:
    """Find what is wrong with any arm as far as that is known without weights that are still to be trained."""
    runs = {called: store.finished(prepared.signature) for called, prepared in pretrainings.items()}
    ids = {called: run and str(run.info.run_id) for called, run in runs.items()}
    if all(ids.values()):
        return
    seed = asked.study.seeds[0]
    copies = {(arm, seed): cfg.copy() for arm, cfg in asked.arms(seed).items()}
    arms = {arm for arm, _ in awaiting(copies, ids)}
    start_from(copies.values(), ids)
    for _ in prepared_arms(replace(asked, runs=copies), Preparing(store), arms):
        pass  # what is wrong with any arm is told behind the last


def prepared_arms(
    asked: Composed, preparing: Preparing, without_weights: Collection[str] = ()
) -> Iterator[tuple[str, Prepared]]:
    """Yield each arm, prepared with the first seed, one at a time; tell behind the last what is wrong with any.

    Args:
        asked: The study.
        preparing: Prepares a run.
        without_weights: The arms whose weights are still to be trained.

    Raises:
        RequestError: Some arms are wrong; all of them are named.
    """
    mistakes = mistakes_of(asked.study)
    for arm, cfg in asked.arms(asked.study.seeds[0]).items():
        prepared = None
        with mistakes.gathered(arm_of(arm)):
            prepared = preparing(cfg, awaited=arm in without_weights)
            _refuse_unknown_metric(asked.study, scalars(prepared.module.test_metrics))
        if prepared is not None:
            yield arm, prepared
    mistakes.refuse()


def refuse_unknown_metric(asked: Composed) -> None:
    """Refuse a metric that an arm cannot log, before its data is known: any number of classes may be there."""
    mistakes, classes = mistakes_of(asked.study), [str(number) for number in range(10)]
    for arm, cfg in asked.arms(asked.study.seeds[0]).items():
        with mistakes.gathered(arm_of(arm)):
            objective: Objective = build(cfg.objective, key="objective")
            _refuse_unknown_metric(asked.study, scalars(objective.metrics(classes)))
    mistakes.refuse()


def _refuse_unknown_metric(study: Study, metrics: Iterable[str]) -> None:
    names = [*metrics, "loss"]
    known = ["train/loss", *(f"{split}/{name}" for split in ("val", "test") for name in names)]
    if study.metric not in known:
        raise RequestError(f"metric: no run logs '{study.metric}'; {did_you_mean(study.metric, known)}")
