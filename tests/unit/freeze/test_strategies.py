"""Every strategy against an independent statement of its definition, over several depths and lengths of run."""

import math
from collections.abc import Callable

import pytest

from frostline.depth import Depth, Outline, Role
from frostline.freeze.bitfit import BitFit
from frostline.freeze.chain_thaw import ChainThaw
from frostline.freeze.dora import Dora
from frostline.freeze.drawing import depths, draw
from frostline.freeze.first_k import FirstK
from frostline.freeze.freeze_embed import FreezeEmbed
from frostline.freeze.freezeout import FreezeOut
from frostline.freeze.full import Full
from frostline.freeze.gradual import Gradual
from frostline.freeze.head import Head
from frostline.freeze.ia3 import Ia3
from frostline.freeze.last_k import LastK
from frostline.freeze.layer_decay import LayerDecay
from frostline.freeze.linear_freeze import LinearFreeze
from frostline.freeze.lisa import Lisa
from frostline.freeze.lora import Lora
from frostline.freeze.lp_ft import LpFt
from frostline.freeze.norm import Norm
from frostline.freeze.only import Only
from frostline.freeze.strategy import FreezeStrategy, Progress, with_norm_policy

# From (stages, epoch, epochs) to the set of stages that train, by their place from the input.
DEFINITIONS: list[tuple[FreezeStrategy, Callable[[int, int, int], set[int]]]] = [
    (Full(), lambda n, e, E: set(range(n))),
    (Head(), lambda n, e, E: {n - 1}),
    (LastK(k=0), lambda n, e, E: {n - 1}),
    (LastK(k=2), lambda n, e, E: {n - 3, n - 2, n - 1}),
    (FirstK(k=2), lambda n, e, E: {0, 1, n - 1}),
    (Only(stages=["s1"]), lambda n, e, E: {1}),
    (Gradual(every=1), lambda n, e, E: set(range(max(0, n - 1 - e), n))),
    (Gradual(every=3), lambda n, e, E: set(range(max(0, n - 1 - e // 3), n))),
    (LpFt(probe=0.5), lambda n, e, E: {n - 1} if 2 * e < E else set(range(n))),
    (FreezeEmbed(), lambda n, e, E: set(range(1, n))),
    (LayerDecay(), lambda n, e, E: set(range(n))),
    (LinearFreeze(start=0.5), lambda n, e, E: {i for i in range(n) if i >= (n - 1) * max(0, 2 * e - E) // E}),
    (LpFt(probe=0.25), lambda n, e, E: {n - 1} if 4 * e < E else set(range(n))),
]


@pytest.mark.parametrize("epochs", [4, 8, 12])
@pytest.mark.parametrize("count", [3, 5, 14])
@pytest.mark.parametrize(("strategy", "definition"), DEFINITIONS, ids=lambda x: repr(x) if not callable(x) else "")
def test_what_trains_is_what_the_definition_says(strategy, definition, count: int, epochs: int) -> None:
    stages = depths([f"s{place}" for place in range(count)])
    for epoch in range(epochs):
        progress = Progress(epoch=epoch, epochs=epochs, step=epoch, steps=epochs)
        for role in Role:
            training = {stage.index for stage in stages if strategy.scale(stage, role, progress)}
            assert training == definition(count, epoch, epochs)


def test_lp_ft_probes_at_least_one_epoch_and_then_obeys_its_rate() -> None:
    stem, head = Depth(name="stem", index=0, count=2), Depth(name="head", index=1, count=2)
    for epoch, expected in ((0, (0.0, 1.0)), (1, (0.1, 0.1)), (2, (0.1, 0.1))):
        progress = Progress(epoch=epoch, epochs=3, step=epoch, steps=3)
        strategy = LpFt(probe=0.01, rate=0.1)
        assert tuple(strategy.scale(s, Role.WEIGHT, progress) for s in (stem, head)) == expected


@pytest.mark.parametrize(("affine", "norm", "weight"), [("follow", 0, 0), ("frozen", 0, 0), ("train", 1, 0)])
def test_norm_affine_decides_over_norms_alone_in_frozen_stages(affine, norm: float, weight: float) -> None:
    stem, now = Depth(name="stem", index=0, count=3), Progress(epoch=0, epochs=1, step=0, steps=1)
    strategy = Head(norm_affine=affine)
    assert with_norm_policy(strategy, strategy.scale(stem, Role.NORM, now), Role.NORM) == norm
    assert with_norm_policy(strategy, strategy.scale(stem, Role.WEIGHT, now), Role.WEIGHT) == weight


def test_norm_affine_frozen_holds_norms_where_all_else_trains() -> None:
    stem, now = Depth(name="stem", index=0, count=3), Progress(epoch=0, epochs=1, step=0, steps=1)
    assert (
        with_norm_policy(Full(norm_affine="frozen"), Full(norm_affine="frozen").scale(stem, Role.NORM, now), Role.NORM)
        == 0
    )
    assert (
        with_norm_policy(
            Full(norm_affine="frozen"), Full(norm_affine="frozen").scale(stem, Role.WEIGHT, now), Role.WEIGHT
        )
        == 1
    )


STAGES = depths(["stem", "body1", "body2", "head"])


@pytest.mark.parametrize(
    ("strategy", "sentence"),
    [
        (LastK(k=4), "freeze.k: the network has 3 stages below its head, got 4"),
        (FirstK(k=9), "freeze.k: the network has 3 stages below its head, got 9"),
        (Lisa(seed=0, active=3), "freeze.active: the network has 2 stages between stem and head, got 3"),
        (ChainThaw(), "trainer.max_epochs: chain_thaw has 6 parts here, of an epoch or more each; got 4"),
        (Only(stages=["bdy1"]), "freeze.stages: the network has no stage 'bdy1'; did you mean 'body1'?"),
        (Lora(stages=["bdy1"]), "freeze.stages: the network has no stage 'bdy1'; did you mean 'body1'?"),
        (Dora(stages=["head"]), "freeze.stages: the head trains whole and is not adapted; name stages below it"),
        (Ia3(stages=[]), "freeze.stages: name a stage to adapt, or leave it out to adapt all below the head"),
        (Only(stages=["xyz"]), "freeze.stages: the network has no stage 'xyz'; there are body1, body2, head, stem"),
    ],
)
def test_what_the_network_does_not_have_is_said(strategy, sentence: str) -> None:
    assert strategy.problems(Outline(stages=STAGES, places=[]), 4) == [sentence]


@pytest.mark.parametrize(
    "strategy", [LastK(k=3), FirstK(k=3), Only(stages=["stem", "head"]), Full(), Gradual(every=99)]
)
def test_what_the_network_has_is_no_problem(strategy) -> None:
    assert strategy.problems(Outline(stages=STAGES, places=[]), 4) == []


def test_drawing_tells_full_rate_lower_rate_part_and_frozen_apart() -> None:
    class Mixed(FreezeStrategy):
        def scale(self, stage: Depth, role: Role, progress: Progress) -> float:
            rates = {"a": 0.0, "b": 1.0, "c": 0.5, "d": float(role is Role.BIAS)}
            return rates[stage.name]

    rows = draw(Mixed(), 12, depths(["a", "b", "c", "d"])).splitlines()
    assert rows == [
        "epoch 012345678901",
        f"a     {'.' * 12}",
        f"b     {'#' * 12}",
        f"c     {'+' * 12}",
        f"d     {'o' * 12}",
    ]


def at(step: int, steps: int) -> Progress:
    return Progress(epoch=0, epochs=1, step=step, steps=steps)


def test_rates_of_layer_decay_and_gradual_are_powers_of_the_depth_t21() -> None:
    stages = depths(["stem", "body1", "body2", "head"])
    now = Progress(epoch=9, epochs=10, step=9, steps=10)
    rates = [LayerDecay(decay=0.5).scale(stage, Role.WEIGHT, now) for stage in stages]
    assert rates == [0.125, 0.25, 0.5, 1.0]
    rates = [Gradual(ratio=2.6).scale(stage, Role.WEIGHT, now) for stage in stages]
    assert rates == pytest.approx([1 / 2.6 / 2.6 / 2.6, 1 / 2.6 / 2.6, 1 / 2.6, 1])


@pytest.mark.parametrize(
    ("strategy", "chosen"),
    [
        (Lora(), {Role.ADAPTER}),
        (Dora(), {Role.ADAPTER}),
        (Ia3(), {Role.ADAPTER}),
        (BitFit(), {Role.BIAS, Role.NORM_BIAS}),
        (Norm(), {Role.NORM, Role.NORM_BIAS}),
    ],
)
def test_a_role_trains_everywhere_and_the_head_wholly(strategy: FreezeStrategy, chosen: set[Role]) -> None:
    stem, head = Depth(name="stem", index=0, count=2), Depth(name="head", index=1, count=2)
    assert {role for role in Role if strategy.scale(stem, role, at(0, 1))} == chosen
    assert all(strategy.scale(head, role, at(0, 1)) == 1 for role in Role)


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("rest", [0, 1, 5])
def test_chain_thaw_trains_the_head_each_stage_alone_and_then_all(count: int, rest: int) -> None:
    stages, parts = depths([f"s{place}" for place in range(count)]), count + 2
    epochs = 6 * parts + rest if rest < parts else 6 * parts
    trained = [
        {
            s.index
            for s in stages
            if ChainThaw().scale(s, Role.WEIGHT, Progress(epoch=e, epochs=epochs, step=e, steps=epochs))
        }
        for e in range(epochs)
    ]
    each = [{count - 1}, *({place} for place in range(count)), set(range(count))]
    assert trained == [each[min(e // 6, parts - 1)] for e in range(epochs)]


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize(("shape", "power"), [("linear", 1), ("squared", 2), ("cubic", 3)])
def test_freezeout_is_the_published_curve(shape, power: int, scaled: bool) -> None:
    stages, strategy = depths(["stem", "body", "head"]), FreezeOut(t0=0.5, shape=shape, scaled=scaled)
    for place, stage in enumerate(stages):
        end = (0.5 + 0.5 * place / 2) ** power
        for step in range(100):
            annealed = 0.5 * (1 + math.cos(math.pi * (step / 100) / end)) / (end if scaled else 1)
            expected = 0.0 if step / 100 >= end else annealed
            assert strategy.scale(stage, Role.WEIGHT, at(step, 100)) == pytest.approx(expected)


def test_lisa_draws_its_number_of_stages_anew_each_interval_and_the_same_for_a_seed() -> None:
    stages = depths([f"s{place}" for place in range(8)])

    def drawn(seed: int, step: int) -> frozenset[int]:
        strategy = Lisa(seed=seed, active=2, interval=20)
        return frozenset(s.index for s in stages if strategy.scale(s, Role.WEIGHT, at(step, 1000)))

    everything = [drawn(0, step) for step in range(1000)]
    assert all(len(now) == 4 and {0, 7} <= now for now in everything)
    assert all(everything[step] == everything[step - step % 20] for step in range(1000))
    assert frozenset.union(*everything) == frozenset(range(8))
    assert [drawn(0, step) for step in range(1000)] == everything
    assert [drawn(1, step) for step in range(1000)] != everything
