"""Images with boxes: what is shown, what is drawn, and what is refused, in VOC's layout."""

import re
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from detections import add_voc, coco, drawn_boxes, picture, voc, xml
from PIL import Image

from frostline.data import detection, pixels
from frostline.data.coco import Coco
from frostline.data.detection import DetectionData
from frostline.data.pixels import decode
from frostline.data.voc import Voc
from frostline.errors import DataError, RequestError
from frostline.nn.backbone import ImageInput
from frostline.nn.detection import DetectionInput

SEEN = DetectionInput(size=48, longest=96)


def ready(data: DetectionData, spec: DetectionInput = SEEN) -> DetectionData:
    data.check()
    data.expect(spec)
    data.setup()
    return data


def at(root: Path, spec: DetectionInput = SEEN, **arguments) -> DetectionData:
    return ready(Voc(root=str(root), seed=0, **arguments), spec)


def refusal(root: Path, kind=Voc, **arguments) -> str:
    with pytest.raises(DataError) as caught:
        ready(kind(root=str(root), seed=0, **arguments))
    return str(caught.value)


def first(data: DetectionData, split: str = "train", place: int = 0):
    return data.drawn(split)[place]


def named(data: DetectionData, split: str) -> dict[str, int]:
    return {name: place for place, name in enumerate(data.example_ids(split))}


# What is shown


def test_images_and_boxes_are_those_of_the_files(tmp_path) -> None:
    data = at(voc(tmp_path))
    assert data.class_names == ["apple", "leaf"]
    assert [len(data.drawn(split)) for split in ("train", "val", "test")] == [8, 3, 3]
    for name, place in named(data, "train").items():
        batch = first(data, place=place)
        expected = picture(int(name), drawn_boxes(int(name)))
        assert torch.equal(batch.inputs["images"][0], torch.from_numpy(np.array(expected)).permute(2, 0, 1) / 255)
        assert batch.targets[0]["boxes"].tolist() == [list(map(float, box[1:])) for box in drawn_boxes(int(name))]
        assert batch.targets[0]["labels"].tolist() == list(range(1 + int(name) % 2))
        assert batch.places.tolist() == [place]


def test_boxes_scale_with_their_image(tmp_path) -> None:
    root = voc(tmp_path)
    whole, half = first(at(root)), first(at(root, image_size=24))
    assert half.inputs["images"][0].shape == (3, 24, 32)
    torch.testing.assert_close(half.targets[0]["boxes"] * 2, whole.targets[0]["boxes"])
    assert half.targets[0]["scale"].tolist() == [0.5, 0.5]


def test_sizes_are_those_at_which_images_are_shown(tmp_path) -> None:
    root = voc(tmp_path)
    picture(1, drawn_boxes(1), width=97).save(root / "JPEGImages" / "0001.png")
    (root / "Annotations" / "0001.xml").write_text(xml(drawn_boxes(1), width=97))
    train = at(root, image_size=25).drawn("train")
    shown = {tuple(train.show(row)[0].shape[1:]) for row in train.examples.rows.tolist()}
    assert set(train.sizes) == shown
    assert len(shown) == 2


def test_square_networks_see_squares(tmp_path) -> None:
    batch = first(at(voc(tmp_path), DetectionInput(size=96, longest=96, square=True)))
    assert batch.inputs["images"][0].shape == (3, 96, 96)
    torch.testing.assert_close(batch.targets[0]["scale"], torch.tensor([96 / 64, 96 / 48]))


def test_a_mirrored_image_shows_its_objects_where_its_boxes_say(tmp_path) -> None:
    data = at(voc(tmp_path), augment=True)
    split, seen = data.drawn("train"), set()
    for key in range(10 * len(split)):
        batch = split[key]
        image, target = batch.inputs["images"][0], batch.targets[0]
        for (x1, y1, x2, y2), label in zip(target["boxes"].int().tolist(), target["labels"], strict=True):
            if label == len(target["labels"]) - 1:  # the last was painted over the others
                inside = image[:, y1:y2, x1:x2].mean((1, 2))
                assert inside.argmax() == (0 if label == 0 else 1)
        seen.add((int(batch.places), tuple(target["boxes"].flatten().tolist())))
    assert len(seen) == 2 * len(split)


