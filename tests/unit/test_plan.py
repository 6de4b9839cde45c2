"""A plan is arithmetic on a strategy: phases, modes, counts and the text that people read."""

import pytest
from rigs import Examples, Toy
from torch import nn

from frostline.freeze.full import Full
from frostline.freeze.gradual import Gradual
from frostline.freeze.head import Head
from frostline.freeze.last_k import LastK
from frostline.freeze.lp_ft import LpFt
from frostline.freeze.only import Only
from frostline.freeze.strategy import Strategy
from frostline.nn.stages import stages
from frostline.optim.partition import partition
from frostline.plan import Plan, as_text
from frostline.plan_figure import save_figure

HEAD = 4 * 3 + 3
BLOCK = 4 * 4 * 9 + 4 + 4 + 4
STEM = 3 * 4 * 9 + 4 + 4


def plan(strategy: Strategy, *, epochs: int = 4, network: nn.Module | None = None) -> Plan:
    network = network or Toy()
    parts = stages(network, Examples().inputs[:2])
    return Plan(strategy=strategy, stages=parts, groups=partition(parts), epochs=epochs)


@pytest.mark.parametrize(
    ("strategy", "spans"),
    [
        (Full(), {"0-3": STEM + 3 * BLOCK + HEAD}),
        (Head(), {"0-3": HEAD}),
        (LastK(k=2), {"0-3": 2 * BLOCK + HEAD}),
        (LpFt(probe=0.25), {"0": HEAD, "1-3": STEM + 3 * BLOCK + HEAD}),
        (
            Gradual(every=1),
            {"0": HEAD, "1": BLOCK + HEAD, "2": 2 * BLOCK + HEAD, "3": 3 * BLOCK + HEAD},
        ),
        (Gradual(every=2), {"0-1": HEAD, "2-3": BLOCK + HEAD}),
    ],
    ids=lambda value: str(value),
)
def test_phases_join_the_epochs_in_which_the_same_trains(strategy: Strategy, spans: dict[str, int]) -> None:
    whole = plan(strategy)
    assert {phase.span.removeprefix("epochs "): whole.trainable(phase) for phase in whole.phases} == spans
    assert [phase.start for phase in whole.phases[1:]] == [phase.stop for phase in whole.phases[:-1]]


@pytest.mark.parametrize(
    ("strategy", "prefixes"),
    [
        (Full(), [0]),
        (Head(), [4]),
        (LastK(k=2), [2]),
        (LpFt(), [4, 0]),
        (Gradual(every=1), [4, 3, 2, 1]),
        (Only(stages=["body1", "head"]), [1]),
        (Head(norm_stats="running"), [0]),
        (Head(norm_affine="train"), [0]),
    ],
    ids=str,
)
def test_the_frozen_prefix_ends_where_something_trains_or_takes_statistics(strategy, prefixes) -> None:
    whole = plan(strategy)
    assert [whole.frozen_prefix(phase) for phase in whole.phases] == prefixes


def test_a_run_of_no_epochs_still_has_a_plan() -> None:
    assert [phase.span for phase in plan(Full(), epochs=0).phases] == ["epochs 0"]


def test_what_never_moves_is_what_no_phase_trains_or_updates() -> None:
    assert plan(LpFt()).never_moves() == set()
    held = plan(Only(stages=["body1", "head"])).never_moves()
    assert {name.split(".")[0] for name in held} == {"conv", "norm", "second", "third"}
    assert "fc.weight" in plan(Only(stages=["stem"])).never_moves()
    assert {"norm.weight", "norm.running_mean"} <= plan(Head()).never_moves()
    running = plan(Head(norm_stats="running")).never_moves()
    assert "norm.weight" in running
    assert "norm.running_mean" not in running


def test_modes_follow_what_trains_unless_the_policy_says_otherwise() -> None:
    def training(strategy: Strategy) -> set[str]:
        whole = plan(strategy)
        return {name for name, mode in whole.phases[0].modes.items() if mode and name.endswith(("norm", "drop"))}

    norms = {"norm", "first.norm", "second.norm", "third.norm"}
    assert training(LastK(k=1)) == {"third.norm", "third.drop"}
    assert training(LastK(k=1, norm_stats="running")) == norms | {"third.drop"}
    assert training(LastK(k=1, norm_stats="frozen")) == {"third.drop"}
    assert training(LastK(k=1, norm_affine="train")) >= norms
    assert training(Full(norm_affine="frozen")) == {"first.drop", "second.drop", "third.drop"}


def test_what_trains_is_what_has_a_rate_and_was_not_frozen_by_its_author() -> None:
    network = Toy()
    network.third.conv.weight.requires_grad_(False)
    whole = plan(LpFt(probe=0.25, norm_affine="frozen"), network=network)
    scale_of = {name: (group, name in group.fixed) for group in whole.groups for name in group.parameters}
    for phase in whole.phases:
        found = whole.training(phase.scales)
        assert found.keys() == {n for n, (group, fixed) in scale_of.items() if phase.scales[group.name] and not fixed}
        assert all(parameter is network.get_parameter(name) for name, parameter in found.items())
    assert [len(whole.training(phase.scales)) for phase in whole.phases] == [2, 1 + 3 * 2 - 1 + 2]


def test_what_its_author_froze_is_not_counted_as_trainable() -> None:
    network = Toy()
    network.third.conv.weight.requires_grad_(False)
    whole = plan(Full(), network=network)
    assert whole.trainable(whole.phases[0]) == STEM + 3 * BLOCK + HEAD - 4 * 4 * 9


def test_the_text_shows_picture_phases_rates_norms_and_counts() -> None:
    text = as_text(plan(LpFt(norm_affine="frozen"), epochs=2), lr=0.5)
    assert text.splitlines()[:5] == ["epoch 01", "stem  .o", "body1 .o", "body2 .o", "body3 .o"]
    assert text.splitlines()[6] == "# trains   + trains at a lower rate   o trains in part   . frozen"
    assert f"epochs 0: {HEAD} of {STEM + 3 * BLOCK + HEAD} parameters train" in text
    assert f"epochs 1: {STEM + 3 * BLOCK + HEAD - 4 * 8} of {STEM + 3 * BLOCK + HEAD} parameters train" in text
    rows = [line.split("  ") for line in text.splitlines()]
    table = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    assert ["body3", "third, pool", "nothing", "-", "stored statistics", "0", "156"] in table
    assert ["body3", "third, pool", "weight, bias", "0.5", "stored statistics", "148", "156"] in table
    assert ["head", "fc", "all", "0.5", "-", "15", "15"] in table
    assert text.endswith("normalisation policy: norm_stats=follow norm_affine=frozen\n")


def test_the_figure_is_a_picture(tmp_path) -> None:
    save_figure(plan(Gradual(every=1)), tmp_path / "plan.png")
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")
    save_figure(plan(Head()), tmp_path / "other.png")
    assert (tmp_path / "plan.png").read_bytes() != (tmp_path / "other.png").read_bytes()
