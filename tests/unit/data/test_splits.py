"""Splits and shots depend on content and seed; no content stands in two of them."""

from collections.abc import Sequence
from hashlib import blake2b, sha256

import numpy as np
import pytest

from frostline.data.examples import Examples, Source
from frostline.data.pixels import ArrayImages
from frostline.data.splits import carve, divide, draw_shots, without_duplicates
from frostline.errors import DataError

CLASSES = ("cat", "dog")


def examples(contents: Sequence[str], labels: Sequence[int], prefix: str = "") -> Examples:
    return Examples(
        content=ArrayImages(array=np.zeros((len(contents), 2, 2), dtype=np.uint8)),
        rows=np.arange(len(contents)),
        labels=np.array(labels, dtype=np.int64),
        digests=tuple(sha256(content.encode()).hexdigest() for content in contents),
        ids=tuple(f"{prefix}{place}" for place in range(len(contents))),
    )


def pool(cats: int = 40, dogs: int = 20) -> Examples:
    return examples([f"content {i}" for i in range(cats + dogs)], [0] * cats + [1] * dogs)


def source(**splits: Examples) -> Source:
    return Source(name="pets", classes=CLASSES, splits=splits)


def contents(split: Examples) -> set[tuple[str, int]]:
    return set(zip(split.digests, split.labels.tolist(), strict=True))


def shuffled(split: Examples) -> Examples:
    mixed = split.take(np.random.default_rng(0).permutation(len(split)))
    return Examples(
        content=mixed.content, rows=mixed.rows, labels=mixed.labels, digests=mixed.digests, ids=split.ids[::-1]
    )


def test_carving_cuts_the_same_share_of_every_class_and_loses_nothing() -> None:
    division = divide(source(train=pool()), seed=0, val_fraction=0.15, test_fraction=0.25)
    counts = [split.per_stratum(CLASSES) for split in (division.train, division.val, division.test)]
    assert counts == [{"cat": 24, "dog": 12}, {"cat": 6, "dog": 3}, {"cat": 10, "dog": 5}]
    parts = [contents(split) for split in (division.train, division.val, division.test)]
    assert set.union(*parts) == contents(pool())
    assert sum(map(len, parts)) == 60


def test_carving_is_the_order_of_a_hash_of_seed_and_content() -> None:
    labels, digests = pool().labels, pool().digests
    cats = sorted(range(40), key=lambda place: blake2b(f"7/{digests[place]}".encode()).digest())
    parts = carve(labels, digests, fractions={"test": 0.1, "val": 0.2}, seed=7)
    assert [place for place in parts["test"] if place < 40] == sorted(cats[:4])
    assert [place for place in parts["val"] if place < 40] == sorted(cats[4:12])


def test_neither_names_nor_order_move_an_example_or_its_place() -> None:
    one = divide(source(train=pool()), seed=0, val_fraction=0.15, test_fraction=0.15)
    other = divide(source(train=shuffled(pool())), seed=0, val_fraction=0.15, test_fraction=0.15)
    for split in ("train", "val", "test"):
        assert getattr(one, split).digests == getattr(other, split).digests
        assert getattr(one, split).labels.tolist() == getattr(other, split).labels.tolist()


def test_another_split_seed_carves_another_test_set() -> None:
    one, other = (divide(source(train=pool()), seed=seed, val_fraction=0.15, test_fraction=0.15) for seed in (0, 1))
    assert contents(one.test) != contents(other.test)


def test_what_stands_in_two_splits_stays_in_test_before_val_before_train() -> None:
    given = {
        "train": examples(["a", "b", "c", "c", "d"], [0, 0, 0, 0, 1]),
        "val": examples(["b", "e", "f", "f"], [0, 0, 1, 1]),
        "test": examples(["a", "e", "g", "g"], [0, 0, 1, 1]),
    }
    kept, lost = without_duplicates(given)
    assert contents(kept["train"]) == contents(examples(["c", "d"], [0, 1]))
    assert contents(kept["val"]) == contents(examples(["b", "f"], [0, 1]))
    assert len(kept["test"]) == 4
    assert lost["test"] == []
    assert lost["val"] == [("1", "1", "test")]
    assert sorted(lost["train"]) == [("0", "0", "test"), ("1", "0", "val"), ("3", "2", "train")]


