"""The digits are scikit-learn's, told apart by the names that the user gave them."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from frostline.data.digits import Digits
from frostline.errors import DataError
from frostline.nn.backbone import ImageInput


def spec(size: int) -> ImageInput:
    return ImageInput(size=size, mean=(0.0,) * 3, std=(1.0,) * 3)


def digits(**options) -> Digits:
    data = Digits(**{"seed": 0, "image_size": 8, **options})
    data.expect(spec(8))
    data.setup()
    return data


def test_all_1797_digits_are_there_once_with_their_pixels_and_labels() -> None:
    data, bunch = digits(), load_digits()
    assert data.class_names == [str(digit) for digit in range(10)]
    seen = []
    for split in (data.drawn("train"), data.drawn("val"), data.drawn("test")):
        batch = split.__getitems__(range(len(split)))
        rows = split.examples.rows
        assert np.abs(batch[0][:, 1].numpy() * 16 - bunch.images[rows]).max() < 0.04
        assert batch[1].tolist() == bunch.target[rows].tolist()
        seen += rows.tolist()
    assert sorted(seen) == list(range(1797))


def test_seventy_fifteen_fifteen_of_every_digit() -> None:
    data = digits()
    counts = np.array(
        [
            split.examples.per_stratum(data.class_names)[name]
            for name in data.class_names
            for split in (data.drawn("val"), data.drawn("test"))
        ]
    )
    totals = np.bincount(load_digits().target).repeat(2)
    assert np.abs(counts - 0.15 * totals).max() <= 0.5


def test_labels_are_places_in_the_users_list() -> None:
    data = digits(digits=[7, 3])
    assert data.class_names == ["7", "3"]
    rows = data.drawn("train").examples.rows
    assert torch.equal(
        data.drawn("train").__getitems__(range(len(rows)))[1], torch.tensor(load_digits().target[rows] == 3).long()
    )


def test_a_digit_is_in_the_same_split_whichever_others_are_chosen() -> None:
    some, every = digits(digits=[4, 9]), digits()
    assert set(some.example_ids("test")) < set(every.example_ids("test"))


@pytest.mark.parametrize(("expected", "size"), [(32, 16), (224, 224)])
def test_small_networks_see_sixteen_pixels_and_others_what_they_expect(expected: int, size: int) -> None:
    data = Digits(seed=0)
    data.expect(spec(expected))
    assert data.spec.size == size


def test_augmentation_only_shifts() -> None:
    data = digits(augment=True, image_size=16)
    plain = digits(image_size=16)
    for key in range(20):
        shifted, still = data.drawn("train")[key][0][0], plain.drawn("train")[key][0][0]
        moves = [torch.roll(still, (down, right), (0, 1)) for down in range(-2, 3) for right in range(-2, 3)]
        inner = (slice(2, -2), slice(2, -2))
        assert any(torch.equal(shifted[inner], move[inner]) for move in moves)


@pytest.mark.parametrize(
    ("chosen", "sentence"),
    [
        ([3, 12], "data.digits=[3, 12]: 12 is no digit; choose from 0 to 9"),
        ([-1, 2], "data.digits=[-1, 2]: -1 is no digit; choose from 0 to 9"),
        ([3, 4, 3], "data.digits=[3, 4, 3]: 3 stands there twice; name each digit once"),
        ([], "data.digits=[]: there is nothing to tell apart; choose at least two digits, or null for all ten"),
        ([5], "data.digits=[5]: there is nothing to tell apart; choose at least two digits, or null for all ten"),
    ],
)
def test_a_choice_that_cannot_be_told_apart(chosen: list[int], sentence: str) -> None:
    with pytest.raises(DataError) as caught:
        Digits(seed=0, digits=chosen)
    assert str(caught.value) == sentence


def test_shots_beyond_what_there_is() -> None:
    with pytest.raises(DataError) as caught:
        digits(shots=500)
    assert str(caught.value) == (
        "data.shots=500: class '8' has 122 training examples; choose at most 122, or add examples of '8'"
    )
