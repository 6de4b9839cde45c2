from typing import Any

from frostline.config.effective import effective, flatten, signature


def tree(**given: Any) -> dict[str, Any]:
    return {"seed": 0, "model": {"_target_": "config_targets.Qualified", "path": "p", "items": ["a"], **given}}


def test_defaults_fill_what_is_not_given() -> None:
    assert effective(tree(width=3)) == {
        "seed": 0,
        "model": {
            "_target_": "config_targets.Qualified",
            "path": "p",
            "items": ["a"],
            "either": "auto",
            "maybe": None,
            "width": 3,
            "sizes": [8, 16],
            "share": 0.5,
            "even": 2,
        },
    }


def test_defaults_below_nodes_and_lists() -> None:
    inner = {"_target_": "config_targets.Pair", "left": 1}
    assert effective({"x": {"a": inner, "b": [inner]}}) == {
        "x": {"a": inner | {"right": "r"}, "b": [inner | {"right": "r"}]}
    }


def test_a_default_that_is_an_object_is_left_out() -> None:
    assert "third" not in effective({"_target_": "config_targets.Derived", "first": 1})


def test_twice_is_once() -> None:
    assert effective(effective(tree())) == effective(tree())


def test_flat() -> None:
    assert flatten({"a": {"b": 1, "c": [1, "x"], "d": {}, "e": [{"f": None}]}, "g": True}) == {
        "a.b": 1,
        "a.c": '[1, "x"]',
        "a.d": "{}",
        "a.e.0.f": None,
        "g": True,
    }


def test_signature_knows_what_a_default_is() -> None:
    assert signature(tree()) == signature(tree(width=64, sizes=[8, 16]))
    assert signature(tree()) == signature(effective(tree()))
    assert signature(tree()) != signature(tree(width=65))
    assert len(signature(tree())) == 16


def test_signature_takes_one_for_one_point_nought() -> None:
    assert signature(tree(share=1)) == signature(tree(share=1.0))


def test_signature_leaves_out_what_has_no_effect() -> None:
    where = {"data": {"root": "here", "num_workers": 1}, "tracking": {"uri": "a"}, "experiment_name": "x"}
    other = {"data": {"root": "there", "num_workers": 2}, "tracking": {"uri": "b"}, "experiment_name": "y"}
    assert signature(tree() | where) == signature(tree() | other)
    assert signature(tree() | where, exclude=()) != signature(tree() | other, exclude=())
    assert signature(tree() | {"trainer": {"devices": 1}}) != signature(tree() | {"trainer": {"devices": 2}})


def test_signature_leaves_out_whole_keys_only() -> None:
    assert signature({"tracking_of": 1}) != signature({"tracking_of": 2})


def test_signature_knows_what_lies_outside_the_config() -> None:
    assert signature(tree(), extra={"data": "a"}) != signature(tree(), extra={"data": "b"})
