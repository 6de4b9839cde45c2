"""Text from the command line: labels for texts and words, language models, and what a classifier takes over."""

import csv
import json
import math
import signal
from io import StringIO
from pathlib import Path

import pytest
from language import LINES, TINY, bert_like, gpt_like, override, saved
from test_resume_command import history
from workplace import FOREIGN, Said, Workplace

from frostline.config.compose import compose
from frostline.prepare import prepare

pytestmark = [
    *FOREIGN,
    pytest.mark.usefixtures("texts"),
]

SMALL = ("trainer.max_epochs=1", "trainer.accelerator=cpu", "data.batch_size=4", "data.val_fraction=0.2")
BERT = ("model.name=bert", "model.pretrained=false", "model.tokenizer=bert", f"model.config={override(TINY['bert'])}")
GPT = ("model.name=gpt2", "model.pretrained=false", "model.tokenizer=gpt", f"model.config={override(TINY['gpt2'])}")


@pytest.fixture
def texts(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts, tokenizers and a cache in the working directory."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(workplace.folder / "cache"))
    rows = [(f"{line} {n}", n % 2) for n, line in enumerate(LINES)]
    Path("train.tsv").write_text("".join(f"{text}\t{label}\n" for text, label in rows))
    words = "".join("".join(f"{w} {'BO'[len(w) > 4]}\n" for w in text.split()) + "\n" for text, _ in rows)
    Path("train.conll").write_text(words)
    lines = (f"{LINES[n % 12]} {LINES[n // 12]}\n" + "\n" * (n % 3 == 2) for n in range(72))
    Path("train.txt").write_text("".join(lines))
    bert_like(workplace.folder / "bert")
    gpt_like(workplace.folder / "gpt")


def ran(workplace: Workplace, *arguments: str) -> Said:
    said = workplace.frostline(*arguments, *SMALL)
    assert said.code == 0, said.err
    return said


def metrics(workplace: Workplace, run_id: str) -> dict[str, float]:
    return dict(workplace.store.run(run_id).data.metrics)


def test_a_network_that_was_changed_in_place_is_another_request(workplace: Workplace) -> None:
    saved("bert", workplace.folder / "weights", tokenizer=bert_like)
    asked = ["data=text", "data.train=train.tsv", "model=transformers", "model.name=weights", "data.val_fraction=0.2"]
    before = prepare(compose("finetune", asked), "finetune").signature
    assert prepare(compose("finetune", asked), "finetune").signature == before
    file = workplace.folder / "weights" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"hidden_dropout_prob": 0.4}))
    assert prepare(compose("finetune", asked), "finetune").signature != before


STRATEGIES = ["full", "head", "last_k freeze.k=1", "bitfit", "lora freeze.rank=2", "gradual freeze.every=1"]


@pytest.mark.parametrize("freeze", STRATEGIES)
@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_a_classifier_of_texts_is_tuned_under_every_strategy(kind: str, freeze: str, workplace: Workplace) -> None:
    saved(kind, workplace.folder / "weights", tokenizer=gpt_like if kind == "gpt2" else bert_like)
    asked = ("data=text", "data.train=train.tsv", "model=transformers", "model.name=weights", "optimizer=adamw")
    said = ran(workplace, "finetune", *asked, *f"freeze={freeze}".split())
    assert said.out.splitlines()[-1].startswith(f"run {said.run_id} FINISHED test/accuracy=")
    found = metrics(workplace, said.run_id)
    assert {"test/f1_macro", "test/mcc", "val/accuracy"} <= found.keys()
    assert found["audit/frozen_intact"] == 1


def test_words_are_labelled(workplace: Workplace) -> None:
    asked = ("data=tokens", "data.train=train.conll", "model=transformers_tokens", *BERT)
    said = ran(workplace, "finetune", *asked, "objective=token_classification", "optimizer=adamw", "data.max_length=6")
    assert said.err.startswith("data.max_length=6: ")
    found = metrics(workplace, said.run_id)
    assert {"test/accuracy", "test/f1_macro", "test/mcc", "test/f1/B", "test/f1/O"} <= found.keys()
    assert json.loads(workplace.artifact(said.run_id, "data.json"))["words_left_out"]["train"] > 0


MASKED = ("data=corpus", "data.train=train.txt", "data.max_length=16", "model=transformers_masked_lm", *BERT)
CAUSAL = ("data=corpus", "data.train=train.txt", "data.max_length=16", "model=transformers_causal_lm", *GPT)


@pytest.mark.parametrize(("objective", "asked"), [("masked_lm", MASKED), ("causal_lm", CAUSAL)])
def test_a_classifier_starts_from_a_language_model(
    objective: str, asked: tuple[str, ...], workplace: Workplace
) -> None:
    source = ran(workplace, "pretrain", *asked, f"objective={objective}", "optimizer=adamw")
    assert source.out.splitlines()[-1].startswith(f"run {source.run_id} FINISHED test/perplexity=")
    found = metrics(workplace, source.run_id)
    assert found["test/perplexity"] == pytest.approx(math.exp(found["test/loss"]), rel=1e-5)  # both means over tokens
    rows = list(csv.DictReader(StringIO(workplace.artifact(source.run_id, "predictions.csv"))))
    total = sum(float(row["loss"]) * int(row["tokens"]) for row in rows) / sum(int(row["tokens"]) for row in rows)
    assert total == pytest.approx(found["test/loss"], rel=1e-5)
    own = BERT if objective == "masked_lm" else GPT
    tuned = ("data=text", "data.train=train.tsv", "model=transformers", *own, f"init_from={source.run_id}")
    said = ran(workplace, "finetune", *tuned, "freeze=last_k", "freeze.k=1", "min_coverage=0.99")
    assert "carried 100.0 % of the parameters outside the head" in said.out


