"""Masked and causal language modelling: against transformers' own losses, and against the papers' counts."""

import math
from pathlib import Path

import pytest
import torch
from language import LINES, TINY, bert_like, gpt_like
from torch import Tensor
from torchmetrics.text import Perplexity
from transformers import PreTrainedTokenizerFast

from frostline.batch import Batch
from frostline.errors import RequestError
from frostline.nn.stages import stages
from frostline.nn.transformers import CausalLanguageModel, MaskedLanguageModel, Transformer
from frostline.objectives.causal_lm import CausalLM
from frostline.objectives.language_modelling import Guess, LanguageModelling
from frostline.objectives.masked_lm import MaskedLM, _Masked

CASES = [(MaskedLM(), MaskedLanguageModel, "bert"), (CausalLM(), CausalLanguageModel, "gpt2")]
EACH = pytest.mark.parametrize(("objective", "kind", "name"), CASES, ids=["masked", "causal"])


def built(kind: type[Transformer], name: str, tmp_path: Path) -> Transformer:
    tokenizer = (gpt_like if name == "gpt2" else bert_like)(tmp_path)
    return kind(name=name, pretrained=False, tokenizer=str(tokenizer), config=TINY[name])


def batch_of(recipe: Transformer, texts: list[str]) -> Batch:
    encodings, _ = recipe.input.encoded(texts, longest=32)
    inputs = recipe.input.padded([each.ids for each in encodings])
    return Batch(inputs, inputs["input_ids"], torch.arange(len(texts)))


def test_the_causal_loss_is_that_of_transformers(tmp_path: Path) -> None:
    recipe = built(CausalLanguageModel, "gpt2", tmp_path)
    network = CausalLM().network(recipe, []).eval()
    batch = batch_of(recipe, LINES[:5])
    labels = batch.inputs["input_ids"].masked_fill(batch.inputs["attention_mask"] == 0, -100)
    theirs = network.network.model(**batch.inputs, labels=labels).loss
    torch.testing.assert_close(CausalLM().loss(network(batch.inputs), batch), theirs, rtol=0, atol=1e-6)


def test_the_masked_loss_is_that_of_transformers(tmp_path: Path) -> None:
    recipe = built(MaskedLanguageModel, "bert", tmp_path)
    network = MaskedLM().network(recipe, []).eval()
    batch, shown = batch_of(recipe, LINES[:5]), []
    network.network.register_forward_pre_hook(lambda _, inputs: shown.append(inputs))
    loss = MaskedLM().loss(network(batch.inputs), batch)
    ((inputs, at),) = shown
    labels = batch.inputs["input_ids"].masked_fill(~at, -100)
    theirs = network.network.model(**inputs, labels=labels).loss
    torch.testing.assert_close(loss, theirs, rtol=0, atol=1e-6)


@EACH
@torch.no_grad()
def test_means_are_over_tokens_however_texts_are_batched(
    objective: LanguageModelling, kind: type[Transformer], name: str, tmp_path: Path
) -> None:
    recipe = built(kind, name, tmp_path)
    network = objective.network(recipe, []).eval()
    metrics, total, tokens, theirs = objective.metrics([]), 0.0, 0, Perplexity()
    for texts in (LINES[:5], LINES[5:6], LINES[6:12]):
        batch = batch_of(recipe, texts)
        guess = network(batch.inputs)
        objective.measure(metrics, guess, batch)
        theirs.update(guess.logits.unsqueeze(0), guess.tokens.unsqueeze(0))
        tokens += objective.weight(guess, batch)
        total += float(objective.loss(guess, batch)) * objective.weight(guess, batch)
        each = objective.predictions(guess, batch)
        assert float((each["loss"] * each["tokens"]).sum() / each["tokens"].sum()) == pytest.approx(
            float(objective.loss(guess, batch)), rel=1e-5
        )
    measured = metrics.compute()
    assert next(iter(measured)) == "perplexity"
    assert float(measured["perplexity"]) == pytest.approx(math.exp(total / tokens), rel=1e-5)
    assert float(measured["perplexity"]) == pytest.approx(float(theirs.compute()), rel=1e-5)


