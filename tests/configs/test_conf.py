"""Every file of `conf/`: it composes, checks, says nothing twice and names no other group."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from frostline.config.build import build
from frostline.config.compose import compose
from frostline.config.effective import effective, flatten
from frostline.config.signature import signature_of
from frostline.config.skeleton import Finetune, Pretrain, groups_of
from frostline.config.vocabulary import conf_dir, groups, options
from frostline.errors import ConfigError

CONF = conf_dir()
FILES = sorted(file for file in CONF.rglob("*.yaml") if file.parent != CONF)
NAMED = [f"{file.parent.relative_to(CONF).as_posix()}={file.stem}" for file in FILES]
ASKED = {
    "data=coco": ["data.root=photographs"],
    "data=image_folder": ["data.root=photographs"],
    "data=image_table": ["data.train=labels.csv"],
    "data=image_tags": ["data.train=tags.csv"],
    "data=images": ["data.root=photographs"],
    "freeze=fts_schedule": [f"freeze.file={Path(__file__).parent / 'fts_schedule.yaml'}"],
    "freeze=only": ["freeze.stages=[head]"],
    "data=text": ["data.train=reviews.tsv"],
    "data=tokens": ["data.train=names.conll"],
    "data=corpus": ["data.train=books.txt"],
    "model=keras": ["model.name=MobileNetV2"],
    "model=onnx": [f"model.file={__file__}"],
    "model=timm": ["model.name=resnet18"],
    "model=torchvision": ["model.name=resnet18"],
    "model=torchvision_segmenter": ["model.name=lraspp_mobilenet_v3_large"],
    "data=segmentation_folder": ["data.root=streets"],
    "data=cityscapes": ["data.root=streets"],
    "model=transformers": ["model.name=google-bert/bert-base-uncased"],
    "model=transformers_segmenter": ["model.name=nvidia/segformer-b0-finetuned-ade-512-512"],
    "model=torchvision_detector": ["model.name=ssdlite320_mobilenet_v3_large"],
    "model=transformers_detector": ["model.name=facebook/detr-resnet-50"],
    "data=voc": ["data.root=cells"],
    "model=transformers_tokens": ["model.name=google-bert/bert-base-uncased"],
    "model=transformers_masked_lm": ["model.name=google-bert/bert-base-uncased"],
    "model=transformers_causal_lm": ["model.name=openai-community/gpt2"],
}
"""What a user must say beside the choice."""

RECIPES = {
    "depth": "a study of models reads better when each names its depth",
    "accelerator": "where a run computes is what its reader looks for",
    "devices": "one process unless asked for more",
    "alpha": "the strength is what a study turns",
    "beta": "the strength is what a study turns",
    "every": "the pace is what a study turns",
    "k": "the depth is what a study turns",
    "lr": "the rate is what a study turns",
    "weight_decay": "the decay is what a study turns",
    "label_smoothing": "the smoothing is what a study turns",
}
"""Keys that a YAML may list although the class has the same default, and why."""


def test_nothing_is_left_out() -> None:
    assert len(FILES) > 20
    assert groups() == sorted({file.parent.name for file in FILES}) == groups_of(Finetune)


@pytest.fixture(params=NAMED)
def choice(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    return str(request.param)


def test_it_composes_and_its_effective_config_composes_the_same(choice: str) -> None:
    tree = _plain(compose("finetune", [choice, *ASKED.get(choice, [])]))
    whole = effective(tree)
    assert effective(whole) == whole
    group = choice.partition("=")[0]
    assert flatten(whole).items() >= flatten({group: tree[group]}).items()


def test_it_asks_for_what_no_default_can_be_right_for(choice: str) -> None:
    if choice in ASKED:
        key = ASKED[choice][0].partition("=")[0]
        with pytest.raises(ConfigError, match=rf"1 problem.*\n  {key}: required by"):
            compose("finetune", [choice])


def test_its_first_line_is_its_class(choice: str) -> None:
    first = _text(choice).splitlines()[0]
    assert first.startswith("_target_: ") or choice.endswith("=none")


def test_it_repeats_no_default(choice: str) -> None:
    node = yaml.safe_load(_text(choice))
    if "_target_" in node:
        parameters = signature_of(node["_target_"]).parameters
        repeated = {name for name, value in node.items() if name in parameters and parameters[name].default == value}
        assert repeated <= RECIPES.keys()


def test_it_names_no_other_group(choice: str) -> None:
    text = _text(choice)
    others = set(groups()) - {choice.partition("=")[0]}
    assert "defaults" not in yaml.safe_load(text)
    assert not any(f"${{{other}" in text for other in others)


def test_its_signature_is_the_one_that_python_sees(choice: str) -> None:
    node = yaml.safe_load(_text(choice))
    if "_target_" in node:
        seen = inspect.signature(get_object(node["_target_"])).parameters
        read = signature_of(node["_target_"]).parameters
        assert list(read) == [name for name, p in seen.items() if p.kind is not p.VAR_KEYWORD]
        assert [p.required for p in read.values()] == [p.default is p.empty for p in seen.values()][: len(read)]


def test_it_builds(choice: str) -> None:
    group = choice.partition("=")[0]
    cfg = compose("finetune", [choice, *ASKED.get(choice, [])])
    quiet = {"logger": False, "accelerator": "cpu"} if group == "trainer" else {}
    built = build(cfg[group], **quiet)
    assert (built is None) == (cfg[group] is None)


@pytest.mark.parametrize("group", groups_of(Pretrain))
def test_pretrain_takes_every_option_too(group: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for option in options(group):
        choice = f"{group}={option}"
        assert "freeze" not in compose("pretrain", [choice, *ASKED.get(choice, [])])


def _text(choice: str) -> str:
    group, _, option = choice.partition("=")
    return (CONF / group / f"{option}.yaml").read_text()


def _plain(cfg: DictConfig) -> dict[str, Any]:
    tree = OmegaConf.to_container(cfg)
    assert isinstance(tree, dict)
    return {str(key): value for key, value in tree.items()}