def test_an_image_that_is_not_held_in_memory_is_decoded_once_for_each_look(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(detection, "HELD_BYTES", 0)
    monkeypatch.setattr(pixels, "decode", counted := Mock(wraps=decode))
    split = at(voc(tmp_path), augment=True).drawn("train")
    for key in range(3):
        split[key]
    assert counted.call_count == 3


def test_mirroring_depends_on_seed_epoch_and_place_alone(tmp_path) -> None:
    root = voc(tmp_path)
    one, other, third = (at(root, augment=True).drawn("train") for _ in range(3))
    third.seed = 1
    keys = range(40)
    boxes = [[split[key].targets[0]["boxes"].tolist() for key in keys] for split in (one, other, third)]
    torch.manual_seed(99)
    assert [other[key].targets[0]["boxes"].tolist() for key in keys] == boxes[0] == boxes[1]
    assert boxes[2] != boxes[0]


def test_evaluation_mirrors_nothing(tmp_path) -> None:
    data = at(voc(tmp_path), augment=True)
    batches = [data.drawn("val")[epoch * 3].targets[0]["boxes"].tolist() for epoch in range(6)]
    assert all(each == batches[0] for each in batches)


def test_batches_hold_lists_of_images_and_their_parts(tmp_path) -> None:
    data = at(voc(tmp_path), batch_size=3)
    batch = next(iter(data.val_dataloader()))
    assert len(batch.inputs["images"]) == len(batch.inputs["targets"]) == len(batch.targets) == 3
    part = batch.part(slice(1, 2))
    assert torch.equal(part.inputs["images"][0], batch.inputs["images"][1])
    assert part.targets[0] is batch.targets[1]


def test_difficult_objects_are_for_evaluation_only(tmp_path) -> None:
    root = voc(tmp_path)
    boxes = [("apple", 1, 2, 20, 30), ("leaf", 5, 6, 40, 41)]
    add_voc(root, "0000", 0, boxes, difficult=[1])
    data = at(root)
    batch = first(data, place=named(data, "train")["0000"])
    assert batch.inputs["targets"][0]["labels"].tolist() == [0]
    assert batch.targets[0]["labels"].tolist() == [0, 1]
    assert batch.targets[0]["iscrowd"].tolist() == [0, 1]
    assert data.describe()["splits"]["train"]["for_evaluation_only"] == 1


@pytest.mark.parametrize("mode", ["L", "RGBA", "I;16"])
def test_grey_transparent_and_deep_images_are_shown_in_colour(tmp_path, mode) -> None:
    root = voc(tmp_path)
    file = root / "JPEGImages" / "0000.png"
    deep = (
        Image.fromarray(np.full((48, 64), 300 * 128, np.uint16)) if mode == "I;16" else Image.open(file).convert(mode)
    )
    deep.save(file)
    data = at(root)
    assert first(data, place=named(data, "train")["0000"]).inputs["images"][0].shape == (3, 48, 64)


def test_exif_rotation_is_left_alone_as_boxes_are_in_stored_pixels(tmp_path) -> None:
    root = voc(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    boxes = drawn_boxes(0)
    stored = picture(0, boxes)
    (root / "JPEGImages" / "0000.png").unlink()
    stored.save(root / "JPEGImages" / "0000.jpg", exif=exif, quality=100, subsampling=0)
    data = at(root)
    batch = first(data, place=named(data, "train")["0000"])
    assert batch.inputs["images"][0].shape == (3, 48, 64)
    _, x1, y1, x2, y2 = boxes[0]
    assert batch.inputs["images"][0][:, y1:y2, x1:x2].mean((1, 2)).argmax() == 0
    assert decode((root / "JPEGImages" / "0000.jpg").read_bytes()).shape == (3, 64, 48)


def test_a_size_that_is_the_upright_images_is_refused(tmp_path) -> None:
    root = voc(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    (root / "JPEGImages" / "0000.png").unlink()
    picture(0, []).save(root / "JPEGImages" / "0000.jpg", exif=exif)
    (root / "Annotations" / "0000.xml").write_text(xml([], width=48, height=64))
    told = refusal(root)
    assert "'0000.jpg' (64x48 pixels, but Annotations/0000.xml says 48x64" in told
    assert "boxes are those of the image turned upright" in told


# What is counted


def test_images_without_objects_are_background(tmp_path) -> None:
    root = voc(tmp_path)
    add_voc(root, "0001", 1, [])
    data = at(root)
    batch = first(data, place=named(data, "train")["0001"])
    assert batch.inputs["targets"][0]["boxes"].shape == (0, 4)
    assert data.describe()["splits"]["train"]["without_objects"] == 1


def test_boxes_over_the_border_end_there_and_those_without_area_are_listed(tmp_path) -> None:
    root = voc(tmp_path)
    add_voc(root, "0000", 0, [("apple", -3, 10, 20, 60), ("apple", 5, 5, 5, 9), ("leaf", 30, 9, 20, 12)])
    data = at(root)
    batch = first(data, place=named(data, "train")["0000"])
    assert batch.targets[0]["boxes"].tolist() == [[0, 10, 20, 48]]
    found = data.describe()["boxes"]
    assert found["clipped"] == 1
    assert found["degenerate"] == 2
    assert found["degenerate_boxes"] == ["Annotations/0000.xml object 2", "Annotations/0000.xml object 3"]


@pytest.mark.parametrize("box", [(10, 5, 10 + 1e-9, 9), (63.9999999, 5, 80, 9), (5, -3, 9, 1e-46), (0, 5, 1e-6, 9)])
def test_a_box_whose_area_is_lost_in_32_bits_is_listed(tmp_path, box) -> None:
    data = at(spoil(voc(tmp_path), [("apple", *box), ("leaf", 3, 4, 30, 40)]))
    assert data.describe()["boxes"]["degenerate_boxes"] == ["Annotations/0000.xml object 1"]
    assert first(data, place=named(data, "train")["0000"]).targets[0]["boxes"].tolist() == [[3, 4, 30, 40]]


@pytest.mark.parametrize("x1", [0, 1.2345678, 63.989])
def test_the_narrowest_box_that_is_kept_has_a_width_however_it_is_shown(tmp_path, x1) -> None:
    root = spoil(voc(tmp_path), [("apple", x1, 5, x1 + 0.0101, 9)])
    for spec in (DetectionInput(size=7, longest=96), SEEN, DetectionInput(size=1333, longest=1333, square=True)):
        data = at(root, spec, augment=True)
        place = named(data, "train")["0000"]
        for epoch in range(8):
            (box,) = data.drawn("train")[epoch * 8 + place].inputs["targets"][0]["boxes"]
            assert box[2] > box[0]
            assert box[3] > box[1]


def test_chosen_classes_leave_the_others_as_background_and_count_them(tmp_path) -> None:
    data = at(voc(tmp_path), classes=["leaf"])
    assert data.class_names == ["leaf"]
    assert data.describe()["boxes"]["of_other_classes"] == {"apple": 14}
    assert all(set(b["labels"].tolist()) <= {0} for b in next(iter(data.train_dataloader())).targets)


# What is drawn


def test_without_lists_splits_are_carved_by_content(tmp_path) -> None:
    data = at(voc(tmp_path, {"": 20}))
    assert [len(data.drawn(split)) for split in ("train", "val", "test")] == [14, 3, 3]


def test_trainval_stands_for_train_and_what_lacks_is_carved(tmp_path) -> None:
    data = at(voc(tmp_path, {"trainval": 10, "test": 4}))
    assert [len(data.drawn(split)) for split in ("train", "val", "test")] == [8, 2, 4]


def test_names_in_lists_may_hold_spaces_and_have_a_flag_behind_them(tmp_path) -> None:
    root = voc(tmp_path)
    for place, name in enumerate(("my cat", "my cat 1", "my dog", "0 1")):
        add_voc(root, name, 50 + place, drawn_boxes(place))
    (root / "ImageSets/Main/train.txt").write_text("my cat  1\nmy cat 1\nmy dog -1\n0 1\n0000  0\n0001\t-1\n0002\n")
    data = at(root)
    assert sorted(data.example_ids("train")) == ["0 1", "0000", "0001", "0002", "my cat", "my cat 1", "my dog"]


def test_a_listed_name_that_is_not_there_is_told_whole(tmp_path) -> None:
    (voc(tmp_path) / "ImageSets/Main/train.txt").write_text("no such picture  1\n")
    way_out = "add it, or remove the line from ImageSets/Main/train.txt"
    told = f"data.root={tmp_path}: train lists 'no such picture', which has no image in JPEGImages/; {way_out}"
    assert refusal(tmp_path) == told


def test_images_in_no_list_and_files_of_unknown_suffixes_are_told(tmp_path) -> None:
    assert at(voc(tmp_path / "plain")).remarks() == []
    root = voc(tmp_path / "more")
    picture(99, []).save(root / "JPEGImages" / "unlisted.png")
    (root / "JPEGImages" / "a.heic").write_bytes(b"heic")
    (told,) = at(root).remarks()
    assert told.startswith(f"{root}: 2 file(s) are left out, as images end in .jpg, ")
    assert told.endswith("stand in the lists of ImageSets/Main, where there are any: 'a.heic', 'unlisted.png'")


def test_images_that_no_file_of_annotations_lists_are_told_also_where_splits_share_a_folder(tmp_path) -> None:
    root = coco(tmp_path)
    (root / "train2017").rename(root / "images")
    for file in (root / "val2017").iterdir():
        file.rename(root / "images" / file.name)
    (root / "val2017").rmdir()
    picture(99, []).save(root / "images" / "other.png")
    (told,) = ready(Coco(root=str(root), seed=0)).remarks()
    assert told == f"{root}: 1 image(s) are left out, as no file of annotations lists them: 'images/other.png'"


def test_a_folder_above_is_enough(tmp_path) -> None:
    voc(tmp_path / "VOCdevkit" / "VOC2007")
    assert len(at(tmp_path).drawn("train")) == 8


def test_shots_are_images(tmp_path) -> None:
    assert len(at(voc(tmp_path), shots=3).drawn("train")) == 3


def test_an_image_in_two_splits_stays_in_test_alone_however_it_is_annotated(tmp_path) -> None:
    root = voc(tmp_path)
    (root / "JPEGImages" / "0000.png").write_bytes((root / "JPEGImages" / "0012.png").read_bytes())
    data = at(root)
    assert "0000" not in data.example_ids("train")
    assert data.describe()["duplicates_removed"] == {"train": 1, "val": 0, "test": 0}


def test_one_image_with_different_boxes_is_told_and_with_the_same_is_not(tmp_path) -> None:
    root = voc(tmp_path, {"": 20})
    boxes = [("apple", 1, 2, 20, 30), ("leaf", 3, 4, 30, 40)]
    for name, own in (("0002", boxes), ("0003", boxes[:1]), ("0005", boxes), ("0006", boxes[::-1])):
        same = "0002" if name < "0004" else "0005"
        (root / "JPEGImages" / f"{name}.png").write_bytes((root / "JPEGImages" / f"{same}.png").read_bytes())
        (root / "Annotations" / f"{name}.xml").write_text(xml(own))
    data = at(root)
    assert data.describe()["contradictory_labels"] == 1
    assert data.describe()["duplicates_removed"] == {"train": 2}
    assert data.remarks()[1:] == [
        f"{root}: the same content stands under different labels 1 time(s), such as '0002' and '0003'; "
        "in train, the annotation of the first name is kept"
    ]


def test_one_image_with_different_boxes_in_two_splits_is_told(tmp_path) -> None:
    root = voc(tmp_path)
    (root / "JPEGImages" / "0000.png").write_bytes((root / "JPEGImages" / "0012.png").read_bytes())
    (root / "Annotations" / "0000.xml").write_text(xml([("apple", 1, 2, 20, 30)]))
    _, told = at(root).remarks()
    assert "such as '0000' and '0012'" in told


def test_the_fingerprint_knows_the_boxes(tmp_path) -> None:
    before = at(voc(tmp_path / "one")).fingerprint()
    assert at(voc(tmp_path / "same")).fingerprint() == before
    other = voc(tmp_path / "other")
    (other / "Annotations" / "0000.xml").write_text(xml([("apple", 1, 2, 20, 30)]))
    assert at(other).fingerprint() != before


# What is refused


def spoil(root: Path, boxes, **annotation) -> Path:
    (root / "Annotations" / "0000.xml").write_text(xml(boxes, **annotation))
    return root


def test_a_box_outside_is_refused_with_its_place(tmp_path) -> None:
    told = refusal(spoil(voc(tmp_path), [("leaf", 1, 2, 9, 9), ("apple", 64, 3, 80, 9)]))
    assert "Annotations/0000.xml object 2, 'apple' at (64, 3, 80, 9), lies outside its image of 64x48 pixels" in told


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("place", range(4))
def test_a_box_of_coco_that_is_not_finite_is_refused_with_its_id(tmp_path, number: str, place: int) -> None:
    root = coco(tmp_path)
    box = ["4", "5", "20", "18"]
    box[place] = number
    file = root / "annotations/instances_train2017.json"
    file.write_text(re.sub(r'("id": 1, .*?"bbox": )\[.*?\]', rf"\1[{', '.join(box)}]", file.read_text(), count=1))
    told = refusal(root, Coco)
    assert told.startswith(f"data.root={root}: annotations/instances_train2017.json annotation 1, 'apple' at (")
    assert told.endswith("), is not finite; correct or remove it")
    assert refusal(root, Coco, classes=["leaf"]) == told


@pytest.mark.parametrize("number", ["nan", "inf"])
def test_a_box_of_voc_that_is_not_finite_is_refused_with_its_place(tmp_path, number: str) -> None:
    told = refusal(spoil(voc(tmp_path), [("leaf", 1, 2, 9, number)]))
    assert told == (
        f"data.root={tmp_path}: Annotations/0000.xml object 1, 'leaf' at (1, 2, 9, {number}), is not finite; "
        "correct or remove it"
    )


def test_a_class_that_train_lacks_is_refused(tmp_path) -> None:
    root = voc(tmp_path)
    (root / "Annotations" / "0012.xml").write_text(xml([("appel", 1, 2, 9, 9)]))
    told = refusal(root)
    assert told.endswith(
        "Annotations/0012.xml object 1 is a 'appel', which no training image has; did you mean 'apple'?"
    )


def test_chosen_classes_that_are_not_there_are_refused(tmp_path) -> None:
    root = voc(tmp_path)
    assert "has an object named 'appel'; did you mean 'apple'?" in refusal(root, classes=["appel", "leaf"])
    assert "'leaf' stands there twice" in refusal(root, classes=["leaf", "leaf"])
    assert "there is nothing to find; choose from apple, leaf" in refusal(root, classes=[])


def test_missing_halves_of_a_pair_are_refused(tmp_path) -> None:
    root = voc(tmp_path, {"": 4})
    (root / "Annotations" / "0001.xml").unlink()
    assert "'0001.png' has no Annotations/0001.xml; add it, without an object if the image is background" in refusal(
        root
    )
    (root / "JPEGImages" / "0001.png").unlink()
    (root / "JPEGImages" / "0002.png").unlink()
    assert "Annotations/0002.xml has no image in JPEGImages/" in refusal(root)


def test_a_listed_image_that_is_not_there_is_refused(tmp_path) -> None:
    root = voc(tmp_path)
    (root / "Annotations" / "0013.xml").unlink()
    assert "test lists '0013', which has no .xml in Annotations/" in refusal(root)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<annotation><object>", "is no whole XML"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotation/>', "declares a DOCTYPE, which no annotation needs"),
        ("<annotation><object><name>leaf</name></object></annotation>", "object 1, 'leaf', has no bndbox of four"),
        ("<annotation><object/></annotation>", "object 1 has no name"),
    ],
)
def test_annotations_that_cannot_be_read_are_refused(tmp_path, text, said) -> None:
    root = voc(tmp_path)
    (root / "Annotations" / "0000.xml").write_text(text)
    told = refusal(root)
    assert "Annotations/0000.xml" in told
    assert said in told


def test_truncated_images_and_other_sizes_are_named(tmp_path) -> None:
    root = spoil(voc(tmp_path), [], width=65)
    file = root / "JPEGImages" / "0001.png"
    file.write_bytes(file.read_bytes()[:900])
    told = refusal(root)
    assert "'0000.png' (64x48 pixels, but Annotations/0000.xml says 65x48)" in told
    assert "'0001.png' (image file is truncated" in told


def test_what_is_wrong_with_an_image_is_said_as_everywhere(tmp_path) -> None:
    root = voc(tmp_path)
    images = root / "JPEGImages"
    (images / "0000.png").write_bytes(b"")
    (images / "0001.png").write_bytes(b"neither pixels nor a program")
    with (images / "0002.png").open("wb") as file:
        picture(2, []).save(file, "EPS")  # Pillow would run a program on it
    broken = "'0000.png' (an empty file), '0001.png' (not an image), '0002.png' (not an image)"
    assert f"cannot use {broken}; replace, correct or remove what is wrong" in refusal(root)


def test_a_wrong_root_and_a_wrong_network_are_refused(tmp_path) -> None:
    voc(tmp_path / "cells")
    assert f"did you mean '{tmp_path / 'cells'}'?" in refusal(tmp_path / "cels")
    (tmp_path / "empty").mkdir()
    assert "there is no JPEGImages/ in it" in refusal(tmp_path / "empty")
    with pytest.raises(RequestError, match="takes no images with boxes"):
        Voc(root="x", seed=0).expect(ImageInput(size=8, mean=(0.0,), std=(1.0,)))


# COCO


def test_coco_has_the_same_images_and_boxes(tmp_path) -> None:
    data = ready(Coco(root=str(coco(tmp_path)), seed=0))
    assert data.class_names == ["apple", "leaf"]
    assert [len(data.drawn(split)) for split in ("train", "val", "test")] == [7, 3, 1]
    for name, place in named(data, "train").items():
        boxes = drawn_boxes(int(Path(name).stem))
        assert first(data, place=place).targets[0]["boxes"].tolist() == [list(map(float, box[1:])) for box in boxes]
        assert first(data, place=place).targets[0]["labels"].tolist() == list(range(len(boxes)))


def change(root: Path, old: str, new: str, split: str = "train") -> Path:
    file = root / "annotations" / f"instances_{split}2017.json"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    return root


def test_a_crowd_is_for_evaluation_only(tmp_path) -> None:
    data = ready(Coco(root=str(change(coco(tmp_path), '"iscrowd": 0', '"iscrowd": 1')), seed=0))
    assert sum(data.describe()["splits"][split]["for_evaluation_only"] for split in ("train", "val", "test")) == 1


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"image_id": 0', '"image_id": 77', "has no image 77, which annotations/instances_train2017.json annotation 1"),
        ('"category_id": 7', '"category_id": 9', "has no category 9, which annotations/instances_train2017.json"),
        ("000000000000.jpg", "nothing.jpg", "lists image 'nothing.jpg', which is not in train2017/"),
        ('"width": 64', '"width": 63', "'000000000000.jpg' (64x48 pixels, but annotations/instances_train2017.json"),
        ('"id": 1, "file_name"', '"id": 0, "file_name"', "has two images of id 0"),
        ('"annotations"', '"annotation"', "has no list of annotations, which COCO's files of instances have"),
        ('"bbox": [', '"bbox": ["x", ', "annotation 1, 'apple', has no bbox of four numbers"),
        ('"bbox": [', f'"bbox": [1{"0" * 400}, ', "annotation 1, 'apple', has no bbox of four numbers"),
        ('"bbox"', '"box"', "annotation 1, 'apple', has no bbox of four numbers (x, y, width, height); correct or"),
        ('"bbox": [', '"bbox": "1234", "b": [', "annotation 1, 'apple', has no bbox of four numbers"),
        ('"name": "leaf"', '"title": "leaf"', "has no name in category 3, which should be a text; correct it"),
        (
            '"name": "leaf"',
            '"name": ["leaf"]',
            "has ['leaf'] as name in category 3, which should be a text; correct it",
        ),
        ('"id": 3, "name"', '"name"', "has no id in entry 1 of categories, which should be a whole number or a text"),
        ('"id": 3, "name"', '"id": [3], "name"', "has [3] as id in entry 1 of categories, which should be"),
        ('"id": 7, "name"', '"id": 3, "name"', "has two categories of id 3; number them"),
        ('"id": 1, "file_name"', '"file_name"', "has no id in entry 2 of images, which should be a whole number"),
        ('"id": 1, "file_name"', '"id": 1, "name"', "has no file_name in image 1, which should be a text; correct it"),
        ('"id": 1, "file_name": "', '"id": 1, "file_name": 1, "n": "', "has 1 as file_name in image 1, which should"),
        ('"image_id": 0', '"picture": 0', "has no image_id in annotation 1, which should be a whole number or a text"),
        ('"image_id": 0', '"image_id": "0"', "has no image '0', which annotations/instances_train2017.json annotation"),
        ('"category_id": 7', '"category": 7', "has no category_id in annotation 1, which should be a whole number"),
        ('"category_id": 7', '"category_id": {}', "has {} as category_id in annotation 1, which should be a whole"),
        ('"width": 64', '"width": "64"', "gives image '000000000000.jpg' a width and height that are no numbers"),
    ],
)
def test_what_coco_files_have_wrong_is_named(tmp_path, old, new, said) -> None:
    assert said in refusal(change(coco(tmp_path), old, new), Coco)


