"""What all image data shares: batches that depend on (seed, epoch, place) only, and a description that proves it."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torchvision.transforms import functional as transforms

from frostline.batch import Batch
from frostline.data.digits import Digits
from frostline.errors import RequestError
from frostline.nn.backbone import ImageInput

SPEC = ImageInput(size=8, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))


def digits(seed: int = 0, **options) -> Digits:
    data = Digits(**{"seed": seed, "digits": [0, 1], "image_size": 8, "batch_size": 8, **options})
    data.expect(SPEC)
    data.setup()
    return data


def epoch(data: Digits, number: int = 0) -> list[Batch]:
    loader = data.train_dataloader()
    loader.sampler.set_epoch(number)
    return list(loader)


def same(ours: list[Batch], theirs: list[Batch]) -> bool:
    pairs = zip(ours, theirs, strict=True)
    return all(torch.equal(a, b) for mine, other in pairs for a, b in zip(mine, other, strict=True))


def places(batches: list[Batch]) -> list[int]:
    return torch.cat([batch[2] for batch in batches]).tolist()


def test_a_batch_is_normalised_colour_images_with_labels_and_places() -> None:
    data = digits()
    batch = epoch(data)[0]
    assert (batch[0].shape, batch[0].dtype) == ((8, 3, 8, 8), torch.float32)
    assert batch[1].dtype == batch[2].dtype == torch.int64
    assert batch[1].tolist() == data.drawn("train").examples.labels[batch[2].numpy()].tolist()
    rows = data.drawn("train").examples.rows[batch[2].numpy()].tolist()
    raw = torch.from_numpy(np.stack([data.drawn("train").pixels[row] for row in rows]))
    scaled = transforms.convert_image_dtype(raw)
    assert torch.equal(batch[0], transforms.normalize(scaled, list(SPEC.mean), list(SPEC.std)))


def test_one_example_is_the_batch_of_it_without_the_first_axis() -> None:
    train = digits().drawn("train")
    inputs, target, index = train[5]
    batch = train.__getitems__([5])
    assert torch.equal(inputs, batch[0][0])
    assert (target, index) == (batch[1][0], 5)


@pytest.mark.parametrize("augment", [False, True])
def test_workers_change_no_bit_in_any_epoch(augment: bool) -> None:
    alone = digits(augment=augment, shots=15).train_dataloader()
    helped = digits(augment=augment, shots=15, num_workers=2).train_dataloader()
    for number in (0, 1):
        alone.sampler.set_epoch(number)
        helped.sampler.set_epoch(number)
        assert same(list(alone), list(helped))


def test_augmentation_differs_between_epochs_seeds_and_examples_and_repeats_otherwise() -> None:
    data, other = digits(augment=True), digits(seed=1, augment=True)
    count = len(data.drawn("train"))
    first, second = (data.drawn("train").__getitems__([number * count + 3]) for number in (0, 1))
    views = [data.drawn("train").__getitems__([number * count + 3])[0] for number in range(8)]
    assert len({view.numpy().tobytes() for view in views}) > 3
    assert torch.equal(first[0], data.drawn("train").__getitems__([3, 4])[0][:1])
    assert first[2] == second[2] == 3
    elsewhere = [other.drawn("train").__getitems__([number * count + 3])[0] for number in range(8)]
    assert not all(torch.equal(a, b) for a, b in zip(views, elsewhere, strict=True))


def test_only_training_examples_are_augmented() -> None:
    plain, augmented = digits(), digits(augment=True)
    assert same(list(plain.val_dataloader()), list(augmented.val_dataloader()))
    assert same(list(plain.test_dataloader()), list(augmented.test_dataloader()))
    assert not same(epoch(plain), epoch(augmented))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_loading_draws_nothing_from_the_global_generators(num_workers: int) -> None:
    data = digits(augment=True, shots=10, num_workers=num_workers)
    before = torch.get_rng_state()
    list(data.train_dataloader())
    list(data.val_dataloader())
    assert torch.equal(before, torch.get_rng_state())


def test_start_gives_exactly_the_remaining_batches() -> None:
    data = digits(augment=True)
    whole = epoch(data, 4)
    data.start(epoch=4, batch=3)
    loader = data.train_dataloader()
    assert same(list(loader), whole[3:])
    assert len(loader) == len(whole)


class Witness(pl.LightningModule):
    """Trains one number and remembers which batches came by."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, int, list[int], float]] = []

    def training_step(self, batch: Batch, number: int) -> Tensor:
        self.seen.append((self.current_epoch, number, batch[2].tolist(), batch[0].sum().item()))
        return self.weight

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Keep(pl.Callback):
    def __init__(self, path: str, step: int) -> None:
        self.path, self.step = path, step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


