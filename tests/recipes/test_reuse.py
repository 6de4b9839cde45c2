"""What frozen stages give, kept and given again, changes nothing of a run, whatever its task, model and strategy."""

import csv
import io
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from language import LINES, saved
from safetensors.torch import load_file
from street import plant
from torch import Tensor, nn
from workplace import FOREIGN, Workplace

from frostline.batch import Batch
from frostline.cache.cut import Cut
from frostline.cache.find_cut import EXAMPLES
from frostline.cache.prefix_cache import PrefixCache
from frostline.cache.stock import Stock
from frostline.data.whole import cache_folder
from frostline.forecast import Pace
from frostline.init_from import WEIGHTS
from frostline.interruption import Interruption
from frostline.stopwatch import Stopwatch

pytestmark = FOREIGN

DIGITS = ("data=digits", "data.image_size=8", "data.shots=3", "data.val_shots=4", "data.batch_size=8")
RESNET18 = ("model=torchvision", "model.name=resnet18", "model.weights=null", "data.image_size=32")
STREETS = ("model=fcn", "objective=segmentation", "data=segmentation_folder", "data.root=street", "data.image_size=16")
BERT = ("model.name=bert", "data.batch_size=4", "data.val_fraction=0.2")
TEXTS = ("data=text", "data.train=train.tsv", "model=transformers", *BERT)
WORDS = ("data=tokens", "data.train=train.conll", "objective=token_classification", "model=transformers_tokens", *BERT)
VIEWS = ("data.augment=true", "data.views=2")

LAST_BLOCK = r"freeze.phases=[{train:['re:layer3\.2\..*',head]}]"
THEN_ANOTHER = LAST_BLOCK.replace("}]", r"},{train:['re:layer3\.1\.conv2.*','re:layer3\.2\..*'],epoch:2}]")
HEAD_ALL_HEAD = "freeze.phases=[{train:[head]},{train:[all],epoch:3},{train:[head],epoch:6}]"
TWICE_ONE_CUT = "freeze.phases=[{train:[body2,head]},{train:[body2,body3,head],epoch:2}]"
LAST_OUTPUT = r"freeze.phases=[{train:['re:.*layer\.1\.output\..*',head]}]"


def case(*overrides: str, slow: bool = False) -> object:
    name = " ".join(overrides[-1:]) if overrides[0].startswith("data=digits") else " ".join(overrides[:1])
    return pytest.param(overrides, marks=[pytest.mark.slow] if slow else [], id=f"{name} {overrides[-1]}")


CASES = [
    case(*DIGITS, "freeze=head"),
    case(*DIGITS, "freeze=last_k"),
    case(*DIGITS, "trainer.max_epochs=6", "freeze.every=2", "freeze=gradual"),
    case(*DIGITS, *VIEWS, "trainer.max_epochs=5", "freeze=head"),
    case(*DIGITS, LAST_BLOCK, "freeze=schedule"),
    case(*DIGITS, "freeze=last_k", "channels_last=true"),
    case(*DIGITS, THEN_ANOTHER, "freeze=schedule", slow=True),
    case(*TEXTS, "freeze=head"),
    case(*DIGITS, "freeze=lp_ft", slow=True),
    case(*DIGITS, "trainer.max_epochs=14", "freeze=chain_thaw", slow=True),
    case(*DIGITS, "trainer.max_epochs=12", "freeze=freezeout", slow=True),
    case(*DIGITS, *RESNET18, "freeze=head", slow=True),
    case(*DIGITS, *RESNET18, "freeze=last_k", slow=True),
    case(*DIGITS, *RESNET18, "freeze=last_k", "channels_last=true", slow=True),
    case(*STREETS, "freeze=last_k", "channels_last=true", slow=True),
    case(*STREETS, "freeze=head", slow=True),
    case(*STREETS, "freeze=last_k", slow=True),
    case(*STREETS, *VIEWS, "data.batch_size=4", "freeze=head"),
    case(*DIGITS, "freeze=last_k", "freeze.k=3", "regularizer=delta", slow=True),
    case(*DIGITS, *RESNET18, LAST_BLOCK.replace("layer3\\.2", "layer4\\.1"), "freeze=schedule", slow=True),
    case(*TEXTS, LAST_OUTPUT, "freeze=schedule", slow=True),
    case(*TEXTS, "freeze=last_k", slow=True),
    case(*WORDS, "freeze=last_k", slow=True),
]


