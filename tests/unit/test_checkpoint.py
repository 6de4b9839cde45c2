import hashlib
import os
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

from frostline.checkpoint import Carried, carry, read_weights, save_weights, weights_hash
from frostline.errors import WeightsError
from frostline.nn.cifar_resnet import CifarResNet
from frostline.nn.renaming import Renaming

SHARED = Path(os.environ.get("FROSTLINE_SHARED", Path(__file__).parents[3] / "shared"))
PUBLIC = SHARED / "weights/resnet20-12fca82f.th"


def network(classes: int = 2) -> nn.Module:
    """72 parameters outside the head: 40 in conv, 32 in body; the head has 5 a class."""
    return nn.Sequential(
        OrderedDict(conv=nn.Linear(4, 8), bn=nn.BatchNorm1d(8, affine=False), body=nn.Linear(8, 4, bias=False))
        | {"flat": nn.Flatten(), "fc": nn.Linear(4, classes)}
    )


HEAD = ("fc.weight", "fc.bias")
SAME = Renaming(theirs="", ours="")


def clone(weights):
    return {name: weight.clone() for name, weight in weights.items()}


def same(left, right) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_everything_that_fits_is_carried_the_head_too():
    theirs, ours = network(), network()
    carried = carry(ours, theirs.state_dict(), head=HEAD, min_coverage=1.0)
    assert carried == Carried(missing=(), unexpected=(), reshaped=(), coverage=1.0, renamed=SAME)
    assert str(carried) == "carried 100.0 % of the parameters outside the head"
    assert same(ours.state_dict(), theirs.state_dict())


def test_weights_are_copied_into_the_parameters_that_are_there():
    theirs, ours = network(), network()
    before = {name: id(parameter) for name, parameter in ours.named_parameters()}
    carry(ours, theirs.state_dict(), head=HEAD, min_coverage=1.0)
    assert {name: id(parameter) for name, parameter in ours.named_parameters()} == before
    nn.init.zeros_(theirs.conv.weight)
    assert ours.conv.weight.abs().sum() > 0


def test_a_head_of_another_size_is_left_new_and_reported():
    theirs, ours = network(classes=5), network(classes=2)
    fresh = ours.fc.weight.clone()
    carried = carry(ours, theirs.state_dict(), head=HEAD, min_coverage=1.0)
    assert carried.reshaped == (("fc.bias", (5,), (2,)), ("fc.weight", (5, 4), (2, 4)))
    assert str(carried).splitlines() == [
        "  ~ fc.bias  (5,) in the weights, (2,) in the network",
        "  ~ fc.weight  (5, 4) in the weights, (2, 4) in the network",
        "carried 100.0 % of the parameters outside the head",
    ]
    assert torch.equal(ours.fc.weight, fresh)
    assert torch.equal(ours.conv.weight, theirs.conv.weight)


def test_the_coverage_counts_parameters_outside_the_head_by_their_numbers():
    ours, theirs = network(), clone(network().state_dict())
    del theirs["body.weight"]
    theirs["other"] = torch.zeros(3)
    carried = carry(ours, theirs, head=HEAD, min_coverage=0.5)
    assert carried.coverage == pytest.approx(40 / 72)
    assert str(carried).splitlines() == [
        "  - body.weight  in the network only",
        "  + other  in the weights only",
        "carried 55.5 % of the parameters outside the head",
    ]


def test_too_little_coverage_is_refused_and_leaves_the_network_untouched():
    ours, theirs = network(), {"conv.weight": torch.ones(8, 4), "fc.weight": torch.ones(2, 4)}
    before = clone(ours.state_dict())
    with pytest.raises(WeightsError) as caught:
        carry(ours, theirs, head=HEAD, min_coverage=0.9)
    assert str(caught.value).splitlines() == [
        "The weights do not fit the network:",
        "  - bn.running_mean  in the network only",
        "  - bn.running_var  in the network only",
        "  - body.weight  in the network only",
        "  - conv.bias  in the network only",
        "  - fc.bias  in the network only",
        "carried 44.4 % of the parameters outside the head, but 90.0 % must be; choose the model that these weights "
        "were trained in, or accept less with a lower min_coverage.",
    ]
    assert same(ours.state_dict(), before)


def test_long_lists_are_cut_after_twelve():
    ours = network()
    extra = {f"extra{index:02}": torch.zeros(1) for index in range(20)}
    lines = str(carry(ours, extra | ours.state_dict(), head=HEAD, min_coverage=1.0)).splitlines()
    assert lines[:2] == ["  + extra00  in the weights only", "  + extra01  in the weights only"]
    assert lines[11:] == [
        "  + extra11  in the weights only",
        "  + ... and 8 more",
        "carried 100.0 % of the parameters outside the head",
    ]