def fitted(data: Digits, *, checkpoint: str | None = None, callbacks: tuple[pl.Callback, ...] = ()) -> list:
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    quiet |= {"use_distributed_sampler": False, "limit_val_batches": 0, "log_every_n_steps": 1}
    witness = Witness()
    trainer = pl.Trainer(max_epochs=3, accelerator="cpu", callbacks=list(callbacks), **quiet)
    trainer.fit(witness, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    return witness.seen


@pytest.mark.filterwarnings("ignore")
def test_lightning_resumes_in_the_middle_of_an_epoch_with_the_batches_that_were_to_come(tmp_path) -> None:
    path = str(tmp_path / "cut.ckpt")
    uninterrupted = fitted(digits(augment=True, shots=20), callbacks=(Keep(path, 7),))
    data = digits(augment=True, shots=20)
    data.start(epoch=1, batch=2)
    assert fitted(data, checkpoint=path) == uninterrupted[7:]
    assert len(uninterrupted) == 15


def test_the_last_batch_may_be_smaller_and_goes_only_where_it_would_hold_one_example() -> None:
    assert [len(batch[2]) for batch in epoch(digits(shots=10))] == [8, 8, 4]
    assert [len(batch[2]) for batch in epoch(digits(shots=12, batch_size=23))] == [23]
    assert [len(batch[2]) for batch in epoch(digits(shots=1, batch_size=1))] == [1, 1]


def test_processes_share_training_evenly_and_evaluation_completely() -> None:
    shares = []
    for rank in range(3):
        data = digits(shots=10)
        data.trainer = SimpleNamespace(global_rank=rank, world_size=3)
        shares.append(data)
    trained = [places(epoch(data)) for data in shares]
    assert [len(share) for share in trained] == [6, 6, 6]
    assert len({place for share in trained for place in share}) == 18
    evaluated = [place for data in shares for place in places(list(data.val_dataloader()))]
    assert sorted(evaluated) == list(range(len(shares[0].drawn("val"))))
    tested = [place for data in shares for place in places(list(data.test_dataloader()))]
    assert sorted(tested) == list(range(len(shares[0].drawn("test"))))


def test_shots_follow_the_seed_and_val_and_test_do_not() -> None:
    one, other = digits(shots=10), digits(seed=1, shots=10)
    assert one.drawn("train").examples.per_stratum(one.class_names) == {"0": 10, "1": 10}
    assert one.example_ids("train") != other.example_ids("train")
    assert one.example_ids("val") == other.example_ids("val")
    assert one.example_ids("test") == other.example_ids("test")
    assert set(digits(shots=10, val_shots=3).drawn("val").examples.per_stratum(["0", "1"]).values()) == {3}


def test_every_arm_of_one_seed_draws_the_same_examples() -> None:
    base = digits(shots=10)
    arms = [digits(shots=10, **arm) for arm in ({"batch_size": 16}, {"augment": True}, {"image_size": 16})]
    assert all(arm.example_ids("train") == base.example_ids("train") for arm in arms)
    assert {arm.fingerprint() for arm in arms} == {base.fingerprint()}


def test_splits_share_no_content() -> None:
    data = digits()
    digests = [
        digest
        for split in (data.drawn("train"), data.drawn("val"), data.drawn("test"))
        for digest in split.examples.digests
    ]
    assert len(set(digests)) == len(digests)


def test_the_description_is_plain_and_complete() -> None:
    data = digits(shots=10)
    told = data.describe()
    assert json.loads(json.dumps(told)) == told
    assert told["classes"] == ["0", "1"]
    assert told["fingerprint"] == data.fingerprint()
    assert {name: split["examples"] for name, split in told["splits"].items()} == {"train": 20, "val": 54, "test": 54}
    assert told["splits"]["train"]["per_class"] == {"0": 10, "1": 10}
    assert (told["image_size"], told["mean"], told["std"]) == (8, [0.1, 0.2, 0.3], [0.5, 0.6, 0.7])
    assert (told["seed"], told["split_seed"], told["shots"], told["val_shots"]) == (0, 0, 10, None)


def test_content_is_that_of_the_whole_split_and_drawn_that_of_the_shots() -> None:
    few, other, full = (
        digits(**options).describe()["splits"] for options in ({"shots": 9}, {"shots": 9, "seed": 1}, {})
    )
    assert few["train"]["content"] == other["train"]["content"] == full["train"]["content"] == full["train"]["drawn"]
    assert len({few["train"]["drawn"], other["train"]["drawn"], full["train"]["drawn"]}) == 3
    assert few["test"] == full["test"]


def test_the_fingerprint_tells_draws_apart() -> None:
    options = ({}, {"shots": 5}, {"shots": 5, "seed": 1}, {"split_seed": 1}, {"digits": [1, 0]}, {"val_shots": 5})
    assert len({digits(**each).fingerprint() for each in options}) == len(options)


def test_the_network_fills_in_what_the_user_left_open() -> None:
    data = Digits(seed=0, image_size=12)
    data.expect(SPEC)
    assert data.spec == replace(SPEC, size=12)


def test_a_batch_before_its_time_says_which_call_is_missing() -> None:
    data = Digits(seed=0)
    with pytest.raises(AssertionError, match=r"^call setup\(\) before the splits are used$"):
        data.train_dataloader()
    with pytest.raises(
        AssertionError, match=r"^call expect\(\) with the network's ImageInput before the data is used$"
    ):
        data.setup()


def test_setup_is_done_once_and_shared() -> None:
    data, other = digits(), digits()
    train = data.drawn("train")
    data.setup("test")
    assert data.drawn("train") is train
    assert other.drawn("train").pixels is train.pixels


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixed_batches_are_the_plain_ones_mixed_and_depend_on_seed_and_epoch_only(kind: str) -> None:
    plain, mixed = digits(), digits(mix=kind, mix_alpha=0.7)
    before = torch.get_rng_state()
    once, again, later = epoch(mixed), epoch(mixed), epoch(mixed, 1)
    assert torch.equal(torch.get_rng_state(), before)
    assert same(once, again)
    assert not same(once, later)
    whole = epoch(plain)
    assert places(once) == places(whole)
    shares = []
    for batch, original in zip(once, whole, strict=True):
        own, other = original[1], original[1].roll(1)
        assert torch.allclose(batch[1].sum(1), torch.ones(len(own)))
        differ = own != other
        share = batch[1][differ].gather(1, own[differ, None])
        assert torch.allclose(share, share[0])
        shares.append(float(share[0]))
        if kind == "mixup":
            blended = shares[-1] * original[0] + (1 - shares[-1]) * original[0].roll(1, 0)
            torch.testing.assert_close(batch[0], blended, rtol=1e-4, atol=1e-5)
        else:
            pasted = (batch[0] == original[0]) | (batch[0] == original[0].roll(1, 0))
            assert pasted.all()
    assert len(set(shares)) > 1, "each batch has a share of its own"


def test_only_what_trains_is_mixed() -> None:
    data = digits(mix="mixup")
    for loader in (data.val_dataloader(), data.test_dataloader(), data.reference_dataloader()):
        assert next(iter(loader)).targets.ndim == 1
    assert data.describe()["mix"] == "mixup"


@pytest.mark.parametrize(("batch_size", "sizes"), [(5, [5, 5, 5, 5, 6]), (8, [8, 8, 8, 2]), (25, [26]), (64, [26])])
def test_the_reference_is_every_training_example_in_order_and_none_alone(batch_size: int, sizes: list[int]) -> None:
    data = digits(shots=13, batch_size=batch_size)
    batches = list(data.reference_dataloader())
    assert [len(batch.places) for batch in batches] == sizes
    assert torch.cat([batch.places for batch in batches]).tolist() == list(range(26))


def test_a_network_that_takes_no_images_is_refused() -> None:
    with pytest.raises(RequestError, match=r"^model: takes no images, which the data has"):
        Digits(seed=0).expect(object())
