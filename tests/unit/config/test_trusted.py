"""What a config from a tracking server may name, and what it may not."""

from pathlib import Path

import pytest

from frostline.config.trusted import refuse_untrusted
from frostline.errors import ConfigError


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "target",
    [
        "pytorch_lightning.Trainer",
        "torch.optim.SGD",
        "torch.optim.lr_scheduler.StepLR",
        "torch.nn.CrossEntropyLoss",
        "pytorch_lightning.callbacks.EarlyStopping",
        "frostline.freeze.head.Head",
    ],
)
def test_what_recipes_are_made_of_is_trusted(target: str) -> None:
    refuse_untrusted({"a": [{"b": {"_target_": target}}]}, origin="run 1")


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "subprocess.Popen",
        "builtins.eval",
        "hydra.utils.get_method",
        "frostline.record.os.system",
        "frostline.provenance.subprocess.run",
        "frostline.provenance._git",
        "frostline.config.build.hydra.utils.instantiate",
        "torch.nn.modules.module.torch.load",
        "torch.load",
        "torch.nn",
        "frostlines.Evil",
        "frostline.nothing.Here",
        "mine.Own",
    ],
)
def test_anything_else_is_refused_wherever_it_hides(target: str) -> None:
    with pytest.raises(ConfigError) as caught:
        refuse_untrusted({"a": [{"b": {"_target_": target}}]}, origin="run 1")
    assert str(caught.value) == (
        f"1 problem(s) in the config:\n  run 1: names '{target}', which no file of conf/ names and no trusted package "
        "defines; if it is yours, give it a YAML file in ./conf"
    )


def test_a_class_of_ones_own_is_trusted_once_a_yaml_file_names_it() -> None:
    Path("conf/model").mkdir(parents=True)
    Path("conf/model/mine.yaml").write_text("_target_: mine.Own\n")
    refuse_untrusted({"model": {"_target_": "mine.Own"}}, origin="run 1")


def test_an_interpolation_could_make_what_no_walk_has_seen() -> None:
    text = "${oc.create:'{_target_: os.system}'}"
    with pytest.raises(ConfigError, match="run 1: holds the interpolation"):
        refuse_untrusted({"model": {"x": [text]}}, origin="run 1")
