import functools

import config_targets
import hydra.utils
import pytest
from omegaconf import OmegaConf

from frostline.config.build import as_request, build
from frostline.errors import DataError, RequestError


def node(target: str, **given: object) -> dict[str, object]:
    return {"_target_": f"config_targets.{target}", **given}


def test_object_with_plain_containers() -> None:
    built = build(OmegaConf.create(node("Derived", first=1, third={"a": 1})))
    assert type(built.third) is dict
    assert built == config_targets.Derived(first=1, third={"a": 1})


def test_nested_nodes() -> None:
    built = build(node("Plain", width=node("Base", first=2)))
    assert built.given[0] == config_targets.Base(first=2)


def test_arguments_are_handed_on_as_they_are_and_win() -> None:
    given = config_targets.Base(first=1)  # Hydra alone would take a dataclass for a config
    assert build(node("Plain", width=3), width=given).given[0] is given


def test_partial_waits() -> None:
    made = build(node("function", _partial_=True, warmup=0.5), total=3)
    assert isinstance(made, functools.partial)
    assert made("sgd") == ("sgd", 3, 0.5)


def test_nothing() -> None:
    assert build(None) is None


def test_refusal_names_the_key() -> None:
    with pytest.raises(RequestError, match=r"^optimizer: rate 3 will not do$"):
        build(node("refuse", rate=3), key="optimizer")


def test_refusal_knows_the_key_of_a_config() -> None:
    cfg = OmegaConf.create({"model": {"body": node("refuse")}})
    with pytest.raises(RequestError, match=r"^model.body: rate 0.0 will not do$"):
        build(cfg.model.body)


def test_refusal_of_a_nested_node() -> None:
    with pytest.raises(RequestError, match=r"^model: rate 1 will not do$"):
        build(node("Plain", width=node("refuse", rate=1)), key="model")


def test_refusal_of_torch() -> None:
    with pytest.raises(RequestError, match=r"^optimizer: Invalid learning rate: -1$"):
        build({"_target_": "torch.optim.SGD", "lr": -1}, key="optimizer", params=[])


def test_refusal_of_lightning() -> None:
    with pytest.raises(
        RequestError, match=r"^trainer: You selected an invalid accelerator name: `accelerator='abacus'`"
    ):
        build({"_target_": "pytorch_lightning.Trainer", "accelerator": "abacus"}, key="trainer", logger=False)


def test_a_fault_of_the_program_is_no_request() -> None:
    with pytest.raises(RuntimeError, match="a fault of the program"):
        build(node("broken"), key="model")


def test_a_sentence_of_our_own_stays_as_it_is() -> None:
    with pytest.raises(DataError, match=r"^data.root: no images$"), as_request("data"):
        raise DataError("data.root: no images")


def test_a_hydra_that_asks_is_told_what_it_may_build(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def instantiate(config: object, **options: object) -> object:
        asked.update(options)
        return functools.partial(config_targets.Nothing)

    monkeypatch.setattr(hydra.utils, "execution_whitelist", None, raising=False)
    monkeypatch.setattr(hydra.utils, "instantiate", instantiate)
    build(node("Plain", width=node("Base", first=1), name=[node("Nothing")]))
    assert asked["_execution_whitelist_"] == ("config_targets.Base", "config_targets.Nothing", "config_targets.Plain")
