"""WiSE-FT: the straight path from the weights that a run started from to those that it came to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from frostline.dossier import record_results
from frostline.errors import RequestError
from frostline.modules import headline
from frostline.record import RunRecord
from frostline.store import Store
from frostline.training import quiet
from frostline.weight_space import Finished, Scorer, finished, mixture


@dataclass(frozen=True, kw_only=True)
class Interpolated:
    """What a path came to.

    Attributes:
        run_id: The record of it.
        metric: The metric of val that the choice was made by.
        scores: Its value by the share of the fine-tuned weights.
        chosen: The share that was chosen.
        metrics: What the chosen weights score on test.
        head_held: Whether the trained head was held fixed, because the start had none.
    """

    run_id: str
    metric: str
    scores: Mapping[float, float]
    chosen: float
    metrics: Mapping[str, float]
    head_held: bool


def wise_ft(store: Store, run_id: str, *, steps: int = 11) -> Interpolated:
    """Score (1 - a) start + a end for `steps` values of a from 0 to 1, choose by val, test the chosen one once.

    Wortsman et al. 2021, arXiv:2109.01903, section 3. The paper starts from a zero-shot head; where the run's head was
    new at its start, the trained one is held fixed along the path. Statistics of normalisation layers are re-estimated
    at each point, unless the run left them alone. Of equal scores, the one nearer to the start is chosen.

    Args:
        store: Where the run is recorded, and the path will be.
        run_id: A finished run.
        steps: Points on the path, both ends among them.

    Raises:
        RequestError: There is no such finished run, its start cannot be rebuilt, or the path has too few or too many
            points.
    """
    if not 2 <= steps <= 101:
        raise RequestError(
            f"steps: a path has both its ends and at most a point for each percent, 2 to 101; got {steps}"
        )
    run = finished(store, run_id)
    held = _head_was_new(run)
    start = {**run.start, **{name: run.end[name] for name in _head(run)}} if held else run.start
    tags = store.run(run_id).data.tags
    kept = {name: tags[f"frostline.{name}"] for name in ("freeze", "arm", "seed", "parent_weights")}
    name = f"wise_ft-{kept['arm']}-seed{kept['seed']}"
    with store.record(name, tags={**kept, "phase": "wise_ft", "source_run": run_id}) as record, quiet():
        return _walk(run, start, record, shares=[step / (steps - 1) for step in range(steps)], head_held=held)


def _walk(
    run: Finished, start: Mapping[str, Tensor], record: RunRecord, *, shares: Sequence[float], head_held: bool
) -> Interpolated:
    scorer = Scorer(run, [start, run.end])
    measured = {}
    for share in shares:
        measured[share] = scorer.score(mixture([start, run.end], [1 - share, share]), "val")
        record.metrics(measured[share], step=round(100 * share))
    chosen = max(measured, key=lambda share: (scorer.merit(measured[share]), -share))
    metric = headline(measured[chosen])[0]
    scores = {share: each[metric] for share, each in measured.items()}
    tested = scorer.score(mixture([start, run.end], [1 - chosen, chosen]), "test")
    record.metrics({"wise_ft/share": chosen, **tested}, step=round(100 * chosen))
    record.text("path.csv", "share,score\n" + "".join(f"{share:g},{score!r}\n" for share, score in scores.items()))
    with record.artifact("path.png") as file:
        _draw(scores, chosen, metric, file)
    record_results(run.prepared, record)
    return Interpolated(
        run_id=record.run_id, metric=metric, scores=scores, chosen=chosen, metrics=tested, head_held=head_held
    )


def _head(run: Finished) -> list[str]:
    head = run.prepared.plan.stages[-1]
    return [name for name in (*head.parameters, *head.buffers) if name in run.end]


def _head_was_new(run: Finished) -> bool:
    return not run.prepared.unfilled.isdisjoint(_head(run))


def _draw(scores: Mapping[float, float], chosen: float, metric: str, file: Path) -> None:
    from matplotlib.figure import Figure  # slow to import

    figure = Figure(figsize=(5, 3), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(list(scores), list(scores.values()), marker="o", color="#c0392b")
    axes.axvline(chosen, color="#7f8c8d", linestyle="--", linewidth=1)
    axes.set_xlabel("share of the fine-tuned weights (0: as carried in)")
    axes.set_ylabel(metric)
    figure.savefig(file, dpi=120)
