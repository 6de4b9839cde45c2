"""Finished runs taken up again for their weights: mixed, given statistics that fit the mixture, and scored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from frostline.checkpoint import read_weights
from frostline.config.build import build
from frostline.config.recorded import recorded_config
from frostline.errors import RequestError
from frostline.init_from import WEIGHTS
from frostline.modules import headline
from frostline.nn.adapters import merged
from frostline.nn.batch_statistics import reestimate, storing
from frostline.precision import computing_in
from frostline.prepare import Prepared, Verb, prepare
from frostline.store import Store

Weights = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A finished run, built again.

    Attributes:
        prepared: The run as it was before training.
        start: The weights that it started from.
        end: The weights that it came to.
    """

    prepared: Prepared
    start: Weights
    end: Weights


def finished(store: Store, run_id: str) -> Finished:
    """Build a finished run again from its record.

    Raises:
        RequestError: It has not finished, or what it started from is not what it was.
    """
    run = store.run(run_id)
    phase = run.data.tags.get("frostline.phase")
    if phase not in ("pretrain", "finetune") or run.info.status != "FINISHED":
        raise RequestError(f"run {run_id}: is no training run that has finished")
    verb: Verb = "pretrain" if phase == "pretrain" else "finetune"
    prepared = prepare(recorded_config(store.read(run_id, "config.yaml"), verb), verb, store)
    if (prepared.weights, prepared.data.fingerprint()) != tuple(
        run.data.tags[f"frostline.{name}"] for name in ("weights", "data")
    ):
        raise RequestError(f"run {run_id}: the data or the weights that it started from are not what they were")
    if prepared.attached is not None:  # what was added is merged in the weights that the run kept
        prepared.module.network = merged(prepared.network)
    start = {name: tensor.clone() for name, tensor in prepared.network.state_dict().items()}
    return Finished(prepared=prepared, start=start, end=read_weights(store.fetch(run_id, WEIGHTS)))


def mixture(parts: Sequence[Weights], shares: Sequence[float]) -> dict[str, Tensor]:
    """Return the weighted sum of several weights of one network; what is no floating number is the first one's."""
    mixed = {}
    for name, first in parts[0].items():
        if first.is_floating_point():
            total = sum(share * part[name].double() for part, share in zip(parts, shares, strict=True))
            assert isinstance(total, Tensor)
            mixed[name] = total.to(first.dtype)
        else:
            mixed[name] = first
    return mixed


class Scorer:
    """Scores weights in the network and on the data of a run.

    Args:
        run: The run.
        parts: The weights that are mixed. Where their statistics of normalisation layers differ, those of a mixture
            are none of any network's, and are taken from the training split anew; else they stay.
    """

    def __init__(self, run: Finished, parts: Sequence[Weights]) -> None:
        self.prepared = run.prepared
        self._trainer = build(
            run.prepared.cfg.trainer,
            key="trainer",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            devices=1,
            strategy="auto",
        )
        names = [f"{layer}.running_mean" for layer in storing(run.prepared.network)]
        self.statistics_anew = any(not torch.equal(parts[0][n], part[n]) for n in names for part in parts)

    def score(self, weights: Weights, split: str) -> dict[str, float]:
        """Return the metrics of weights on `val` or `test`, and leave the network with them."""
        prepared = self.prepared
        prepared.network.load_state_dict(dict(weights))
        if self.statistics_anew:
            batches = ((b.inputs, len(b.places)) for b in prepared.data.reference_dataloader())
            computing = partial(computing_in, prepared.autocast, torch.device("cpu"))  # where Lightning leaves it
            reestimate(prepared.network, batches, computing=computing)
        measure = self._trainer.validate if split == "val" else self._trainer.test
        (scores,) = measure(prepared.module, datamodule=prepared.data, verbose=False)
        return dict(scores)

    def merit(self, scores: Mapping[str, float]) -> float:
        """Return what a choice is made by, the greater the better: the metric that a run reports, or its negative."""
        name, value = headline(scores)
        metric = self.prepared.module.val_metrics[name.partition("/")[2]]
        assert metric.higher_is_better is not None, f"{name} does not say whether more of it is better"
        return value if metric.higher_is_better else -value