@pytest.fixture
def material(workplace: Workplace) -> None:
    """Texts, words and streets in the working directory."""
    rows = [(f"{line} {n}", n % 2) for n, line in enumerate(LINES)]
    Path("train.tsv").write_text("".join(f"{text}\t{label}\n" for text, label in rows))
    words = "".join("".join(f"{w} {'BO'[len(w) > 4]}\n" for w in text.split()) + "\n" for text, _ in rows)
    Path("train.conll").write_text(words)
    plant(workplace.folder / "street", 20, size=(32, 16))
    saved("bert", workplace.folder / "bert")


def finished(workplace: Workplace, *overrides: str) -> str:
    said = workplace.frostline("finetune", "trainer.max_epochs=4", "trainer.accelerator=cpu", *overrides)
    assert said.code == 0, said.err
    return said.run_id


def measured(workplace: Workplace, run_id: str) -> dict[str, float]:
    """What a run scores, cost aside."""
    metrics = workplace.store.run(run_id).data.metrics
    return {name: value for name, value in metrics.items() if not name.startswith("cost/")}


def cost(workplace: Workplace, run_id: str, name: str) -> float:
    return workplace.store.run(run_id).data.metrics[f"cost/{name}"]


def predicted(workplace: Workplace, run_id: str) -> list[dict[str, str]]:
    """What a run predicts, without probabilities."""
    rows = csv.DictReader(io.StringIO(workplace.artifact(run_id, "predictions.csv")))
    return [{name: value for name, value in row.items() if "." not in value} for row in rows]


@pytest.mark.usefixtures("material")
@pytest.mark.parametrize("asked", CASES)
def test_a_run_that_is_given_what_was_kept_is_the_run_that_computes_it(asked, workplace: Workplace) -> None:
    computing, keeping, given = (finished(workplace, *asked, f"cache={how}") for how in ("off", "require", "require"))
    assert measured(workplace, keeping) == pytest.approx(measured(workplace, computing), rel=1e-5, abs=1e-7)
    assert predicted(workplace, keeping) == predicted(workplace, computing)
    assert cost(workplace, keeping, "prefix_computed") > 0
    assert cost(workplace, keeping, "prefix_given") > 0
    assert cost(workplace, given, "prefix_computed") == 0
    assert cost(workplace, given, "prefix_given") == cost(workplace, keeping, "prefix_given")
    files = [Path(workplace.store.fetch(run_id, WEIGHTS)) for run_id in (keeping, given)]
    torch.testing.assert_close(*(load_file(file) for file in files), rtol=0, atol=0)


@pytest.mark.usefixtures("material")
@pytest.mark.parametrize(
    "asked",
    [
        pytest.param((*DIGITS, "freeze=head"), id="head"),
        pytest.param((*DIGITS, "freeze=last_k"), id="last_k", marks=pytest.mark.slow),
        pytest.param((*DIGITS, *RESNET18, "freeze=last_k"), id="resnet18", marks=pytest.mark.slow),
        pytest.param((*TEXTS, "freeze=last_k"), id="text", marks=pytest.mark.slow),
        pytest.param((*TEXTS, LAST_OUTPUT, "freeze=schedule"), id="text, in part"),
        pytest.param((*DIGITS, "freeze=ridge"), id="ridge"),
    ],
)
def test_in_mixed_precision_what_is_kept_is_what_that_computes(asked, workplace: Workplace) -> None:
    """Numbers of 8 significant bits: rounded elsewhere in a batch of another size, they are a step apart."""
    mixed = (*asked, "trainer.precision=bf16-mixed", "optimizer.lr=0.0001")
    computing, keeping = (finished(workplace, *mixed, f"cache={how}") for how in ("off", "require"))
    assert measured(workplace, keeping) == pytest.approx(measured(workplace, computing), rel=2**-7)
    assert cost(workplace, keeping, "prefix_computed") > 0
    assert cost(workplace, keeping, "predicted_train_flops") == cost(workplace, keeping, "train_flops")