def test_almost_everything_is_not_rounded_to_everything():
    carried = Carried(missing=("x",), unexpected=(), reshaped=(), coverage=0.99999, renamed=SAME)
    assert str(carried).endswith("carried 99.9 % of the parameters outside the head")


@pytest.mark.parametrize("prefix", ["module.", "model.", "network.", "backbone.", "_orig_mod.", "module.model."])
def test_the_prefix_of_a_wrapper_is_taken_off(prefix):
    theirs, ours = network(), network()
    wrapped = {prefix + name: weight for name, weight in theirs.state_dict().items()}
    carried = carry(ours, wrapped | {"loss.weight": torch.ones(2)}, head=HEAD, min_coverage=1.0)
    assert carried.unexpected == ("loss.weight",)
    assert same(ours.state_dict(), theirs.state_dict())


def test_a_prefix_that_only_the_network_has_is_put_on():
    theirs, ours = network(), nn.ModuleDict({"backbone": network()})
    head = [f"backbone.{name}" for name in HEAD]
    carried = carry(ours, theirs.state_dict(), head=head, min_coverage=1.0)
    assert carried == Carried(
        missing=(), unexpected=(), reshaped=(), coverage=1.0, renamed=Renaming(theirs="", ours="backbone.")
    )
    assert same(ours.backbone.state_dict(), theirs.state_dict())


def test_names_are_not_changed_where_they_fit_as_they_are():
    theirs, ours = nn.ModuleDict({"model": nn.Linear(2, 2)}), nn.ModuleDict({"model": nn.Linear(2, 2)})
    assert carry(ours, theirs.state_dict(), head=(), min_coverage=1.0).coverage == 1.0
    assert torch.equal(ours["model"].weight, theirs["model"].weight)


def test_tied_weights_that_are_stored_once_are_neither_missing_nor_halved():
    def tied() -> nn.Module:
        module = nn.ModuleDict({"embed": nn.Linear(3, 3, bias=False), "head": nn.Linear(3, 3, bias=False)})
        module["head"].weight = module["embed"].weight
        return module

    theirs, ours = tied(), tied()
    for stored in ("embed.weight", "head.weight"):
        nn.init.normal_(theirs["embed"].weight)
        carried = carry(ours, {stored: theirs["embed"].weight.detach()}, head=(), min_coverage=1.0)
        assert carried == Carried(missing=(), unexpected=(), reshaped=(), coverage=1.0, renamed=SAME)
        assert torch.equal(ours["embed"].weight, theirs["embed"].weight)
        assert ours["embed"].weight is ours["head"].weight


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused_and_nothing_is_carried(value):
    ours, theirs = network(), clone(network().state_dict())
    theirs["body.weight"][0, 0] = value
    theirs["bn.running_var"][0] = value
    before = clone(ours.state_dict())
    with pytest.raises(WeightsError) as caught:
        carry(ours, theirs, head=HEAD, min_coverage=0.0)
    assert str(caught.value) == (
        "The weights hold NaN or infinite values in 'bn.running_var' and 1 more; choose a checkpoint from before the "
        "training that wrote them diverged."
    )
    assert same(ours.state_dict(), before)


def test_a_mask_that_is_infinite_by_design_is_carried():
    ours = network()
    ours.register_buffer("mask", torch.full((2, 2), float("-inf")).triu(1))
    assert carry(ours, clone(ours.state_dict()), head=HEAD, min_coverage=1.0).missing == ()


def test_half_precision_weights_fill_a_full_precision_network():
    theirs, ours = network().half(), network()
    carry(ours, theirs.state_dict(), head=HEAD, min_coverage=1.0)
    assert ours.conv.weight.dtype == torch.float32
    assert torch.equal(ours.conv.weight, theirs.conv.weight.float())


def test_saved_weights_are_read_back_with_their_metadata(tmp_path):
    saved = network()
    save_weights(saved, path := tmp_path / "weights.safetensors", {"run": "abc"})
    assert same(read_weights(path), dict(saved.state_dict()))
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"frostline": '{"run": "abc"}'}
    assert [entry.name for entry in tmp_path.iterdir()] == ["weights.safetensors"]


def test_tied_and_strided_weights_are_saved_under_every_name(tmp_path):
    saved = nn.ModuleDict({"a": nn.Linear(2, 3, bias=False), "b": nn.Linear(2, 3, bias=False)})
    saved["a"].weight = nn.Parameter(torch.randn(2, 3).T)
    saved["b"].weight = saved["a"].weight
    save_weights(saved, path := tmp_path / "weights.safetensors", {})
    read = read_weights(path)
    assert read.keys() == {"a.weight", "b.weight"}
    assert torch.equal(read["a.weight"], saved["a"].weight)
    assert torch.equal(read["b.weight"], saved["a"].weight)


