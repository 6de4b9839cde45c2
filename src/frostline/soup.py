"""Model soups: the mean of the weights of a study's runs that started from the same weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from frostline.dossier import record_results
from frostline.errors import RequestError
from frostline.modules import headline
from frostline.store import Run, Store
from frostline.training import quiet
from frostline.weight_space import Scorer, Weights, finished, mixture


@dataclass(frozen=True, kw_only=True)
class Soup:
    """A mean of several runs' weights, or the best of them alone.

    Attributes:
        kind: `best` for the run that val chooses alone, `uniform` for all, `greedy` for those that help.
        seed: The seed of the runs; several where a start is shared by them.
        members: The arms and seeds whose weights are in it.
        val: The metric that choices were made by, on val.
        test: What it scores on test.
        run_id: Its record.
    """

    kind: str
    seed: str
    members: Sequence[str]
    val: float
    test: Mapping[str, float]
    run_id: str


def soups(store: Store, study: str, *, arm: str | None = None) -> list[Soup]:
    """Cook a uniform and a greedy soup of the runs of each start of a study, and test each once.

    Wortsman et al. 2022, arXiv:2203.05482, section 2 and recipe 1: weights can be averaged if they come from the same
    start, the head's included. So the runs of one seed, whose new head is the same in all arms, make a soup; where the
    head was carried in, all seeds do. The greedy soup takes the runs in the order of their score on val and keeps each
    that does not lower it. Statistics of normalisation layers are re-estimated.

    Args:
        store: Where the study is recorded, and the soups will be.
        study: The study's name.
        arm: Only the runs of this arm, or all arms'.

    Raises:
        RequestError: There is no such study, or no two of its runs have a start in common.
    """
    runs = [r for r in store.runs(study=study, phase="finetune") if r.info.status == "FINISHED"]
    if not runs:
        raise RequestError(f"study '{study}': none of its runs has finished; run `frostline study` first")
    starts: dict[str, list[Run]] = {}
    for run in runs:
        if arm is None or run.data.tags["frostline.arm"] == arm:
            starts.setdefault(run.data.tags["frostline.weights"], []).append(run)
    shared = [group for group in starts.values() if len(group) > 1]
    if not shared:
        which = f"no two runs of arm '{arm}'" if arm else "no two of its runs"
        raise RequestError(f"study '{study}': {which} start from the same weights, head included; nothing to average")
    return [soup for group in shared for soup in _of_one_start(store, study, group)]


def _of_one_start(store: Store, study: str, runs: Sequence[Run]) -> list[Soup]:
    base = finished(store, runs[0].info.run_id)
    weights = {_label(run): finished(store, run.info.run_id).end for run in runs}
    with quiet():
        scorer = Scorer(base, list(weights.values()))
        single = {label: scorer.merit(scorer.score(each, "val")) for label, each in weights.items()}
        ranked = sorted(single, key=lambda label: (-single[label], label))
        recipes = {"best": ranked[:1], "uniform": ranked, "greedy": _greedy(ranked, weights, scorer)}
        seeds = ",".join(sorted({run.data.tags["frostline.seed"] for run in runs}, key=int))
        return [
            _serve(store, study, seeds, kind, {label: weights[label] for label in members}, scorer)
            for kind, members in recipes.items()
        ]


def _label(run: Run) -> str:
    return f"{run.data.tags['frostline.arm']}-seed{run.data.tags['frostline.seed']}"


def _greedy(ranked: Sequence[str], weights: Mapping[str, Weights], scorer: Scorer) -> list[str]:
    def scored(labels: Sequence[str]) -> float:
        return scorer.merit(scorer.score(_mean([weights[label] for label in labels]), "val"))

    members = [ranked[0]]
    best = scored(members)
    for label in ranked[1:]:
        if (score := scored([*members, label])) >= best:
            members, best = [*members, label], score
    return members


def _mean(parts: Sequence[Weights]) -> Weights:
    return mixture(parts, [1 / len(parts)] * len(parts))


def _serve(store: Store, study: str, seed: str, kind: str, members: Mapping[str, Weights], scorer: Scorer) -> Soup:
    """Score a soup on val and, once, on test; record it."""
    mixed, prepared = _mean(list(members.values())), scorer.prepared
    tags = {"phase": "soup", "soup": kind, "study_of": study, "seed": seed}
    with store.record(f"soup-{kind}-seed{seed}", tags=tags) as record:
        prepared.module.predictions = []
        val, test = scorer.score(mixed, "val"), scorer.score(mixed, "test")
        record.metrics({**val, **test, "soup/members": len(members)})
        record.json("members.json", list(members))
        record_results(prepared, record)
        return Soup(kind=kind, seed=seed, members=list(members), val=headline(val)[1], test=test, run_id=record.run_id)
