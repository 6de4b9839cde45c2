"""Anybody's own images on the command line: in tables, with several labels, without any, and broken."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from workplace import FOREIGN, Said, Workplace

pytestmark = FOREIGN

SMALL = ("data.image_size=8", "data.batch_size=8", "trainer.max_epochs=1", "trainer.accelerator=cpu")
BREAKING = """
from pathlib import Path

from pytorch_lightning import Callback


class Breaking(Callback):
    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            for file in Path("pics").glob("*/*.png"):
                file.write_bytes(file.read_bytes()[:200])
"""


@pytest.fixture
def pics(workplace: Workplace) -> Path:
    """Ten images each of cats, dogs and eels, in folders of these names."""
    generator = np.random.default_rng(0)
    for label, pet in enumerate(("cat", "dog", "eel")):
        (workplace.folder / "pics" / pet).mkdir(parents=True)
        for number in range(10):
            pixels = generator.integers(0, 256, (12, 10, 3), dtype=np.uint8)
            pixels[..., label] = 255
            Image.fromarray(pixels).save(workplace.folder / "pics" / pet / f"{number}.png")
    return workplace.folder / "pics"


def rows(pics: Path) -> list[tuple[str, str]]:
    return [(str(path.relative_to(pics.parent)), path.parent.name) for path in sorted(pics.rglob("*.png"))]


def as_csv(pics: Path) -> str:
    (pics.parent / "t.csv").write_text("image,label\n" + "".join(f"{image},{label}\n" for image, label in rows(pics)))
    return "t.csv"


def as_jsonl(pics: Path) -> str:
    objects = [json.dumps({"image": image, "label": label}) for image, label in rows(pics)]
    (pics.parent / "t.jsonl").write_text("\n".join(objects))
    return "t.jsonl"


def as_parquet(pics: Path) -> str:
    names = ["cat", "dog", "eel"]
    content = {
        "image": [{"bytes": (pics.parent / image).read_bytes(), "path": image} for image, _ in rows(pics)],
        "label": [names.index(label) for _, label in rows(pics)],
    }
    features = {"label": {"names": names, "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(pa.table(content).replace_schema_metadata(metadata), pics.parent / "t.parquet")
    return "t.parquet"


def finished(said: Said) -> str:
    assert said.code == 0, said.err
    return said.run_id


@pytest.mark.parametrize("write", [as_csv, as_jsonl, as_parquet])
def test_a_table_trains_as_the_folder_of_its_images(workplace: Workplace, pics: Path, write) -> None:
    folder = finished(workplace.frostline("finetune", *SMALL, "data=image_folder", "data.root=pics"))
    table = finished(workplace.frostline("finetune", *SMALL, "data=image_table", f"data.train={write(pics)}"))
    one, other = (workplace.store.client.get_run(each).data.metrics for each in (folder, table))
    same = [name for name in one if name.startswith(("train/", "val/", "test/"))]
    assert {name: one[name] for name in same} == {name: other[name] for name in same}


def test_several_labels_train_and_are_told_in_the_record(workplace: Workplace, pics: Path) -> None:
    lines = [f"{image},{label}{'|big' if n % 2 else ''}" for n, (image, label) in enumerate(rows(pics))]
    Path("tags.csv").write_text("\n".join(["image,label", *lines]))
    data = ("data=image_tags", "data.train=tags.csv", "objective=multilabel", "data.mix=mixup")
    said = workplace.frostline("finetune", *SMALL, *data)
    run = finished(said)
    assert said.out.splitlines()[-1].startswith(f"run {run} FINISHED test/average_precision=")
    metrics = workplace.store.client.get_run(run).data.metrics
    assert {"test/exact_match", "test/f1_macro", "test/f1_micro", "val/ap/cat", "val/ap/big"} <= metrics.keys()
    told = json.loads(workplace.artifact(run, "data.json"))
    assert told["classes"] == ["big", "cat", "dog", "eel"]
    assert sum(split["per_class"]["big"] for split in told["splits"].values()) == 15
    assert "[0, 1]" in workplace.artifact(run, "predictions.csv")


def test_a_network_learns_from_images_without_labels(workplace: Workplace, pics: Path) -> None:
    source = finished(workplace.frostline("pretrain", *SMALL, "data=images", "data.root=pics", "objective=rotation"))
    assert "test/knn_accuracy" not in workplace.store.client.get_run(source).data.metrics
    finished(workplace.frostline("finetune", *SMALL, "data=image_folder", "data.root=pics", f"init_from={source}"))


def test_data_and_objective_of_other_tasks_are_refused(workplace: Workplace, pics: Path) -> None:
    as_csv(pics)
    for asked, its, wanted in (
        (
            ("data=image_table", "data.train=t.csv", "objective=multilabel"),
            "multilabel",
            "classification or self_supervised",
        ),
        (("data=image_tags", "data.train=t.csv"), "classification", "multilabel"),
        (("data=images", "data.root=pics"), "classification", "self_supervised"),
    ):
        said = workplace.frostline("plan", *SMALL, *asked)
        sentence = f"objective: is for {its}, but the data is for {wanted}; choose another objective, or data\n"
        assert (said.code, said.err) == (2, sentence)


def test_a_plan_tells_of_content_under_different_labels(workplace: Workplace, pics: Path) -> None:
    as_csv(pics)
    with Path("t.csv").open("a") as file:
        file.write("pics/cat/0.png,dog\n")
    said = workplace.frostline("plan", *SMALL, "data=image_table", "data.train=t.csv")
    assert said.code == 0
    assert said.err == (
        "t.csv: 1 example(s) are left out (1 of train), as their content stands elsewhere too, "
        "such as 'pics/cat/0.png' of train, which stands there twice\n"
        "t.csv: the same content stands under different labels 1 time(s), such as that of 'pics/cat/0.png'; "
        "in train, the first label in the order of the classes is kept\n"
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_images_that_break_while_a_network_trains_fail_the_run_with_a_sentence(
    workplace: Workplace, pics: Path, workers: int
) -> None:
    Path("breaking.py").write_text(BREAKING)
    said = workplace.frostline(
        "finetune",
        *SMALL[:2],
        SMALL[3],
        "trainer.max_epochs=3",
        "data=image_folder",
        "data.root=pics",
        "data.augment=true",
        f"data.num_workers={workers}",
        "trainer.callbacks=[{_target_: breaking.Breaking}]",
    )
    assert said.code == 1
    (line,) = said.err.splitlines()
    assert line.startswith(f"{pics.resolve()}/")
    assert "cannot be read any more (" in line
    assert line.endswith("; restore it, and resume the run or start it again")
    (run,) = workplace.runs()
    assert run.info.status == "FAILED"
