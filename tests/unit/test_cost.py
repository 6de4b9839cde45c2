"""The bill against arithmetic by hand."""

import pytest
from rigs import SGD, Rig

from frostline.cost import Meter
from frostline.freeze.full import Full
from frostline.freeze.head import Head
from frostline.freeze.last_k import LastK
from frostline.freeze.lp_ft import LpFt
from frostline.freeze.only import Only

# Multiply-adds of the toy's layers on one 3x6x6 image: stem, three blocks, head; a multiply-add is two operations.
STEM, BLOCK, HEAD = 36 * 4 * 27, 36 * 4 * 36, 4 * 3
FORWARD = STEM + 3 * BLOCK + HEAD
COSTS = {
    # forward; gradients of inputs, down to the lowest stage that trains but not into the images; of weights that train
    "full": (Full(), 2 * (FORWARD + (3 * BLOCK + HEAD) + FORWARD)),
    "head": (Head(), 2 * (FORWARD + 0 + HEAD)),
    "last_1": (LastK(k=1), 2 * (FORWARD + HEAD + (BLOCK + HEAD))),
    "stem": (Only(stages=["stem"]), 2 * (FORWARD + (3 * BLOCK + HEAD) + STEM)),
}


@pytest.mark.parametrize("name", COSTS)
def test_flops_are_those_of_the_passes_that_the_strategy_needs(name: str) -> None:
    strategy, per_example = COSTS[name]
    rig = Rig(strategy, epochs=2, optimizer=SGD)
    meter = Meter(rig.freezing)
    rig.fit(meter, limit_val_batches=0)
    bill = meter.metrics()
    assert bill["cost/train_flops"] == 2 * 16 * per_example


def test_phases_are_billed_at_their_own_cost_and_the_widest_counts_parameters() -> None:
    rig = Rig(LpFt(), epochs=4, optimizer=SGD)
    meter = Meter(rig.freezing)
    rig.fit(meter, limit_val_batches=0)
    bill = meter.metrics()
    assert bill["cost/train_flops"] == 2 * 16 * (COSTS["head"][1] + COSTS["full"][1])
    assert bill["cost/trainable_params"] == sum(p.numel() for p in rig.network.parameters())
    assert bill["cost/wall_s"] > 0
    assert bill["cost/step_ms"] > 0
    assert bill["cost/peak_memory_mb"] > 0
