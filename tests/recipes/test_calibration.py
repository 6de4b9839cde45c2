"""A forecast of a real request leaves the run as it would have been, and its parts are those of the run."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from workplace import FOREIGN, TINY, Workplace

from frostline import calibration, stopwatch
from frostline.calibration import calibrated
from frostline.checkpoint import weights_hash
from frostline.config.compose import compose
from frostline.data.images import ImageData
from frostline.estimate import estimated, outlook
from frostline.flops import Count, Counting
from frostline.nn.ridge import linear_head
from frostline.plan import Phase
from frostline.prepare import Prepared, open_store, prepare
from frostline.run import execute

pytestmark = FOREIGN
QUIET = "trainer.enable_progress_bar=false"


def request(*overrides: str) -> Prepared:
    cfg = compose("finetune", [*TINY, QUIET, "data.augment=true", *overrides])
    return prepare(cfg, "finetune", open_store(cfg))


def weights(workplace: Workplace, run_id: str) -> dict[str, torch.Tensor]:
    path: Path = workplace.store.fetch(run_id, "weights.safetensors")
    return load_file(path)


@pytest.mark.parametrize("strategy", ["lp_ft", "lora", "head"])
def test_a_run_is_the_same_whether_or_not_it_was_forecast(workplace: Workplace, strategy: str) -> None:
    asked = [f"freeze={strategy}", "trainer.max_epochs=2"]
    looked_at, left_alone = request(*asked), request(*asked)
    before = weights_hash(looked_at.network.state_dict())
    modes = [module.training for module in looked_at.network.modules()]
    chance = torch.get_rng_state()
    forecast = calibrated(looked_at, seconds=0.5)
    assert torch.equal(torch.get_rng_state(), chance)
    assert weights_hash(looked_at.network.state_dict()) == before
    assert [module.training for module in looked_at.network.modules()] == modes
    assert all(parameter.grad is None for parameter in looked_at.network.parameters())
    store = open_store(looked_at.cfg)
    runs = [execute(prepared, store) for prepared in (looked_at, left_alone)]
    one, other = (weights(workplace, run.run_id) for run in runs)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    for run in runs:
        assert run.metrics["cost/predicted_train_flops"] == run.metrics["cost/train_flops"] == forecast.flops
        assert 0 < run.metrics["cost/predicted_wall_s"] < 60
        assert abs(run.metrics["cost/predicted_peak_memory_mb"] / run.metrics["cost/peak_memory_mb"] - 1) < 0.3


def test_state_is_what_the_optimizer_keeps_of_what_trains(workplace: Workplace) -> None:
    head = estimated(request("freeze=head", "optimizer=sgd")).spells[0]
    full = estimated(request("freeze=full", "optimizer=adamw")).spells[0]
    assert head.memory.gradients == head.memory.state == 4 * head.trainable
    assert full.memory.gradients == 4 * full.trainable
    tensors = len(list(request("freeze=full").network.parameters()))
    assert full.memory.state == 2 * 4 * full.trainable + 4 * tensors, "two moments, and a counter for each tensor"


def test_a_step_is_counted_once_whatever_the_seed_rate_and_shots(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("freeze=last_k", "data.batch_size=4")
    first = estimated(request(*asked, "data.shots=2"))
    step = Counting._step
    counting: list[int] = []

    def noticing(self: Counting, phase: Phase, examples: int) -> Count:
        counting.append(examples)
        return step(self, phase, examples)

    monkeypatch.setattr(Counting, "_step", noticing)
    again = estimated(request(*asked, "data.shots=3", "seed=5", "optimizer.lr=0.5"))
    assert not counting
    assert again.spells[0].count == first.spells[0].count
    estimated(request(*asked, "data.shots=3", "data.image_size=16"))
    assert counting, "larger images take more"


def test_batches_and_examples_are_those_that_training_sees(workplace: Workplace) -> None:
    prepared = request("data.digits=[3,4,5]", "data.shots=3", "data.val_shots=3", "trainer.max_epochs=3")
    (spell,) = estimated(prepared).spells  # 9 examples in batches of 4: one left alone is left out
    assert (spell.batches, spell.examples) == (3 * 2, 3 * 8)
    limited = request("data.shots=2", "trainer.max_epochs=3", "trainer.limit_train_batches=2")
    (spell,) = estimated(limited).spells
    assert (spell.batches, spell.examples) == (3 * 2, 3 * 8)
    assert estimated(limited).evaluations == 10


def test_without_epochs_nothing_is_trained_or_timed(workplace: Workplace) -> None:
    forecast = calibrated(request("trainer.max_epochs=0"))
    assert forecast.flops == 0
    assert forecast.pace is None


@pytest.mark.parametrize(
    "asked", [["freeze=ridge", "cache=require"], ["freeze=ridge", "cache=off"], ["freeze=bn_stats"]]
)
def test_what_takes_no_step_is_timed_and_left_as_it_was(asked: list[str], workplace: Workplace) -> None:
    always = ("data.augment=false", "data.shots=6", f"init_from={workplace.train('pretrain')}")
    looked_at, left_alone = request(*always, *asked), request(*always, *asked)
    before = weights_hash(looked_at.network.state_dict())
    chance = torch.get_rng_state()
    forecast = calibrated(looked_at)
    assert torch.equal(torch.get_rng_state(), chance)
    assert weights_hash(looked_at.network.state_dict()) == before
    (spell,), solved = forecast.spells, asked[0] == "freeze=ridge"
    assert spell.batches == len(looked_at.data.reference_dataloader()) == 15, "more than are rehearsed"
    assert forecast.evaluations == (len(looked_at.data.val_dataloader()) if solved else 0)
    assert forecast.pace is not None
    assert forecast.step(spell) > 0
    assert forecast.testing > 0
    assert (forecast.validating > 0) == solved
    assert (forecast.computing > 0) == ("cache=require" in asked)
    store = open_store(looked_at.cfg)
    runs = [execute(prepared, store) for prepared in (looked_at, left_alone)]
    one, other = (weights(workplace, run.run_id) for run in runs)
    assert all(torch.equal(one[name], other[name]) for name in one)
    for run in runs:
        assert run.metrics["cost/predicted_train_flops"] == run.metrics["cost/train_flops"] == forecast.flops
        assert 0 < run.metrics["cost/predicted_wall_s"] < 60


@pytest.mark.parametrize("strategy", ["ridge", "bn_stats"])
def test_a_forecast_of_what_takes_no_step_makes_no_callback(strategy: str, workplace: Workplace) -> None:
    bar = "+trainer.callbacks=[{_target_:pytorch_lightning.callbacks.RichProgressBar}]"
    shown = ("trainer.enable_progress_bar=true", bar, f"init_from={workplace.train('pretrain')}")
    assert calibrated(request(f"freeze={strategy}", *shown)).pace is not None


@pytest.mark.parametrize(
    ("examples", "seconds"), [(20, 1.0), (512, 1.0), (5120, (6 * 5120 + 20 * 64) / (6 * 512 + 20 * 64))]
)
def test_what_solving_takes_is_told_by_a_smaller_problem(
    examples: int, seconds: float, workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared, clock = request("freeze=ridge"), iter([0.0, 5.0, 5.0, 6.0])
    monkeypatch.setattr(type(prepared.data.drawn("train")), "__len__", lambda _: examples)
    monkeypatch.setattr(calibration, "perf_counter", lambda: next(clock))
    assert linear_head(prepared.plan.stages).in_features == 64
    assert calibration._solving(prepared, [0.1, 1.0]) == pytest.approx(seconds)


def test_what_has_still_to_be_decided_is_taken_for_all_that_trains_until_then(workplace: Workplace) -> None:
    prepared = request("freeze=auto_rgn")
    (phase,) = outlook(prepared.plan)
    assert prepared.plan.trainable(phase) == sum(p.numel() for p in prepared.network.parameters())
    assert [spell.settled for spell in estimated(prepared).spells] == [False]


def test_the_test_split_is_not_looked_at(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = request()
    monkeypatch.setattr(ImageData, "test_dataloader", None)
    assert calibrated(prepared, seconds=0.1).tests > estimated(prepared).evaluations


@pytest.mark.parametrize(
    ("precision", "dtype"), [("64-true", "float64"), ("64", "float64"), ("bf16-true", "bfloat16"), ("bf16", "float32")]
)
def test_memory_is_that_of_the_precision_to_which_the_network_is_cast(
    precision: str, dtype: str, workplace: Workplace
) -> None:
    single, cast = (request(f"trainer.precision={each}") for each in ("32-true", precision))
    expected = held(deepcopy(single.network).to(getattr(torch, dtype)))
    width, memory = held(single.network) / expected, estimated(cast).spells[0].memory
    assert memory.parameters == pytest.approx(expected, rel=0.01)
    if precision != "bf16":  # in which activations are of both kinds
        assert memory.training * width == pytest.approx(estimated(single).spells[0].memory.training, rel=0.01)


def held(network: nn.Module) -> int:
    """Return the bytes of parameters and buffers."""
    return sum(tensor.nbytes for tensor in [*network.parameters(), *network.buffers()])


def test_what_takes_no_step_is_not_cast(workplace: Workplace) -> None:
    single, cast = (request("freeze=ridge", f"trainer.precision={each}") for each in ("32-true", "64-true"))
    assert estimated(cast).spells[0].memory == estimated(single).spells[0].memory


@pytest.mark.parametrize("precision", ["32-true", "64-true"])
def test_a_run_starts_without_the_network_that_was_copied_for_the_rehearsal(
    precision: str, workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopwatch, "held_bytes", lambda **_: 10**9)
    prepared = request(f"trainer.precision={precision}")
    assert calibrated(prepared).resident == 10**9 - held(prepared.network)


def test_what_was_compiled_is_counted_too(workplace: Workplace) -> None:
    prepared = request("compile=eager")
    assert estimated(prepared).flops == estimated(request()).flops
    assert isinstance(prepared.network, nn.Module)


@pytest.mark.parametrize(("workers", "extra"), [(0, 4.0), (1, 0.0)])
def test_what_reading_takes_is_the_first_look_without_the_second(
    workers: int, extra: float, workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 5.0, 5.0, 6.0])
    monkeypatch.setattr(calibration, "perf_counter", lambda: next(clock))
    assert calibration._reading(request(f"data.num_workers={workers}")) == extra
