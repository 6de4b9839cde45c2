"""The metric that a run of each objective reports says whether more of it is better: choices are made by it."""

from pathlib import Path

import pytest

from frostline.config.build import build
from frostline.config.compose import compose
from frostline.objectives.objective import scalars

MORE_IS_BETTER = {
    "classification": ("accuracy", True),
    "multilabel": ("average_precision", True),
    "detection": ("map", True),
    "segmentation": ("miou", True),
    "token_classification": ("accuracy", True),
    "masked_lm": ("perplexity", False),
    "causal_lm": ("perplexity", False),
    "rotation": ("rotation_accuracy", True),
    "simclr": ("pair_accuracy", True),
    "masked_pixels": ("pixel_error", False),
}

TABLES = {
    "classification": {"confusion"},
    "multilabel": {"ap"},
    "detection": {"ap"},
    "segmentation": {"confusion", "iou"},
    "token_classification": {"f1"},
}


def test_no_objective_is_left_out() -> None:
    conf = Path(__file__).parents[3] / "conf" / "objective"
    assert {file.stem for file in conf.glob("*.yaml")} == set(MORE_IS_BETTER)


@pytest.mark.parametrize("name", MORE_IS_BETTER)
def test_what_a_run_reports_says_whether_more_is_better(name: str) -> None:
    cfg = compose("pretrain", ["model=resnet20", "data=digits", f"objective={name}"])
    metric, more = MORE_IS_BETTER[name]
    classes = [] if name in ("masked_lm", "causal_lm", "rotation", "simclr", "masked_pixels") else ["a", "b"]
    assert build(cfg.objective).metrics(classes)[metric].higher_is_better is more


@pytest.mark.parametrize("name", MORE_IS_BETTER)
def test_what_is_no_single_number_says_nothing_of_the_kind(name: str) -> None:
    cfg = compose("pretrain", ["model=resnet20", "data=digits", f"objective={name}"])
    metrics = build(cfg.objective).metrics(["a", "b"])
    assert set(metrics.keys()) - set(scalars(metrics)) == TABLES.get(name, set())
