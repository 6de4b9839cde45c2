"""Segmentation through the verbs: trained, planned, carried, refused."""

from pathlib import Path

import pytest
from street import plant
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