@pytest.mark.parametrize("freeze", ["full", "head", "last_k", "bitfit"])
def test_a_language_model_is_tuned_and_only_what_is_asked_moves(freeze: str, workplace: Workplace) -> None:
    said = ran(workplace, "finetune", *CAUSAL, "objective=causal_lm", f"freeze={freeze}")
    assert metrics(workplace, said.run_id)["audit/frozen_intact"] == 1


def test_masks_go_on_where_an_interrupted_run_stopped(workplace: Workplace) -> None:
    Path("conf/stopping").mkdir(parents=True)
    Path("conf/stopping/at.yaml").write_text("_target_: halting.Halt\nstep: 3\n")
    Path("halting.py").write_text(
        "import os, signal\n"
        "from pytorch_lightning.callbacks import Callback\n"
        "class Halt(Callback):\n"
        "    def __init__(self, *, step: int) -> None:\n"
        "        self.step = step\n"
        "    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):\n"
        "        if trainer.global_step == self.step and not os.path.exists('halted'):\n"
        "            open('halted', 'w').close()\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
    )
    asked = ("pretrain", *MASKED, "objective=masked_lm", "optimizer=adamw", *SMALL, "trainer.max_epochs=2")
    before = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # ignored by what a shell starts in the background
    try:
        assert workplace.frostline(*asked, "stopping=at").code == 130
    finally:
        signal.signal(signal.SIGINT, before)
    (killed,) = [run.info.run_id for run in workplace.runs()]
    resumed = workplace.frostline("resume", killed)
    assert (resumed.code, resumed.run_id) == (0, killed), resumed.err
    whole = workplace.frostline(*asked, "stopping=at")
    assert whole.code == 0, whole.err
    assert workplace.artifact(killed, "predictions.csv") == workplace.artifact(whole.run_id, "predictions.csv")
    assert history(workplace, killed) == history(workplace, whole.run_id)
    one, other = (workplace.store.fetch(each, "weights.safetensors").read_bytes() for each in (killed, whole.run_id))
    assert one == other


def test_the_plan_of_a_classifier_of_texts_names_embeddings_layers_and_pooler(workplace: Workplace) -> None:
    said = workplace.frostline(
        "plan", "data=text", "data.train=train.tsv", "model=transformers", *BERT, "freeze=last_k", "freeze.k=1", *SMALL
    )
    assert said.code == 0, said.err
    lines = [line.split()[:2] for line in said.out.splitlines()]
    assert ["stem", "model.bert.embeddings"] in lines
    assert ["body3", "model.bert.encoder.layer.2"] in lines
    assert any(
        line[0] == "head" and "model.bert.pooler" in row
        for line, row in zip(lines, said.out.splitlines(), strict=True)
        if line
    )


def test_a_finished_run_is_scored_on_texts_of_another_domain(workplace: Workplace) -> None:
    asked = ("data=text", "data.train=train.tsv", "model=transformers", *BERT)
    source = ran(workplace, "finetune", *asked)
    Path("other.txt").write_text("1 a warm plot\n0 dull cast\n1 funny people\n")
    said = workplace.frostline(
        "finetune", *asked, *SMALL, "data.test=other.txt", f"init_from={source.run_id}", "trainer.max_epochs=0"
    )
    assert said.code == 0, said.err
    assert len(workplace.artifact(said.run_id, "predictions.csv").splitlines()) == 4


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ("data=text", "data.train=train.tsv", "model=transformers", *BERT, "objective=masked_lm"),
            "objective: is for masked_lm, but the data is for classification; choose another objective, or data",
        ),
        (
            ("data=text", "data.train=trian.tsv", "model=transformers", *BERT),
            "data.train=trian.tsv: there is no such file; did you mean 'train.tsv'?",
        ),
        (
            ("data=text", "data.train=train.tsv", "model=transformers", "model.name=bert", "model.pretrained=false"),
            "model.tokenizer: 'bert' alone has none; name the folder or the id of one",
        ),
        (
            ("data=text", "data.train=train.tsv", "model=transformers", *BERT, "data.max_length=513"),
            "data.max_length=513: this network sees at most 512 tokens; choose 512 or less",
        ),
        (
            (*CAUSAL, "objective=causal_lm", "data.test=tain.txt"),
            "data.test=tain.txt: there is no such file; did you mean 'train.txt'?",
        ),
    ],
)
def test_a_wrong_request_gets_its_sentence(arguments: tuple[str, ...], sentence: str, workplace: Workplace) -> None:
    said = workplace.frostline("finetune", *arguments, *SMALL)
    assert (said.code, said.err.strip()) == (2, sentence)
    assert workplace.runs() == []
