from typing import Any

import pytest

from frostline.config.check import problems


def said(target: str, **given: Any) -> list[str]:
    return problems({"x": {"_target_": f"config_targets.{target}", **given}})


def test_nothing_to_say() -> None:
    assert said("Plain", width=3, rate=1, mode="train", name=None) == []


@pytest.mark.parametrize(
    ("target", "given", "sentences"),
    [
        ("Plain", {}, ["x.width: required by Plain"]),
        ("Plain", {"width": 1, "mod": "eval"}, ["x.mod: unknown to Plain; did you mean 'mode'?"]),
        ("Plain", {"widht": 1}, ["x.widht: unknown to Plain; did you mean 'width'?"]),
        ("Plain", {"width": 1, "zzz": 1}, ["x.zzz: unknown to Plain; it takes mode, name, rate, width"]),
        ("Nothing", {"zzz": 1}, ["x.zzz: unknown to Nothing; it takes nothing"]),
        ("Plain", {"width": True}, ["x.width: should be a valid integer, got True"]),
        ("Plain", {"width": 1.0}, ["x.width: should be a valid integer, got 1.0"]),
        ("Plain", {"width": 1, "rate": "1"}, ["x.rate: should be a valid number, got '1'"]),
        ("Plain", {"width": 1, "rate": False}, ["x.rate: should be a valid number, got False"]),
        ("Plain", {"width": 1, "mode": "evl"}, ["x.mode: should be 'eval' or 'train', got 'evl'"]),
        ("Plain", {"width": 1, "name": 3}, ["x.name: should be a valid string, got 3"]),
        ("Plain", {"width": [1]}, ["x.width: should be a valid integer, got [1]"]),
        ("Base", {"first": 0}, ["x.first: should be greater than 0, got 0"]),
        ("Base", {"first": 1, "second": 2}, ["x.second: should be less than or equal to 1, got 2"]),
        ("Derived", {"first": 1, "third": {"a": "b"}}, ["x.third.a: should be a valid integer, got 'b'"]),
        ("Derived", {"first": 1, "third": [1]}, ["x.third: should be a mapping, got [1]"]),
        ("Qualified", {"path": "a", "items": []}, ["x.items: should have at least 1 item, got []"]),
        ("Qualified", {"path": 1, "items": ["a"]}, ["x.path: should be a valid string, got 1"]),
        ("Qualified", {"path": "a", "items": ["a", 1]}, ["x.items.1: should be a valid string, got 1"]),
        ("Qualified", {"path": "a", "items": ["a"], "sizes": [1]}, ["x.sizes: should have more items, got [1]"]),
        (
            "Qualified",
            {"path": "a", "items": ["a"], "sizes": [1, 2, 3]},
            ["x.sizes: should have at most 2 items, got [1, 2, 3]"],
        ),
        (
            "Qualified",
            {"path": "a", "items": ["a"], "either": "x"},
            ["x.either: should be a valid integer or 'auto', got 'x'"],
        ),
        ("Qualified", {"path": "a", "items": ["a"], "even": 3}, ["x.even: should be a multiple of 2, got 3"]),
        ("Unreadable", {"tensor": 1, "number": "x"}, ["x.number: should be a valid number, got 'x'"]),
        ("Unreadable", {"tensor": 1, "call": "abs"}, ["x.call: should be a node with a `_target_`, got 'abs'"]),
        ("Missing", {}, ["x._target_: config_targets has no 'Missing'"]),
    ],
)
def test_sentence(target: str, given: dict[str, Any], sentences: list[str]) -> None:
    assert said(target, **given) == sentences


def test_all_at_once() -> None:
    assert len(said("Plain", rate="fast", mode="evl", nam="x")) == 4


def test_a_list_stands_for_a_tuple_a_string_for_a_path_and_an_integer_for_a_number() -> None:
    assert said("Qualified", path="a/b", items=["a"], sizes=[1, 2], share=1) == []


def test_partial_needs_nothing() -> None:
    assert said("Plain", _partial_=True) == []
    assert said("Plain", _partial_=True, rate="x") == ["x.rate: should be a valid number, got 'x'"]


def test_arguments_by_position() -> None:
    assert said("function", _args_=["sgd"], total=1) == []
    assert said("function", _args_=["sgd"]) == ["x.total: required by function"]


def test_any_further_arguments() -> None:
    assert said("Open", width=1, colour="red") == []


def test_nested_nodes_and_lists_are_checked_at_their_own_keys() -> None:
    inner = {"_target_": "config_targets.Base", "first": 0}
    assert said("Unreadable", tensor=inner, several=[{"_target_": "config_targets.Base"}], number=inner) == [
        "x.tensor.first: should be greater than 0, got 0",
        "x.several.0.first: required by Base",
        "x.number.first: should be greater than 0, got 0",
    ]


def test_prefix() -> None:
    assert problems({"_target_": "config_targets.Base"}, prefix="freeze") == ["freeze.first: required by Base"]