def test_an_image_that_no_file_lists_is_counted_once_however_many_share_its_folder(tmp_path) -> None:
    root = coco(tmp_path, {"train": 8, "val": 3, "test": 3})
    for split in ("train", "val", "test"):
        (root / "images").mkdir(exist_ok=True)
        for file in (root / f"{split}2017").iterdir():
            file.rename(root / "images" / file.name)
        (root / f"{split}2017").rmdir()
    assert Coco(root=str(root), seed=0, val_images="annotations/../images").source().ignored == ()
    picture(77, []).save(root / "images" / "stray.png")
    assert len(Coco(root=str(root), seed=0).source().ignored) == 1


def test_ids_may_be_texts_if_all_are(tmp_path) -> None:
    root = coco(tmp_path)
    for file in (root / "annotations").iterdir():
        file.write_text(re.sub(r'("(?:id|image_id|category_id)": )(\d+)', r'\1"\2"', file.read_text()))
    data = ready(Coco(root=str(root), seed=0))
    assert data.class_names == ["apple", "leaf"]
    assert len(data.drawn("train")) == 7


def test_a_file_without_images_is_named(tmp_path) -> None:
    root = coco(tmp_path)
    file = root / "annotations" / "instances_val2017.json"
    file.write_text('{"images": [], "annotations": [], "categories": []}')
    problem = "there is no example of val; add some, or remove it to have val carved from train"
    assert refusal(root, Coco) == f"data.root={file}: {problem}"
    said = "annotations/instances_val2017.json"
    assert refusal(root, Coco, val=said) == f"data.val={said}: {problem}"


