"""Detection by the verbs that classification uses, on a tiny network and a few pictures."""

import csv
import io
import json
import re
import signal
import subprocess
import time

import pytest
import torch
import yaml
from detections import coco, drawn_boxes, picture, voc, xml
from test_cli import environment, start, wait_for
from test_processes_command import ended
from workplace import FOREIGN, Workplace

pytest.importorskip("faster_coco_eval")
pytestmark = FOREIGN

TINY_DETECTOR = '''
"""A two-stage detector of some thousand parameters."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign

from frostline.nn.detection import DetectionInput
from frostline.nn.detector import Detector


class Trunk(nn.Module):
    def __init__(self):
        super().__init__()
        parts = []
        for here, there, stride in ((3, 8, 2), (8, 8, 1), (8, 16, 2), (16, 16, 2)):
            parts += [nn.Sequential(nn.Conv2d(here, there, 3, stride, 1), nn.BatchNorm2d(there), nn.ReLU())]
        self.body = nn.Sequential(*parts)
        self.out_channels = 16

    def forward(self, images):
        return {"0": self.body(images)}


@dataclass(frozen=True, kw_only=True)
class TinyDetector:
    """A tiny detector."""

    tasks: ClassVar[tuple[str, ...]] = ("detection",)
    input: ClassVar[DetectionInput] = DetectionInput(size=48, longest=96)

    def brings_head(self, num_classes):
        return False

    def network(self, num_classes):
        model = FasterRCNN(
            Trunk(),
            rpn_anchor_generator=AnchorGenerator(((20,),), ((1.0,),)),
            box_roi_pool=MultiScaleRoIAlign(["0"], 3, 2),
            box_head=nn.Sequential(nn.Flatten(), nn.Linear(144, 16), nn.ReLU()),
            box_predictor=FastRCNNPredictor(16, num_classes + 1),
            rpn_batch_size_per_image=16,
            box_batch_size_per_image=16,
            rpn_post_nms_top_n_train=20,
            rpn_post_nms_top_n_test=20,
            box_detections_per_img=10,
            box_score_thresh=0.01,
        )
        return Detector(model, first_label=1)
'''
LAST_LINE = r"run [0-9a-f]{32} FINISHED test/map=\d\.\d{4}"


@pytest.fixture
def tiny(workplace: Workplace) -> list[str]:
    """What to say for a run of a second, in a folder with pictures and a network of its own."""
    (workplace.folder / "tiny.py").write_text(TINY_DETECTOR)
    (workplace.folder / "conf" / "model").mkdir(parents=True)
    (workplace.folder / "conf" / "model" / "tiny.yaml").write_text("_target_: tiny.TinyDetector\n")
    voc(workplace.folder / "pictures")
    return [
        "model=tiny",
        "data=voc",
        "data.root=pictures",
        "data.batch_size=4",
        "objective=detection",
        "trainer.max_epochs=2",
        "trainer.accelerator=cpu",
        "optimizer.lr=0.01",
    ]


def test_a_run_reports_map_and_records_boxes(workplace: Workplace, tiny) -> None:
    said = workplace.frostline("finetune", *tiny, "data.augment=true")
    assert said.code == 0, said.err
    assert re.fullmatch(LAST_LINE, said.out.splitlines()[-1])
    (run,) = workplace.runs()
    measured = {"map", "map_50", "map_75", "ap/apple", "ap/leaf", "loss"}
    assert {f"{split}/{name}" for split in ("val", "test") for name in measured} <= run.data.metrics.keys()
    assert run.data.metrics["cost/train_flops"] > 0
    rows = list(csv.DictReader(io.StringIO(workplace.artifact(said.run_id, "predictions.csv"))))
    assert sorted(row["id"] for row in rows) == ["0011", "0012", "0013"]
    assert all(json.loads(row["target"])["boxes"] for row in rows)
    assert all(set(json.loads(row["prediction"])) == {"boxes", "labels", "scores"} for row in rows)
    data = json.loads(workplace.artifact(said.run_id, "data.json"))
    assert data["splits"]["train"]["objects"] == {"apple": 8, "leaf": 4}


SLOW = pytest.mark.slow
STRATEGIES = [
    ("head",),
    ("gradual",),
    pytest.param(("full",), marks=SLOW),
    pytest.param(("last_k", "freeze.k=1"), marks=SLOW),
    pytest.param(("bitfit",), marks=SLOW),
]


@pytest.mark.parametrize("freeze", STRATEGIES, ids=lambda freeze: freeze[0])
def test_what_is_frozen_stays_as_it_was(workplace: Workplace, tiny, freeze: tuple[str, ...]) -> None:
    said = workplace.frostline("finetune", *tiny, f"freeze={freeze[0]}", *freeze[1:])
    assert said.code == 0, said.err
    (run,) = workplace.runs()
    assert run.data.metrics["audit/frozen_intact"] == 1


def test_a_run_without_freezing_learns(workplace: Workplace, tiny) -> None:
    said = workplace.frostline("finetune", *tiny, "trainer.max_epochs=8", "optimizer.lr=0.02", "data.batch_size=2")
    assert said.code == 0, said.err
    (run,) = workplace.runs()
    losses = [m.value for m in workplace.store.client.get_metric_history(run.info.run_id, "train/loss")]
    assert losses[-1] < 0.7 * losses[0]


def test_the_plan_is_drawn(workplace: Workplace, tiny) -> None:
    said = workplace.frostline("plan", *tiny, "freeze=last_k", "freeze.k=1")
    assert said.code == 0, said.err
    assert re.search(r"head +##\n", said.out)
    assert "model.backbone.body" in said.out


