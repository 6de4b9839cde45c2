import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import config_targets
import pytest
import pytorch_lightning
import torch
from annotated_types import Ge, Gt, Le, MinLen, MultipleOf

from frostline.config.arguments import Default
from frostline.config.signature import TargetError, describe, signature_of


def hints(name: str) -> dict[str, Any]:
    return {key: p.hint for key, p in signature_of(f"config_targets.{name}").parameters.items()}


def defaults(name: str) -> dict[str, object]:
    return {key: p.default for key, p in signature_of(f"config_targets.{name}").parameters.items()}


def test_class() -> None:
    signature = signature_of("config_targets.Plain")
    assert (signature.name, signature.open, signature.summary) == ("Plain", False, "Take a few arguments.")
    assert hints("Plain") == {"width": int, "rate": float, "mode": Literal["eval", "train"], "name": str | None}
    assert defaults("Plain") == {"width": Default.REQUIRED, "rate": 0.1, "mode": "eval", "name": None}


def test_constructor_of_a_base() -> None:
    assert defaults("Child") == defaults("Plain")


def test_any_further_arguments() -> None:
    signature = signature_of("config_targets.Open")
    assert signature.open
    assert list(signature.parameters) == ["width"]


@pytest.mark.parametrize("name", ["Nothing", "Abstract"])
def test_no_constructor(name: str) -> None:
    assert signature_of(f"config_targets.{name}").parameters == {}


def test_dataclass_with_fields_of_its_base() -> None:
    fraction = Annotated[float, Ge(0), Le(1)]
    assert hints("Derived") == {
        "first": Annotated[int, Gt(0)],
        "second": fraction,
        "third": Mapping[str, int],
        "fourth": Literal[1, 2],
        "seed": int,
    }
    assert defaults("Derived") == {
        "first": Default.REQUIRED,
        "second": 0.25,
        "third": Default.UNREAD,
        "fourth": 1,
        "seed": 3,
    }


def test_annotations_of_all_kinds() -> None:
    assert hints("Qualified") == {
        "path": Path,
        "items": Annotated[Sequence[str], MinLen(1)],
        "either": int | Literal["auto"],
        "maybe": Annotated[int, Gt(0)] | None,
        "width": int,
        "sizes": tuple[int, int],
        "share": Annotated[float, Ge(0), Le(1)],
        "even": Annotated[int, MultipleOf(2)],
    }
    assert defaults("Qualified")["width"] == 64
    assert defaults("Qualified")["sizes"] == (8, 16)


def test_a_type_that_cannot_be_named_without_an_import_is_left_out() -> None:
    assert hints("Unreadable") == {
        "tensor": Any,
        "number": float,
        "maybe": Any,
        "several": list[Any],
        "call": Callable,
        "anything": Any,
    }


def test_named_tuple_new_and_function() -> None:
    assert defaults("Pair") == {"left": Default.REQUIRED, "right": "r"}
    assert defaults("Made") == {"size": Default.REQUIRED}
    assert defaults("function") == {"optimizer": Default.REQUIRED, "total": Default.REQUIRED, "warmup": 0.0}


@pytest.mark.parametrize("path", ["config_targets.Alias", "config_exports.Renamed", "config_exports.Plain"])
def test_other_names_of_a_class(path: str) -> None:
    assert signature_of(path) == signature_of("config_targets.Plain")


def test_import_where_the_text_does_not_tell() -> None:
    assert hints("Late") == hints("Plain")
    assert signature_of("collections.OrderedDict").open


def test_summary_stands_in_three_places() -> None:
    assert describe("frostline.freeze.gradual.Gradual").startswith("Thaw one more stage")
    assert describe("torch.optim.SGD") == "Implements stochastic gradient descent (optionally with momentum)."
    assert describe("pytorch_lightning.Trainer") == "Customize every aspect of training via flags."


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("frostline.freeze.gradual.Gradul", "frostline.freeze.gradual has no 'Gradul'; did you mean 'Gradual'?"),
        ("frostline.freze.gradual.Gradual", "frostline has no 'freze'; did you mean 'freeze'?"),
        ("frostline.freeze.gradual.zzz", "frostline.freeze.gradual has no 'zzz'"),
        ("config_targts.Plain", "there is no module 'config_targts'; did you mean 'config_targets'?"),
        ("torch.optim.SDG", "torch.optim has no 'SDG'; did you mean 'SGD'?"),
        ("config_exports.Renmed", "config_exports has no 'Renmed'; did you mean 'Renamed'?"),
        ("config_targets.Plain.nothing", "Plain has no 'nothing'"),
        ("config_targets.WIDTH", "'WIDTH' is not a class or function"),
        ("Gradual", "'Gradual' is not the dotted path of a class or function"),
    ],
)
def test_nothing_at_this_path(path: str, sentence: str) -> None:
    with pytest.raises(TargetError) as caught:
        signature_of(path)
    assert str(caught.value) == sentence


REFERENCES = [
    *(f"torch.optim.{name}" for name in torch.optim.__all__ if inspect.isclass(getattr(torch.optim, name, None))),
    *(f"torch.optim.lr_scheduler.{name}" for name in torch.optim.lr_scheduler.__all__),
    *(f"torch.nn.{name}" for name in ("CrossEntropyLoss", "BCEWithLogitsLoss", "Linear", "Sequential", "Dropout")),
    *(f"pytorch_lightning.{name}" for name in ("Trainer", "LightningModule")),
    *(f"pytorch_lightning.callbacks.{name}" for name in pytorch_lightning.callbacks.__all__),
    *(f"config_targets.{name}" for name, kind in vars(config_targets).items() if inspect.isclass(kind)),
]


def test_the_references_are_many() -> None:
    assert len(REFERENCES) > 60


@pytest.mark.parametrize("path", REFERENCES)
def test_what_is_read_is_what_python_sees(path: str) -> None:
    module, _, name = path.rpartition(".")
    try:
        seen = inspect.signature(getattr(__import__(module, fromlist=[name]), name)).parameters.values()
    except ValueError:
        pytest.skip("Python sees no signature either")
    read = signature_of(path)
    named = {p.name: p for p in seen if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    assert list(read.parameters) == list(named)
    assert read.open == any(p.kind is p.VAR_KEYWORD for p in seen)
    for key, parameter in read.parameters.items():
        assert parameter.required == (named[key].default is inspect.Parameter.empty)
        if not isinstance(parameter.default, Default):
            assert parameter.default == named[key].default


@pytest.mark.parametrize("name", ["full.Full", "last_k.LastK", "only.Only", "gradual.Gradual", "lp_ft.LpFt"])
def test_types_of_strategies_are_those_that_python_evaluates(name: str) -> None:
    module, _, kind = name.partition(".")
    target = getattr(__import__(f"frostline.freeze.{module}", fromlist=[kind]), kind)
    evaluated = typing.get_type_hints(target.__init__, include_extras=True)
    read = signature_of(f"frostline.freeze.{name}").parameters
    assert {key: parameter.hint for key, parameter in read.items()} == {k: evaluated[k] for k in read}