class _Seen(torch.nn.Module):
    def forward(self, inputs: dict[str, Tensor], at: Tensor) -> Tensor:
        self.shown, self.at = inputs["input_ids"], at
        return torch.zeros(int(at.sum()), 60)


@pytest.fixture
def masked(tmp_path: Path) -> _Masked:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(bert_like(tmp_path))
    return _Masked(_Seen(), tokenizer=tokenizer, share=0.15)


def test_masking_is_that_of_bert(masked: _Masked) -> None:
    torch.manual_seed(0)
    tokens = torch.randint(5, 60, (400, 102))
    tokens[:, 0], tokens[:, -1] = 2, 3
    guess = masked({"input_ids": tokens})
    seen = masked.network
    assert (seen.at.sum(dim=1) == 15).all()  # 15 % of 100
    assert not seen.at[:, [0, -1]].any()
    assert torch.equal(guess.tokens, tokens[seen.at])
    assert torch.equal(guess.rows, torch.arange(400).repeat_interleave(15))
    assert torch.equal(seen.shown[~seen.at], tokens[~seen.at])
    shown, real = seen.shown[seen.at], tokens[seen.at]
    shares = [
        (shown == 4).float().mean(),
        ((shown != 4) & (shown != real)).float().mean(),
        (shown == real).float().mean(),
    ]
    assert [float(share) for share in shares] == pytest.approx([0.8, 0.1, 0.1], abs=0.02)


def test_every_text_has_a_masked_token_and_padding_is_never_one(masked: _Masked) -> None:
    tokens = torch.tensor([[2, 9, 3, 0, 0, 0], [2, 9, 8, 7, 6, 3]])
    masked({"input_ids": tokens})
    assert masked.network.at.sum(dim=1).tolist() == [1, 1]
    assert masked.network.at[0].tolist() == [False, True, False, False, False, False]


def test_masks_are_new_while_training_and_the_same_in_evaluation(masked: _Masked) -> None:
    tokens = torch.randint(5, 60, (4, 40))
    shown = []
    for training in (True, True, False, False):
        before = torch.get_rng_state()
        masked.train(training)({"input_ids": tokens})
        assert torch.equal(before, torch.get_rng_state()) is not training
        shown.append(masked.network.shown)
    assert not torch.equal(shown[0], shown[1])
    assert torch.equal(shown[2], shown[3])


@EACH
def test_the_network_has_the_stages_of_the_recipe(
    objective: LanguageModelling, kind: type[Transformer], name: str, tmp_path: Path
) -> None:
    recipe = built(kind, name, tmp_path)
    inputs = batch_of(recipe, LINES[:2]).inputs
    own, wrapped = (stages(each, inputs) for each in (recipe.network(0), objective.network(recipe, [])))
    for one, other in zip(own, wrapped, strict=True):
        assert {f"network.{n}" for n in one.parameters} == set(other.parameters)


def test_a_tokenizer_without_a_mask_is_refused(tmp_path: Path) -> None:
    tokenizer = str(gpt_like(tmp_path))
    recipe = MaskedLanguageModel(name="bert", pretrained=False, tokenizer=tokenizer, config=TINY["bert"])
    with pytest.raises(RequestError, match=r"^objective: masked_lm needs a tokenizer with a mask_token, and this"):
        MaskedLM().network(recipe, [])


def test_a_batch_without_a_token_to_guess_teaches_nothing() -> None:
    logits = torch.zeros(0, 7, requires_grad=True)
    nothing = torch.zeros(0, dtype=torch.int64)
    batch = Batch({}, torch.zeros(1, 3, dtype=torch.int64), torch.arange(1))
    assert MaskedLM().loss(Guess(logits, nothing, nothing), batch).item() == 0