@pytest.mark.usefixtures("material")
def test_images_of_several_sizes_are_what_they_are_without_what_was_kept(workplace: Workplace) -> None:
    """Those of a batch are padded to its largest, so that what the stages make of one depends on the others."""
    plant(workplace.folder / "street", 15, size=(16, 16))  # of the 20 that are twice as wide
    asked = (*STREETS, "data.batch_size=4", "freeze=head")
    computing, keeping = (finished(workplace, *asked, f"cache={how}") for how in ("off", "auto"))
    assert measured(workplace, keeping) == pytest.approx(measured(workplace, computing), rel=1e-5, abs=1e-7)
    assert predicted(workplace, keeping) == predicted(workplace, computing)
    assert "several sizes" in workplace.artifact(keeping, "computed_again.json")
    said = workplace.frostline("finetune", *asked, "cache=require")
    assert (said.code, said.err.splitlines()[-1]) == (
        2,
        "cache=require: epochs 0-9: images are shown at several sizes, padded to the largest of their batch; mend "
        "that, or choose cache=auto",
    )


def test_other_weights_examples_or_views_are_not_taken_for_the_same(workplace: Workplace) -> None:
    asked = (*DIGITS, "freeze=head", "cache=require")
    first = finished(workplace, *asked)
    everything = cost(workplace, first, "prefix_computed")
    assert cost(workplace, finished(workplace, *asked, "optimizer.lr=0.5"), "prefix_computed") == 0
    assert cost(workplace, finished(workplace, *asked, "model.depth=32"), "prefix_computed") == everything
    assert cost(workplace, finished(workplace, *asked, "channels_last=true"), "prefix_computed") == everything
    assert cost(workplace, finished(workplace, *asked, "trainer.precision=bf16-mixed"), "prefix_computed") == everything
    more = cost(workplace, finished(workplace, *asked, "data.shots=4"), "prefix_computed")
    assert more == 40  # val and test are the same
    views = finished(workplace, *asked, *VIEWS)
    assert cost(workplace, views, "prefix_computed") == everything + 30


