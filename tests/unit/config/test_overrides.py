"""What one override sets, where Hydra itself does not compose it."""

import pytest

from frostline.config.overrides import set_by
from frostline.errors import RequestError


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("cache=off", "cache", "off"),
        ("trainer.max_epochs=4", "trainer.max_epochs", 4),
        ("+optimizer.fused=true", "optimizer.fused", True),
        ("optimizer.lr=1e-5", "optimizer.lr", 1e-5),
        ("data.digits=[3,4]", "data.digits", [3, 4]),
        ("stopping=null", "stopping", None),
        ("data.root='a, b'", "data.root", "a, b"),
    ],
)
def test_a_value_is_what_hydra_reads(override: str, key: str, value: object) -> None:
    assert set_by(override) == (key, value)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("fork", "fork: no override; write key=value"),
        ("~stopping", "~stopping: no override; write key=value"),
        ("optimizer.lr=1,2", "optimizer.lr: several values are for a sweep; a list is written [1,2]"),
        ("data.root=a b (c", "data.root: cannot read the value a b (c; put it in quotes: 'data.root=\"a b (c\"'"),
    ],
)
def test_what_sets_no_value_is_refused(override: str, sentence: str) -> None:
    with pytest.raises(RequestError) as caught:
        set_by(override)
    assert str(caught.value) == sentence