def test_a_sweep_and_weights_of_a_run(workplace: Workplace, tiny) -> None:
    first = workplace.frostline("pretrain", *tiny)
    assert first.code == 0, first.err
    said = workplace.frostline("finetune", "-m", *tiny, "freeze=head,full", f"init_from={first.run_id}")
    assert said.code == 0, said.err
    assert said.out.count("FINISHED test/map=") == 2
    assert "carried 100.0 %" in said.out


def test_pictures_in_cocos_layout_and_half_precision(workplace: Workplace, tiny) -> None:
    coco(workplace.folder / "coco")
    said = workplace.frostline("finetune", *tiny, "data=coco", "data.root=coco", "trainer.precision=bf16-mixed")
    assert said.code == 0, said.err


def test_what_does_not_go_together_is_refused(workplace: Workplace, tiny) -> None:
    said = workplace.frostline("finetune", *tiny, "objective=classification")
    assert said.code == 2
    assert "objective: is for classification, but the data is for detection" in said.err


@pytest.mark.slow
def test_two_processes_with_other_numbers_of_boxes_and_images_end(workplace: Workplace, tiny) -> None:
    more = ("trainer=ddp", "trainer.devices=2", "trainer.max_epochs=2", "trainer.accelerator=cpu", "freeze=gradual")
    said = ended(*start("finetune", *tiny, *more), cwd=workplace.folder)
    assert said.returncode == 0, said.stderr
    (run,) = workplace.runs()
    assert run.data.metrics["audit/frozen_intact"] == 1
    assert len(workplace.artifact(run.info.run_id, "predictions.csv").splitlines()) == 4  # three images, by two
    alone = workplace.frostline("finetune", *tiny, "trainer.max_epochs=0", f"init_from={run.info.run_id}")
    assert alone.code == 0, alone.err
    both = [workplace.store.run(i).data.metrics for i in (run.info.run_id, alone.run_id)]
    assert both[0]["test/map_50"] == pytest.approx(both[1]["test/map_50"])


@pytest.mark.slow
def test_an_interrupted_run_ends_as_if_it_had_not_been(workplace: Workplace, tiny) -> None:
    run = [*tiny, "data.augment=true", "trainer.max_epochs=40", "freeze=gradual", "freeze.every=10"]
    with subprocess.Popen(start("finetune", *run), cwd=workplace.folder, env=environment(), text=True) as process:
        try:
            wait_for(lambda: list(workplace.folder.glob("outputs/*/last.ckpt")), process)
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    (cut,) = workplace.runs()
    said = workplace.frostline("resume", cut.info.run_id)
    assert said.code == 0, said.err
    whole = workplace.frostline("finetune", *run)
    weights = [workplace.store.fetch(i, "weights.safetensors").read_bytes() for i in (cut.info.run_id, whole.run_id)]
    assert weights[0] == weights[1]
    assert yaml.safe_load(workplace.artifact(whole.run_id, "config.yaml"))["data"]["augment"] is True


@pytest.mark.shared_data
@pytest.mark.slow
def test_real_blood_cells_and_a_real_network(workplace: Workplace, shared) -> None:
    said = workplace.frostline(
        "finetune",
        "model=torchvision_detector",
        "model.name=ssdlite320_mobilenet_v3_large",
        "model.weights=null",
        "data=voc",
        f"data.root={shared / 'data' / 'bccd'}",
        "data.image_size=96",
        "data.shots=8",
        "data.val_shots=4",
        "data.batch_size=4",
        "objective=detection",
        "trainer.max_epochs=1",
        "trainer.accelerator=cpu",
        "freeze=last_k",
        "freeze.k=1",
    )
    assert said.code == 0, said.err
    assert re.fullmatch(LAST_LINE, said.out.splitlines()[-1])
    assert torch.get_num_threads() == 1


def both(workplace: Workplace, tiny: list[str]) -> list[dict[str, float]]:
    """What a run measures that computes everything, and one that is given what was kept."""
    asked = [*tiny, "freeze=head", "trainer.max_epochs=3"]
    runs = [workplace.frostline("finetune", *asked, f"cache={how}").run_id for how in ("off", "auto")]
    return [{**workplace.store.run(run_id).data.metrics} for run_id in runs]


def the_same(computing: dict[str, float], keeping: dict[str, float]) -> None:
    for name in (name for name in computing if not name.startswith("cost/")):
        assert keeping[name] == pytest.approx(computing[name], rel=1e-5, abs=1e-6), name


def test_frozen_stages_of_a_detector_run_once_where_images_are_of_one_size(workplace: Workplace, tiny) -> None:
    computing, keeping = both(workplace, tiny)
    the_same(computing, keeping)
    assert keeping["cost/prefix_given"] > 0


def test_frozen_stages_of_a_detector_run_in_every_epoch_where_some_images_are_wider(workplace: Workplace, tiny) -> None:
    """The others of their batch are padded to their width, and those of another batch are not."""
    pictures = workplace.folder / "pictures"
    for n in (3, 5, 7):  # the first that are drawn, which a cut would be proved on
        picture(n, drawn_boxes(n), width=96).save(pictures / "JPEGImages" / f"000{n}.png")
        (pictures / "Annotations" / f"000{n}.xml").write_text(xml(drawn_boxes(n), width=96))
    computing, keeping = both(workplace, [*tiny, "data.batch_size=2"])
    the_same(computing, keeping)
    assert keeping["cost/prefix_given"] == 0
