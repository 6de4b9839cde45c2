import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from frostline.errors import WeightsError
from frostline.nn.weights import CLASSES, HEADER, classes_in, read_weights

WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.tensor([1, 2], dtype=torch.int64)}


def assert_read(path: Path) -> None:
    read = read_weights(path)
    assert read.keys() == WEIGHTS.keys()
    assert all(torch.equal(read[name], weight) and read[name].dtype == weight.dtype for name, weight in WEIGHTS.items())


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".th", ".bin", ".ckpt"])
def test_pickles_are_read_under_any_usual_ending(tmp_path, suffix):
    torch.save(WEIGHTS, path := tmp_path / f"weights{suffix}")
    assert_read(path)


def test_safetensors_are_read(tmp_path):
    save_file(WEIGHTS, path := tmp_path / "weights.safetensors")
    assert_read(path)


def test_an_ending_may_be_in_capitals(tmp_path):
    save_file(WEIGHTS, path := tmp_path / "WEIGHTS.SAFETENSORS", metadata={HEADER: json.dumps({CLASSES: '["a"]'})})
    assert_read(path)
    assert_read(tmp_path)
    assert classes_in(path) == classes_in(tmp_path) == ["a"]
    torch.save(WEIGHTS, path := tmp_path / "WEIGHTS.PTH")
    assert_read(path)


def test_the_old_pickle_format_is_read(tmp_path):
    torch.save(WEIGHTS, path := tmp_path / "weights.pth", _use_new_zipfile_serialization=False)
    assert_read(path)


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": WEIGHTS, "best_prec1": 91.7},
        {"model": WEIGHTS, "optimizer": {"state": {}}},
        {"epoch": 3, "model_state_dict": WEIGHTS},
        {"model": {"state_dict": WEIGHTS}},
        {"pytorch-lightning_version": "2.6.6", "state_dict": WEIGHTS, "hyper_parameters": {"lr": 0.1}, "callbacks": {}},
        WEIGHTS | {"extra": "text"},
    ],
    ids=["state_dict", "model", "model_state_dict", "nested", "lightning", "beside other things"],
)
def test_wrapped_weights_are_unwrapped(tmp_path, content):
    torch.save(content, path := tmp_path / "weights.pt")
    assert_read(path)


def test_networks_side_by_side_keep_their_names_apart(tmp_path):
    optimizer = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": []}
    both = {"student": WEIGHTS, "teacher": {"net": {"b.bias": torch.ones(1)}}, "optimizer": optimizer, "epoch": 3}
    torch.save(both, path := tmp_path / "dino.pth")
    read = read_weights(path)
    assert sorted(read) == ["student.a.bias", "student.a.weight", "teacher.net.b.bias"]
    assert torch.equal(read["student.a.weight"], WEIGHTS["a.weight"])


def test_versions_that_torch_keeps_beside_weights_survive(tmp_path):
    torch.save({"state_dict": nn.BatchNorm1d(2).state_dict()}, path := tmp_path / "weights.pt")
    assert read_weights(path)._metadata[""]["version"] == 2


def message(path: Path) -> str:
    with pytest.raises(WeightsError) as caught:
        read_weights(path)
    return str(caught.value)


def test_a_missing_file_is_told_with_the_nearest_name(tmp_path):
    torch.save(WEIGHTS, tmp_path / "resnet20-12fca82f.th")
    path = tmp_path / "resnet20-12fca82.th"
    assert message(path) == f"there is no file '{path}'; did you mean 'resnet20-12fca82f.th'?"
    assert message(tmp_path / "no" / "folder.pt") == f"there is no file '{tmp_path}/no/folder.pt'"


class Evil:
    def __reduce__(self):
        return Path.touch, (Path("evil"),)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("content", [{"state_dict": WEIGHTS, "args": Evil()}, nn.Linear(2, 2)], ids=["code", "module"])