def test_a_save_that_fails_leaves_the_file_that_was_there(tmp_path, monkeypatch):
    save_weights(network(), path := tmp_path / "weights.safetensors", {})
    before = path.read_bytes()

    def half(tensors, filename, metadata):
        filename.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr("frostline.checkpoint.save_file", half)
    with pytest.raises(OSError, match="No space left"):
        save_weights(network(), path, {})
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["weights.safetensors"]


def test_the_hash_is_sha256_over_names_types_shapes_and_bytes_in_sorted_order():
    weights = {"b": torch.tensor([1.0, 2.0]), "a": torch.tensor(3, dtype=torch.int64)}
    expected = b"a torch.int64 ()\n" + np.int64(3).tobytes()
    expected += b"b torch.float32 (2,)\n" + np.array([1, 2], np.float32).tobytes()
    assert weights_hash(weights) == hashlib.sha256(expected).hexdigest()
    assert weights_hash(dict(reversed(weights.items()))) == weights_hash(weights)


@pytest.mark.parametrize(
    "other",
    [
        {"v": torch.zeros(2, 2)},
        {"w": torch.zeros(4)},
        {"w": torch.zeros(2, 2, dtype=torch.int32)},
        {"w": torch.tensor([[0.0, 0.0], [0.0, -0.0]])},
        {"w": torch.zeros(2, 2), "x": torch.zeros(0)},
    ],
    ids=["name", "shape", "type", "sign of zero", "one more"],
)
def test_any_difference_changes_the_hash(other):
    assert weights_hash(other) != weights_hash({"w": torch.zeros(2, 2)})


def test_the_hash_takes_every_kind_of_tensor_by_its_values():
    values = torch.arange(6.0).reshape(2, 3)
    assert weights_hash({"w": values.T}) == weights_hash({"w": values.T.contiguous()})
    for dtype in (torch.bfloat16, torch.bool, torch.float16):
        assert len(weights_hash({"w": values.to(dtype), "empty": torch.zeros(0, dtype=dtype)})) == 64


@pytest.mark.shared_data
def test_public_weights_are_carried_by_more_than_their_names():
    if not PUBLIC.is_file():
        pytest.skip(f"{PUBLIC} is not there: set FROSTLINE_SHARED to the folder of real weights")
    ours, weights = CifarResNet(depth=20).network(3), read_weights(PUBLIC)
    carried = carry(ours, weights, head=("linear.weight", "linear.bias"), min_coverage=1.0)
    assert (carried.missing, carried.unexpected, carried.coverage) == ((), (), 1.0)
    assert [name for name, *_ in carried.reshaped] == ["linear.bias", "linear.weight"]
    assert torch.equal(ours.layer3[2].bn2.running_var, weights["module.layer3.2.bn2.running_var"])


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda weight: weight.to(torch.int8), "int8"),
        (lambda weight: weight.to(torch.complex64), "complex64"),
        (lambda weight: weight.to_sparse(), "sparse_coo"),
    ],
)
def test_numbers_that_would_become_others_are_refused(change, kind):
    weights = clone(network().state_dict())
    weights["conv.weight"] = change(weights["conv.weight"])
    ours = network()
    before = clone(ours.state_dict())
    with pytest.raises(WeightsError, match=f"^The weights hold {kind} numbers in 'conv.weight'; save them as dense"):
        carry(ours, weights, head=HEAD, min_coverage=0.5)
    assert same(ours.state_dict(), before)


def test_numbers_that_the_networks_type_cannot_hold_are_refused():
    weights = clone(network().state_dict())
    weights["conv.weight"] = weights["conv.weight"].double().fill_(1e300)
    with pytest.raises(WeightsError, match=r"NaN or infinite values in 'conv\.weight'"):
        carry(network(), weights, head=HEAD, min_coverage=0.5)


def test_equal_networks_are_equal_files(tmp_path):
    """In processes of their own, since safetensors orders its header by a number drawn anew in each."""
    code = (
        "import sys; from torch import ones; from frostline.checkpoint import save_tensors; "
        "save_tensors({'a': ones(1)}, sys.argv[1], {name: name for name in 'abcdefgh'})"
    )
    for name in ("one", "two"):
        subprocess.run([sys.executable, "-c", code, str(tmp_path / name)], check=True, timeout=120)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