def test_a_duplicate_in_a_pool_lands_in_one_part_only() -> None:
    twice = examples([f"content {i // 2}" for i in range(80)], [i // 40 for i in range(80)])
    division = divide(source(train=twice), seed=0, val_fraction=0.2, test_fraction=0.2)
    digests = [digest for split in (division.train, division.val, division.test) for digest in split.digests]
    assert len(digests) == len(set(digests)) == 40
    assert {split: len(lost) for split, lost in division.duplicates.items()} == {"train": 40}


def test_given_splits_are_kept_and_only_the_absent_one_is_carved() -> None:
    val = examples(["v1", "v2"], [0, 1])
    division = divide(source(train=pool(), val=val), seed=0, val_fraction=0.5, test_fraction=0.1)
    assert contents(division.val) == contents(val)
    assert division.test.per_stratum(CLASSES) == {"cat": 4, "dog": 2}


@pytest.mark.parametrize("shots", [1, 5, 20])
def test_shots_are_exactly_so_many_of_each_class(shots: int) -> None:
    drawn = draw_shots(pool(), strata=CLASSES, shots=shots, seed=3, key="data.shots")
    assert drawn.per_stratum(CLASSES) == {"cat": shots, "dog": shots}
    assert len(set(drawn.digests)) == 2 * shots


def test_shots_follow_seed_and_content_only() -> None:
    def drawn(split: Examples, seed: int, key: str = "data.shots") -> set[tuple[str, int]]:
        return contents(draw_shots(split, strata=CLASSES, shots=5, seed=seed, key=key))

    assert drawn(pool(), 3) == drawn(shuffled(pool()), 3)
    assert drawn(pool(), 3) != drawn(pool(), 4)
    assert drawn(pool(), 3) != drawn(pool(), 3, key="data.val_shots")


def test_fewer_shots_of_one_seed_are_among_more_of_them() -> None:
    few, many = (draw_shots(pool(), strata=CLASSES, shots=k, seed=3, key="data.shots") for k in (5, 10))
    assert contents(few) < contents(many)


def test_hash_sees_content_label_and_order() -> None:
    split = examples(["a", "b"], [0, 1])
    hashes = [
        split.hash(CLASSES),
        split.take([1, 0]).hash(CLASSES),
        examples(["a", "b"], [1, 1]).hash(CLASSES),
        examples(["a", "c"], [0, 1]).hash(CLASSES),
        split.hash(("cat", "wolf")),
    ]
    assert len(set(hashes)) == len(hashes)


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        (
            "data.shots",
            "data.shots=50: class 'dog' has 20 training examples; choose at most 20, or add examples of 'dog'",
        ),
        (
            "data.val_shots",
            "data.val_shots=50: class 'dog' has 20 validation examples; choose at most 20, or add examples of 'dog'",
        ),
    ],
)
def test_too_few_examples_for_the_shots(key: str, sentence: str) -> None:
    with pytest.raises(DataError) as caught:
        draw_shots(pool(), strata=CLASSES, shots=50, seed=0, key=key)
    assert str(caught.value) == sentence


def sentence_of(given: Source, val_fraction: float = 0.15, test_fraction: float = 0.15) -> str:
    with pytest.raises(DataError) as caught:
        divide(given, seed=0, val_fraction=val_fraction, test_fraction=test_fraction)
    return str(caught.value)


def test_fractions_that_leave_nothing() -> None:
    assert sentence_of(source(train=pool()), val_fraction=0.5, test_fraction=0.6) == (
        "data.test_fraction=0.6 and data.val_fraction=0.5 leave nothing to train on; "
        "choose fractions whose sum is below 1"
    )


def test_a_pool_too_small_to_carve_val_from() -> None:
    few = examples(["a", "b", "c", "d"], [0, 0, 1, 1])
    assert sentence_of(source(train=few, test=examples(["e"], [0]))) == (
        "data.val_fraction=0.15 of 4 training examples of pets leaves val empty; "
        "raise data.val_fraction, or add examples"
    )


def test_a_val_that_is_all_in_test() -> None:
    given = source(train=pool(), val=examples(["a"], [0]), test=examples(["a"], [0]))
    assert sentence_of(given) == (
        "pets: every example of val stands in test too; add others, or remove it to have val carved from train"
    )


def test_a_class_whose_training_examples_all_stand_in_test() -> None:
    given = source(train=examples(["a", "b", "c"], [0, 0, 1]), val=examples(["d"], [0]), test=examples(["c"], [1]))
    assert sentence_of(given) == (
        "pets: class 'dog' has no training example left once those that stand in val or test too are dropped; "
        "add examples of 'dog'"
    )


def test_a_class_whose_training_examples_the_fractions_take() -> None:
    given = source(train=examples([*"abcdefgh", "x", "y"], [0] * 8 + [1, 1]))
    assert sentence_of(given, val_fraction=0.4, test_fraction=0.4) == (
        "pets: class 'dog' has no training example left once those that stand in val or test too are dropped and "
        "data.test_fraction=0.4 has taken its share and data.val_fraction=0.4 has taken its share; "
        "add examples of 'dog'"
    )
