"""Every strategy against an independent statement of its definition, over several depths and lengths of run."""

from collections.abc import Callable

import pytest

from frostline.depth import Depth, Role
from frostline.freeze.drawing import depths, draw
from frostline.freeze.first_k import FirstK
from frostline.freeze.full import Full
from frostline.freeze.gradual import Gradual
from frostline.freeze.head import Head
from frostline.freeze.last_k import LastK
from frostline.freeze.lp_ft import LpFt
from frostline.freeze.only import Only
from frostline.freeze.strategy import FreezeStrategy, Progress, effective_scale

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
    (LpFt(probe=0.25), lambda n, e, E: {n - 1} if 4 * e < E else set(range(n))),
]


@pytest.mark.parametrize("epochs", [4, 8, 12])
@pytest.mark.parametrize("count", [3, 5, 14])
@pytest.mark.parametrize(("strategy", "definition"), DEFINITIONS, ids=lambda x: repr(x) if not callable(x) else "")
def test_what_trains_is_what_the_definition_says(strategy, definition, count: int, epochs: int) -> None:
    stages = depths([f"s{place}" for place in range(count)])
    for epoch in range(epochs):
        progress = Progress(epoch=epoch, epochs=epochs)
        for role in Role:
            training = {stage.index for stage in stages if strategy.scale(stage, role, progress)}
            assert training == definition(count, epoch, epochs)


def test_lp_ft_probes_at_least_one_epoch_and_then_obeys_its_rate() -> None:
    stem, head = Depth(name="stem", index=0, count=2), Depth(name="head", index=1, count=2)
    for epoch, expected in ((0, (0.0, 1.0)), (1, (0.1, 0.1)), (2, (0.1, 0.1))):
        progress = Progress(epoch=epoch, epochs=3)
        strategy = LpFt(probe=0.01, rate=0.1)
        assert tuple(strategy.scale(s, Role.WEIGHT, progress) for s in (stem, head)) == expected


@pytest.mark.parametrize(("affine", "norm", "weight"), [("follow", 0, 0), ("frozen", 0, 0), ("train", 1, 0)])
def test_norm_affine_decides_over_norms_alone_in_frozen_stages(affine, norm: float, weight: float) -> None:
    stem, now = Depth(name="stem", index=0, count=3), Progress(epoch=0, epochs=1)
    strategy = Head(norm_affine=affine)
    assert effective_scale(strategy, stem, Role.NORM, now) == norm
    assert effective_scale(strategy, stem, Role.WEIGHT, now) == weight


def test_norm_affine_frozen_holds_norms_where_all_else_trains() -> None:
    stem, now = Depth(name="stem", index=0, count=3), Progress(epoch=0, epochs=1)
    assert effective_scale(Full(norm_affine="frozen"), stem, Role.NORM, now) == 0
    assert effective_scale(Full(norm_affine="frozen"), stem, Role.WEIGHT, now) == 1


STAGES = depths(["stem", "body1", "body2", "head"])


@pytest.mark.parametrize(
    ("strategy", "sentence"),
    [
        (LastK(k=4), "freeze.k: the network has 3 stages below its head, got 4"),
        (FirstK(k=9), "freeze.k: the network has 3 stages below its head, got 9"),
        (Only(stages=["bdy1"]), "freeze.stages: the network has no stage 'bdy1'; did you mean 'body1'?"),
        (Only(stages=["xyz"]), "freeze.stages: the network has no stage 'xyz'; there are body1, body2, head, stem"),
    ],
)
def test_what_the_network_does_not_have_is_said(strategy, sentence: str) -> None:
    assert strategy.problems(STAGES) == [sentence]


@pytest.mark.parametrize(
    "strategy", [LastK(k=3), FirstK(k=3), Only(stages=["stem", "head"]), Full(), Gradual(every=99)]
)
def test_what_the_network_has_is_no_problem(strategy) -> None:
    assert strategy.problems(STAGES) == []


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