@pytest.mark.parametrize("first", [5, 128])
def test_what_is_kept_is_the_same_for_batches_of_any_size(
    first: int, workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    taking = Cut.taken

    def taken(cut: Cut, network: nn.Module, inputs: Any) -> list[torch.Tensor]:
        sizes.append(len(inputs))
        return taking(cut, network, inputs)

    monkeypatch.setattr(Cut, "taken", taken)
    asked = ("data=digits", "data.image_size=8", "data.shots=10", "data.val_shots=1", "freeze=head", "cache=require")
    finished(workplace, *asked, f"data.batch_size={first}")
    assert [size for size in sizes if size > EXAMPLES][:3] == [10, 96, 4]  # val, and the parts of train
    second = finished(workplace, *asked, "data.batch_size=20")
    assert cost(workplace, second, "prefix_computed") == 0


def test_nothing_that_is_kept_is_computed_again_not_even_before_training(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_before: list[int] = []
    ending = PrefixCache.on_sanity_check_end

    def ends(cache: PrefixCache, *asked: object) -> None:
        given_before.append(cache.given)
        ending(cache, *asked)

    monkeypatch.setattr(PrefixCache, "on_sanity_check_end", ends)
    run_id = finished(workplace, *DIGITS, "freeze=head", "trainer.limit_test_batches=0")
    train, val = 30, 40
    assert given_before == [2 * 8]
    assert cost(workplace, run_id, "prefix_computed") == train + val
    assert cost(workplace, run_id, "prefix_given") == 4 * train + (4 + 1) * val


@pytest.mark.parametrize(
    ("more", "computed"),
    [((), 30 + 40), pytest.param(VIEWS, 2 * 30 + 40, marks=pytest.mark.slow)],
    ids=["before the first step", "and before the second epoch"],
)
def test_a_run_predicts_of_itself_what_it_computes_to_be_kept_and_no_step_or_epoch_as_longer_for_that(
    more: tuple[str, ...], computed: int, workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    long, taking, pacing, paces = 1.5, Stock._taken, Stopwatch.pace, list[Pace]()

    def paced(watch: Stopwatch) -> Pace | None:
        pace = pacing(watch)
        paces.extend([pace] if pace else [])
        return pace

    def slow(stock: Stock, cut: Cut, batch: Batch) -> list[Tensor]:
        time.sleep(long)
        return taking(stock, cut, batch)

    monkeypatch.setattr(Stock, "_taken", slow)
    monkeypatch.setattr(Stopwatch, "pace", paced)
    run_id = finished(workplace, *DIGITS, *more, "freeze=head", "trainer.limit_test_batches=0")
    assert cost(workplace, run_id, "prefix_computed") == computed
    parts = 3 if more else 2  # val, and each view of train, of which all examples are computed at once
    assert cost(workplace, run_id, "predicted_wall_s") >= parts * long
    assert paces
    for pace in paces:
        assert max(pace.opening, pace.first, pace.epoch, *pace.steps.values()) < long


def test_the_bill_counts_each_example_once(workplace: Workplace) -> None:
    forward = 2 * (
        3 * 16 * 9 * 64 + 6 * 16 * 16 * 9 * 64 + (16 * 32 + 5 * 32 * 32) * 9 * 16 + (32 * 64 + 5 * 64 * 64) * 9 * 4
    )
    head = 2 * 2 * 64 * 10
    runs = [finished(workplace, *DIGITS, "freeze=head", f"cache={how}") for how in ("off", "auto", "auto")]
    once = 30 * (forward + 4 * head)
    assert [cost(workplace, run, "train_flops") for run in runs] == [30 * 4 * (forward + head), once, once]
    assert [cost(workplace, run, "shared_flops") for run in runs] == [0, 0, 30 * forward]


def test_what_trains_within_a_stage_is_given_what_comes_before_it_there(workplace: Workplace) -> None:
    convolution = 2 * 64 * 64 * 9 * 4
    counted, last, deeper = (
        cost(workplace, run, "train_flops") - cost(workplace, run, "shared_flops")
        for how, schedule in [
            ("auto", ("freeze=last_k",)),
            ("auto", ("freeze=schedule", LAST_BLOCK)),
            ("auto", ("freeze=schedule", LAST_BLOCK)),
        ]
        for run in [finished(workplace, *DIGITS, *schedule, f"cache={how}")]
    )
    assert deeper == 30 * 4 * (2 * 3 * convolution - convolution + 3 * 2 * 64 * 10)
    assert counted > last > deeper


@pytest.mark.parametrize(
    "asked",
    [
        ("freeze=head",),
        ("freeze=head", *VIEWS),
        ("freeze=gradual", "freeze.every=2", "trainer.max_epochs=10"),
        pytest.param(("freeze=freezeout", "trainer.max_epochs=12", "cache=require"), marks=pytest.mark.slow),
        (LAST_BLOCK, "freeze=schedule"),
        pytest.param((THEN_ANOTHER, "freeze=schedule"), marks=pytest.mark.slow),
        pytest.param(("freeze=chain_thaw", "trainer.max_epochs=14"), marks=pytest.mark.slow),
        ("freeze=freezeout", "trainer.max_epochs=10"),
        (HEAD_ALL_HEAD, "freeze=schedule", "trainer.max_epochs=9"),
        (TWICE_ONE_CUT, "freeze=schedule", "cache=require", "data.augment=true", "data.views=3"),
    ],
    ids=[
        "head",
        "views",
        "gradual",
        "freezeout",
        "last block",
        "then another",
        "chain_thaw",
        "by steps",
        "again",
        "views in turn",
    ],
)
def test_the_plan_foresees_what_is_computed_once(asked, workplace: Workplace) -> None:
    known = 1 if "freeze=freezeout" in asked else 2  # what trains before it freezes has no name beforehand
    for _ in range(known):
        run_id = finished(workplace, *DIGITS, *asked)
        real = cost(workplace, run_id, "train_flops")
        assert cost(workplace, run_id, "predicted_train_flops") == pytest.approx(real, rel=1e-6)


@pytest.mark.usefixtures("material")
@pytest.mark.parametrize("seed", [0, 1])
def test_the_plan_foresees_what_texts_take_of_which_the_first_ones_are_longer_or_shorter(
    seed: int, workplace: Workplace
) -> None:
    run_id = finished(workplace, *TEXTS, "freeze=last_k", f"seed={seed}", "cache=require")
    real = cost(workplace, run_id, "train_flops")
    assert cost(workplace, run_id, "predicted_train_flops") == pytest.approx(real, rel=1e-6)


@pytest.mark.usefixtures("material")
def test_a_plan_may_keep_what_takes_no_flops(workplace: Workplace) -> None:
    """To look embeddings up counts as none, so that nothing tells how long it takes."""
    stem = workplace.frostline("plan", *TEXTS, "freeze=freeze_embed", "cache=require")
    assert stem.code == 0, stem.err
    assert "once for each example" in stem.out


def test_nothing_is_kept_where_it_would_not_be_exact(workplace: Workplace) -> None:
    said = workplace.frostline("plan", *DIGITS, "freeze=head", "data.augment=true")
    assert (
        "epochs 0-9: stem to body3 run in every epoch: examples are changed anew in every epoch; data.views=V would "
        "show V ways of each, in turn"
    ) in said.out.splitlines()
    said = workplace.frostline("finetune", *DIGITS, "freeze=head", "data.augment=true", "cache=require")
    assert (said.code, said.err.splitlines()[-1]) == (
        2,
        "cache=require: epochs 0-9: examples are changed anew in every epoch; data.views=V would show V ways of each, "
        "in turn; mend that, or choose cache=auto",
    )
    said = workplace.frostline("finetune", *DIGITS, "freeze=full", "cache=require")
    assert (said.code, said.err.splitlines()[-1]) == (
        2,
        "cache=require: the first stage trains from the start; choose cache=auto, or another freeze",
    )
    said = workplace.frostline("finetune", *DIGITS, "freeze=head", "trainer.max_epochs=0", "cache=require")
    assert (said.code, said.err.splitlines()[-1]) == (
        2,
        "cache=require: nothing trains in trainer.max_epochs=0; choose cache=auto",
    )
    plugin = "trainer.plugins=[{_target_:pytorch_lightning.plugins.MixedPrecision,precision:bf16-mixed,device:cpu}]"
    said = workplace.frostline("finetune", *DIGITS, "freeze=head", plugin, "cache=require")
    assert (said.code, said.err.splitlines()[-1]) == (
        2,
        "cache=require: epochs 0-9: trainer.plugins may compute in another precision; mend that, or choose cache=auto",
    )
    run_id = finished(workplace, *DIGITS, "freeze=head", "data.augment=true")
    assert "examples are changed anew" in workplace.artifact(run_id, "computed_again.json")
    assert cost(workplace, run_id, "prefix_given") == 0


def test_a_folder_that_cannot_be_written_to_costs_time_alone(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(workplace.folder / "mlflow.db"))
    said = workplace.frostline("finetune", *DIGITS, "trainer.max_epochs=3", "freeze=head")
    assert said.code == 0, said.err
    reason = f"{cache_folder() / 'activations'} cannot be written to (Not a directory)"
    assert reason in workplace.artifact(said.run_id, "computed_again.json")
    assert [line for line in said.err.splitlines() if line.startswith("cache")] == [
        f"cache: frozen stages run in every epoch, since {reason}; set the environment variable XDG_CACHE_HOME to a "
        "folder that has room and is yours"
    ], "once, whatever the number of epochs"


def test_what_the_plan_tells_is_not_told_again_while_a_run_trains(workplace: Workplace) -> None:
    said = workplace.frostline("finetune", *DIGITS, "trainer.max_epochs=3", "freeze=head", "data.augment=true")
    assert "examples are changed anew" in workplace.artifact(said.run_id, "computed_again.json")
    assert "cache" not in said.err


def test_what_cannot_be_written_within_an_epoch_is_computed_and_nothing_else(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = (*DIGITS, "freeze=last_k", "trainer.val_check_interval=0.5")
    computing = finished(workplace, *asked, "cache=off")
    fill = Stock._fill

    def full_for_val(self, cut, split, view, tensors) -> None:
        if split == "val":
            raise OSError(28, "No space left on device")
        fill(self, cut, split, view, tensors)

    monkeypatch.setattr(Stock, "_fill", full_for_val)
    keeping = finished(workplace, *asked)
    assert measured(workplace, keeping) == pytest.approx(measured(workplace, computing), rel=1e-5, abs=1e-7)
    assert "No space left on device" in workplace.artifact(keeping, "computed_again.json")
    assert cost(workplace, keeping, "prefix_given") > 0


def test_who_asks_to_stop_does_not_wait_for_what_would_be_kept(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Interruption, "asked", True)
    run_id = finished(workplace, *DIGITS, "freeze=head")
    assert cost(workplace, run_id, "prefix_computed") == 0
    assert not list((cache_folder() / "activations").glob("[!l]*"))


def test_images_that_nobody_looks_at_are_not_loaded(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    from frostline.data.image_split import ImageSplit

    shown: list[int] = []
    show = ImageSplit.show
    monkeypatch.setattr(ImageSplit, "show", lambda self, row: shown.append(row) or show(self, row))
    finished(workplace, *DIGITS, "freeze=head", "cache=off", "trainer.max_epochs=8")
    computing, _ = len(shown), shown.clear()
    finished(workplace, *DIGITS, "freeze=head", "trainer.max_epochs=8")
    keeping, _ = len(shown), shown.clear()
    finished(workplace, *DIGITS, "freeze=head", "trainer.max_epochs=8")
    given = len(shown)
    assert given < keeping < computing
    assert given < computing / 3


def test_a_phase_that_sees_its_inputs_again_is_shown_them(workplace: Workplace) -> None:
    """Gradual thaws everything at last; what was left out before must be loaded then."""
    asked = (*DIGITS, "freeze=gradual", "trainer.max_epochs=10", "freeze.every=2", "data.num_workers=1")
    keeping, computing = (finished(workplace, *asked, f"cache={how}") for how in ("require", "off"))
    assert measured(workplace, keeping) == pytest.approx(measured(workplace, computing), rel=1e-4)


OWN = """
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from frostline.nn.backbone import ImageInput


class Scaled(nn.Module):
    def __init__(self, by, classes):
        super().__init__()
        self.by, self.conv, self.head = by, nn.Conv2d(3, 16, 3, padding=1), nn.Linear(16, classes)

    def forward(self, images):
        return self.head(torch.relu(self.conv(images) * SCALE * self.by).mean((2, 3)))


SCALE = 1.0


@dataclass(frozen=True, kw_only=True)
class Mine:
    by: float = 1.0
    tasks: ClassVar[tuple[str, ...]] = ("classification",)
    input: ClassVar[ImageInput] = ImageInput(size=8, mean=(0.5,) * 3, std=(0.5,) * 3)

    def brings_head(self, num_classes):
        return False

    def network(self, num_classes):
        return Scaled(self.by, num_classes)
"""


def test_a_network_of_ones_own_is_told_from_another_by_its_recipe_and_by_what_it_gives(workplace: Workplace) -> None:
    (workplace.folder / "mine.py").write_text(OWN)
    (workplace.folder / "conf" / "model").mkdir(parents=True)
    (workplace.folder / "conf" / "model" / "mine.yaml").write_text("_target_: mine.Mine\n")
    asked = (*DIGITS, "model=mine", "freeze=head", "cache=require")
    first = finished(workplace, *asked)
    assert cost(workplace, first, "prefix_computed") > 0
    other = finished(workplace, *asked, "model.by=3.0")
    assert measured(workplace, other) != measured(workplace, first)
    assert cost(workplace, other, "prefix_computed") == cost(workplace, first, "prefix_computed")
    import mine

    mine.SCALE = 3.0  # as if a file that the network's own imports had changed
    changed = finished(workplace, *asked)
    assert measured(workplace, changed) == measured(workplace, other)


def test_callbacks_of_ones_own_keep_a_network_whole(workplace: Workplace) -> None:
    (workplace.folder / "own.py").write_text("from pytorch_lightning import Callback\n\n\nclass Own(Callback): ...\n")
    run_id = finished(workplace, *DIGITS, "freeze=head", "+trainer.callbacks=[{_target_: own.Own}]")
    assert "trainer.callbacks of one's own may change" in workplace.artifact(run_id, "computed_again.json")
