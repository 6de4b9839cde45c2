"""Segmentation through the verbs: trained, planned, carried, refused."""

import re
import signal
import subprocess
from pathlib import Path

import pytest
from PIL import Image
from street import plant
from test_cli import environment, start, wait_for
from workplace import FOREIGN, Workplace

pytestmark = FOREIGN


@pytest.fixture
def root(tmp_path: Path) -> str:
    return f"data.root={plant(tmp_path / 'street', 20, size=(32, 16))}"


MASKED = (
    "model=fcn",
    "objective=segmentation",
    "data=segmentation_folder",
    "data.image_size=16",
    "data.shots=6",
    "data.val_shots=null",
)


@pytest.mark.parametrize("freeze", ["full", "head", "last_k", "gradual", "bitfit"])
def test_every_strategy_trains_a_segmenter(workplace: Workplace, root: str, freeze: str) -> None:
    source = workplace.train("pretrain", "data.digits=[0,1]")
    run_id = workplace.train("finetune", *MASKED, root, f"freeze={freeze}", f"init_from={source}")
    metrics = workplace.store.run(run_id).data.metrics
    assert metrics["audit/frozen_intact"] == 1
    assert {"test/miou", "test/iou/0", "test/pixel_accuracy"} <= metrics.keys()
    assert "carried 100.0 %" in workplace.artifact(run_id, "carried.txt")
    assert workplace.artifact(run_id, "test_confusion.csv").splitlines()[0] == ",0,1,2"
    assert workplace.artifact(run_id, "predictions.csv").splitlines()[0] == "id,place,pixel_accuracy,miou"


def test_the_run_reports_the_mean_intersection_over_union(workplace: Workplace, root: str) -> None:
    said = workplace.frostline("finetune", "trainer.max_epochs=1", "trainer.accelerator=cpu", *MASKED, root)
    assert said.code == 0, said.err
    assert "FINISHED test/miou=" in said.out.splitlines()[-1]


def test_a_path_of_a_segmenter_is_scored_by_the_mean_intersection_over_union(workplace: Workplace, root: str) -> None:
    source = workplace.train("pretrain", "data.digits=[0,1]")
    tuned = workplace.train("finetune", *MASKED, root, "freeze=head", f"init_from={source}")
    said = workplace.frostline("wise_ft", tuned, "steps=2")
    assert said.code == 0, said.err
    assert [line.split("=")[0].split() for line in said.out.splitlines()[1:3]] == [
        ["0.00", "val/miou"],
        ["1.00", "val/miou"],
    ]


def test_parts_of_other_tasks_are_all_told(workplace: Workplace, root: str) -> None:
    said = workplace.frostline("finetune", "data=segmentation_folder", root)
    assert (said.code, said.err.splitlines()[1:]) == (
        2,
        [
            "  objective: is for classification, but the data is for segmentation; choose another objective, or data",
            "  model: is for classification or multilabel or self_supervised, but the data is for segmentation; "
            "choose another model, or data",
        ],
    )


def test_the_plan_is_drawn(workplace: Workplace, root: str) -> None:
    said = workplace.frostline("plan", *MASKED, root, "freeze=last_k", "freeze.k=1", "trainer.max_epochs=2")
    assert said.code == 0, said.err
    assert re.search(r"^head +##$", said.out, re.MULTILINE)
    assert re.search(r"^stem +\.\.$", said.out, re.MULTILINE)
    assert "trunk.network." in said.out


@pytest.mark.slow
def test_an_interrupted_run_ends_as_if_it_had_not_been(workplace: Workplace, root: str) -> None:
    request = [
        *MASKED,
        root,
        "data.augment=true",
        "data.batch_size=4",
        "trainer.accelerator=cpu",
        "trainer.max_epochs=12",
        "freeze=gradual",
        "freeze.every=3",
    ]
    with subprocess.Popen(start("finetune", *request), cwd=workplace.folder, env=environment(), text=True) as process:
        try:
            wait_for(lambda: list(workplace.folder.glob("outputs/*/last.ckpt")), process)
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    (cut,) = workplace.runs()
    said = workplace.frostline("resume", cut.info.run_id)
    assert said.code == 0, said.err
    whole = workplace.frostline("finetune", *request)
    assert whole.code == 0, whole.err
    weights = [workplace.store.fetch(i, "weights.safetensors").read_bytes() for i in (cut.info.run_id, whole.run_id)]
    assert weights[0] == weights[1]
    assert workplace.artifact(cut.info.run_id, "predictions.csv") == workplace.artifact(whole.run_id, "predictions.csv")


def test_a_mask_that_cannot_be_used_is_told_before_anything_is_recorded(workplace: Workplace, root: str) -> None:
    mask = Path(root.removeprefix("data.root=")) / "masks/003.png"
    Image.new("RGB", (32, 16)).save(mask)
    said = workplace.frostline("finetune", *MASKED, root)
    assert said.code == 2
    assert "'003' (its mask 003.png: a mask holds one whole number for each pixel, not RGB)" in said.err
    assert "Traceback" not in said.err
    assert not workplace.runs()


def test_options_out_of_range_and_misspelt_are_all_told(workplace: Workplace, root: str) -> None:
    said = workplace.frostline("finetune", *MASKED, root, "data.ignored=11", "objective.dice=-1", "data.image_size=0")
    assert said.code == 2
    assert "data.ignored: unknown to SegmentationFolder; did you mean 'ignore'?" in said.err
    assert "objective.dice: should be greater than or equal to 0, got -1" in said.err
    assert "data.image_size: should be greater than 0, got 0" in said.err


DEEP = ("model=transformers_segmenter", "model.name=mobilevit", "model.pretrained=false")


@pytest.mark.slow
def test_a_single_image_in_a_batch_that_cannot_be_normalised_is_told(workplace: Workplace, root: str) -> None:
    pytest.importorskip("transformers")
    small = "model.config={hidden_sizes: [16, 16, 16], neck_hidden_sizes: [8, 8, 8, 8, 8, 8, 8], aspp_out_channels: 8}"
    one = ("data.batch_size=1", "trainer.accelerator=cpu", "trainer.max_epochs=1", "data.image_size=32")
    said = workplace.frostline("finetune", *MASKED, root, *DEEP, small, *one)
    assert said.code == 2
    assert said.err.splitlines()[-1] == (
        "data.batch_size: batch normalisation cannot train on one value per channel, and this network pools an image "
        "to one; choose one of at least 2, or freeze.norm_stats=frozen"
    )
    assert workplace.runs() == []
    frozen = workplace.frostline("finetune", *MASKED, root, *DEEP, small, *one, "freeze.norm_stats=frozen")
    assert frozen.code == 0, frozen.err


@pytest.mark.shared_data
@pytest.mark.slow
def test_real_streets_are_segmented(workplace: Workplace, shared: Path) -> None:
    camvid = ("data=segmentation_folder", f"data.root={shared / 'data/camvid'}", "data.ignore=11", "data.image_size=48")
    few = ("data.shots=4", "data.val_shots=4", "data.batch_size=2", "trainer.max_epochs=1", "trainer.accelerator=cpu")
    said = workplace.frostline("finetune", "model=fcn", "objective=segmentation", *camvid, *few, "objective.dice=0.5")
    assert said.code == 0, said.err
    assert {f"test/iou/{number}" for number in range(11)} <= workplace.store.run(said.run_id).data.metrics.keys()