def test_a_file_that_needs_code_is_refused_and_runs_none(tmp_path, monkeypatch, content, zipped):
    monkeypatch.chdir(tmp_path)
    torch.save(content, path := tmp_path / "weights.pt", _use_new_zipfile_serialization=zipped)
    assert message(path) == (
        f"{path} needs to run code to be read, which is refused; save its state_dict alone: "
        "torch.save(network.state_dict(), FILE)."
    )
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_told_with_its_size(tmp_path, suffix, share):
    path = tmp_path / f"weights{suffix}"
    torch.save(WEIGHTS, path) if suffix == ".pt" else save_file(WEIGHTS, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    size = int(len(whole) * share)
    assert message(path) == f"{path} is truncated or not a file of weights ({size} bytes); copy or download it again."


@pytest.mark.parametrize("content", [b"<html>404</html>", bytes(range(256)), b"\x80\x02}q\x00."])
def test_a_file_of_something_else_is_refused(tmp_path, content):
    (path := tmp_path / "weights.pth").write_bytes(content)
    assert re.search(r"is truncated or not a file of weights \(\d+ bytes\)|holds no weights", message(path))


def test_an_unknown_ending_and_an_empty_dictionary_are_told(tmp_path):
    (path := tmp_path / "weights.zip").touch()
    assert message(path) == (
        f"{path} does not end as a file of weights does: .safetensors, .pt, .pth, .th, .bin, .ckpt."
    )
    torch.save({"epoch": 3}, path := tmp_path / "weights.pt")
    assert message(path) == (
        f"{path} holds no weights by name; save a state_dict: torch.save(network.state_dict(), FILE)."
    )


def test_tensors_without_names_are_no_weights(tmp_path: Path) -> None:
    torch.save({1: torch.ones(2)}, tmp_path / "numbered.pth")
    with pytest.raises(WeightsError, match="holds no weights by name"):
        read_weights(tmp_path / "numbered.pth")


def test_several_networks_side_by_side_are_all_read(tmp_path: Path) -> None:
    torch.save({"model": WEIGHTS, "model_ema": WEIGHTS, "epoch": 3}, tmp_path / "two.pth")
    names = {f"{network}.{name}" for network in ("model", "model_ema") for name in WEIGHTS}
    assert read_weights(tmp_path / "two.pth").keys() == names


def test_a_loose_tensor_hides_no_network(tmp_path: Path) -> None:
    torch.save({"net": WEIGHTS, "accuracy": torch.tensor(0.5), "epoch": 3}, tmp_path / "net.pth")
    assert read_weights(tmp_path / "net.pth").keys() == {"net.a.weight", "net.a.bias", "accuracy"}


def test_an_empty_wrapper_is_none(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "model": WEIGHTS}, tmp_path / "empty.pth")
    assert_read(tmp_path / "empty.pth")


@pytest.mark.parametrize("kind", ["model.safetensors", "pytorch_model.bin"])
def test_the_parts_that_an_index_names_are_one(kind: str, tmp_path: Path) -> None:
    first, last = ({name: WEIGHTS[name]} for name in WEIGHTS)
    for number, part in enumerate((first, last)):
        file = tmp_path / f"{number}{Path(kind).suffix}"
        save_file(part, file) if kind.endswith("safetensors") else torch.save(part, file)
    named = {name: f"{number}{Path(kind).suffix}" for number, name in enumerate(WEIGHTS)}
    (tmp_path / f"{kind}.index.json").write_text(json.dumps({"weight_map": named}))
    assert_read(tmp_path)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "is no index of weights; copy or download it again."),
        ("{}", "is no index of weights; copy or download it again."),
        ('{"weight_map": {"a": "../x.safetensors"}}', "names '../x.safetensors', which does not lie beside it"),
    ],
)
def test_an_index_that_cannot_be_followed_is_told(text: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(WeightsError, match=re.escape(sentence)):
        read_weights(tmp_path)


def test_classes_stand_in_a_header_or_in_a_folders_config(tmp_path: Path) -> None:
    save_file(
        {"a": torch.ones(1)}, tmp_path / "own.safetensors", metadata={HEADER: json.dumps({CLASSES: '["cat", "dog"]'})}
    )
    save_file({"a": torch.ones(1)}, tmp_path / "foreign.safetensors", metadata={"classes": "cat,dog"})
    assert classes_in(tmp_path / "own.safetensors") == ["cat", "dog"]
    assert classes_in(tmp_path / "foreign.safetensors") is None
    assert classes_in(tmp_path) is None
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {"1": "dog", "0": "cat"}}))
    assert classes_in(tmp_path) == ["cat", "dog"]
