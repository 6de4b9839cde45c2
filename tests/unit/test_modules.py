"""What the LightningModules log."""

from functools import partial
from pathlib import Path

import pytest
import torch
from rigs import Rig

from frostline.errors import RequestError
from frostline.freeze.full import Full
from frostline.freeze.head import Head
from frostline.modules import WeightedMean


def test_batches_count_in_the_loss_by_their_weight_and_nan_is_seen() -> None:
    mean = WeightedMean(nan_strategy="disable")
    for value, weight in ((1.0, 64), (3.0, 1024), (9.0, 0)):
        mean.update(torch.tensor(value), weight=weight)
    assert mean.compute().item() == pytest.approx((64 + 3 * 1024) / 1088)
    mean.update(torch.tensor(torch.nan), weight=1)
    assert torch.isnan(mean.compute())


def stopped(folder: Path) -> tuple[Rig, dict]:
    """A run of the head alone, and its checkpoint."""
    rig = Rig(Head(), epochs=1, optimizer=partial(torch.optim.SGD, lr=0.1))
    rig.module.unmoving = rig.unmoving
    rig.fit().save_checkpoint(folder / "last.ckpt")
    return rig, torch.load(folder / "last.ckpt", weights_only=True)


def test_a_checkpoint_holds_what_moves_and_is_completed_by_what_does_not(tmp_path) -> None:
    rig, checkpoint = stopped(tmp_path)
    held = {name for name in checkpoint["state_dict"] if name.startswith("network.")}
    assert held == {"network.fc.weight", "network.fc.bias"}
    rig.module.complete(checkpoint)
    whole = rig.module.state_dict()
    assert checkpoint["state_dict"].keys() == whole.keys()
    assert all(torch.equal(checkpoint["state_dict"][name], whole[name]) for name in whole)


def test_what_a_checkpoint_brings_is_not_what_the_run_was_given(tmp_path) -> None:
    """A fork that freezes what was trained until then: its checkpoints hold it, and nobody takes it for the start."""
    trained = Rig(Full(), epochs=1, optimizer=partial(torch.optim.SGD, lr=0.1))
    trained.fit().save_checkpoint(tmp_path / "full.ckpt")
    fork = Rig(Head(), epochs=2, optimizer=partial(torch.optim.SGD, lr=0.1))
    fork.module.unmoving = fork.unmoving
    known = fork.module.unmoving
    checkpoint = torch.load(tmp_path / "full.ckpt", weights_only=True)
    fork.module.on_load_checkpoint(checkpoint)
    assert known == {}
    fork.module.load_state_dict(checkpoint["state_dict"])
    own: dict = {"state_dict": fork.module.state_dict()}
    fork.module.on_save_checkpoint(own)
    assert own["state_dict"].keys() == fork.module.state_dict().keys()

    again = Rig(Head(), epochs=2, optimizer=partial(torch.optim.SGD, lr=0.1))
    again.module.unmoving = again.unmoving
    again.module.on_load_checkpoint(own)
    assert again.module.unmoving == {}
    assert all(torch.equal(own["state_dict"][name], t) for name, t in fork.module.state_dict().items())


def test_a_checkpoint_is_not_completed_by_other_weights(tmp_path) -> None:
    first, checkpoint = stopped(tmp_path)
    again = Rig(Head(), epochs=1, optimizer=partial(torch.optim.SGD, lr=0.1))
    again.network.load_state_dict(first.network.state_dict())
    with torch.no_grad():
        again.network.conv.weight.add_(1)
    again.module.unmoving = again.unmoving
    with pytest.raises(RequestError) as caught:
        again.module.complete(checkpoint)
    assert str(caught.value) == (
        "init_from: gives frozen tensors other values than when the run began; restore what it names, or begin a new "
        "run"
    )
