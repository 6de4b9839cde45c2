"""A delta on its base is the trained network bit for bit (T42), under every strategy; the base stays (T10, T11)."""

import copy
from pathlib import Path

import pytest
import torch
from rigs import SGD, Examples, Rig, Toy
from torch import nn

from frostline.checkpoint import save_weights
from frostline.delta import apply_delta, changed, fingerprints, save_delta
from frostline.depth import Role
from frostline.errors import WeightsError
from frostline.freeze.bitfit import BitFit
from frostline.freeze.dora import Dora
from frostline.freeze.head import Head
from frostline.freeze.ia3 import Ia3
from frostline.freeze.lora import Lora
from frostline.freeze.strategy import FreezeStrategy
from frostline.nn.adapters import attach
from frostline.nn.stages import stages
from frostline.optim.partition import partition
from frostline.plan import Plan

ADAPTING = [Lora(rank=2), Dora(rank=2), Ia3(), Lora(rank=2, stages=["stem"], norm_affine="train")]


def train(strategy: FreezeStrategy, path: Path) -> tuple[nn.Module, nn.Module, Rig]:
    """Train a toy under a strategy and save its delta; return the network as it was at the start, and the rig."""
    torch.manual_seed(0)
    network, x = Toy(), Examples().inputs[:2]
    base, start, attached, parts = copy.deepcopy(network), fingerprints(network), None, stages(network, x)
    if strategy.adapter is not None:
        attached, parts = attach(network, parts, strategy.adapter, example=x, seed=1)
    rig = Rig(strategy, epochs=2, optimizer=SGD, network=network, parts=parts)
    rig.fit()
    save_delta(network, changed(network, start), path, attached=attached, metadata={"signature": "s"})
    return base, network, rig


@pytest.mark.parametrize("strategy", [*ADAPTING, BitFit(), Head(), BitFit(norm_stats="frozen")], ids=repr)
def test_base_and_delta_are_the_trained_network_bit_for_bit_t42(strategy: FreezeStrategy, tmp_path: Path) -> None:
    base, network, rig = train(strategy, tmp_path / "delta.safetensors")
    assert rig.freezing.audit.intact
    nn.init.zeros_(base.fc.weight)  # a new head is in the delta, not in the base
    with torch.no_grad():
        assert not torch.equal(base.eval()(Examples().inputs), network.eval()(Examples().inputs))
        apply_delta(base, tmp_path / "delta.safetensors")
        assert torch.equal(base.eval()(Examples().inputs), network(Examples().inputs))


@pytest.mark.parametrize("strategy", ADAPTING[:3], ids=repr)
def test_only_added_parameters_and_the_head_change_t10_t11(strategy: FreezeStrategy, tmp_path: Path) -> None:
    base, network, rig = train(strategy, tmp_path / "delta.safetensors")
    free = {n for p in rig.stages for n in p.parameters if p.roles[n] is Role.ADAPTER} | {"fc.weight", "fc.bias"}
    assert set(changed(network, fingerprints(base))) == free
    if strategy.adapter.method == "lora":  # B is zero at first: it has moved in the stem too, below frozen blocks
        assert network.conv.lora_B["default"].weight.abs().sum() > 0


def test_another_base_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    base, *_ = train(Lora(rank=2), path := tmp_path / "delta.safetensors")
    nn.init.ones_(base.first.conv.weight)
    before = fingerprints(base)
    with pytest.raises(WeightsError) as error:
        apply_delta(base, path)
    assert str(error.value) == (
        f"{path} belongs to another base than this network; build the run's model with the weights that the run "
        "started from, its init_from."
    )
    assert fingerprints(base) == before


def test_a_file_of_whole_weights_is_no_delta(tmp_path: Path) -> None:
    save_weights(Toy(), path := tmp_path / "weights.safetensors", metadata={})
    with pytest.raises(WeightsError) as error:
        apply_delta(Toy(), path)
    assert str(error.value) == f"{path} is no delta; take the delta.safetensors of a run."


def test_a_plan_counts_what_was_added() -> None:
    network, x = Toy(), Examples().inputs[:2]
    _, parts = attach(network, stages(network, x), Lora(rank=2).adapter, example=x, seed=0)
    plan = Plan(strategy=Lora(rank=2), stages=parts, groups=partition(parts), epochs=1)
    rows = {row["stage"]: row for row in plan.rows(plan.phases[0], lr=0.1)}
    assert rows["stem"]["trains"] == "adapter"
    assert rows["stem"]["norms"] == "stored statistics"
    assert rows["stem"]["trainable"] == str(2 * 3 * 9 + 4 * 2)
    assert rows["head"]["trains"] == "all"