def test_lists_that_name_the_same_images_are_named(tmp_path) -> None:
    lists = voc(tmp_path) / "ImageSets" / "Main"
    (lists / "val.txt").write_text((lists / "test.txt").read_text())
    problem = "every example of val stands in test too; add others, or remove it to have val carved from train"
    assert refusal(tmp_path) == f"data.root={lists / 'val.txt'}: {problem}"


def test_a_truncated_file_and_a_wrong_name_are_told(tmp_path) -> None:
    root = coco(tmp_path)
    told = refusal(root, Coco, val="annotations/instances_vl2017.json")
    assert "data.val=annotations/instances_vl2017.json: no such file" in told
    assert "did you mean 'annotations/instances_val2017.json'?" in told
    assert "data.val_images=pics: no such folder" in refusal(root, Coco, val_images="pics")
    file = root / "annotations" / "instances_val2017.json"
    file.write_text(file.read_text()[:200])
    assert "annotations/instances_val2017.json is no whole JSON" in refusal(root, Coco)


@pytest.mark.shared_data
def test_real_blood_cells_are_read_and_their_two_boxes_without_area_counted(shared) -> None:
    data = at(shared / "data" / "bccd")
    assert data.class_names == ["Platelets", "RBC", "WBC"]
    assert [len(data.drawn(split)) for split in ("train", "val", "test")] == [205, 87, 72]
    assert data.describe()["boxes"]["degenerate"] == 2


def test_two_images_of_one_name_are_refused(tmp_path: Path) -> None:
    voc(tmp_path)
    one = next((tmp_path / "JPEGImages").iterdir())
    (tmp_path / "JPEGImages" / "again").mkdir()
    (tmp_path / "JPEGImages" / "again" / one.name).write_bytes(one.read_bytes())
    assert f"'{one.name}' and 'again/{one.name}' have one name in JPEGImages/; rename one of them" in refusal(
        tmp_path
    ) or f"'again/{one.name}' and '{one.name}' have one name" in refusal(tmp_path)


def test_a_list_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    voc(tmp_path)
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True, exist_ok=True)
    (lists / "train.txt").write_bytes(b"000\nF\xfc\xdfe\n")
    assert refusal(tmp_path).endswith("line 2 is not UTF-8; save the file as UTF-8")
