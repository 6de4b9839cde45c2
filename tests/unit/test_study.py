"""What a study.yaml may say, and the sentence for what it may not."""

from pathlib import Path

import pytest

from frostline.errors import RequestError
from frostline.study import Study

GOOD = """
question: Which?
arms: {full: [freeze=full], head: [freeze=head]}
seeds: [0, 1]
reference: full
"""


def read(folder: Path, text: str) -> Study:
    (folder / "study.yaml").write_text(text)
    return Study.read(folder)


def test_a_study_is_read_with_its_defaults(tmp_path: Path) -> None:
    assert read(tmp_path, GOOD) == Study(
        question="Which?",
        arms={"full": ["freeze=full"], "head": ["freeze=head"]},
        seeds=[0, 1],
        reference="full",
        base=[],
        pretrain=None,
        metric="test/accuracy",
        higher_is_better=True,
        margin=0.005,
        confidence=0.95,
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (GOOD + "sedes: [1]", "sedes: unknown to Study; did you mean 'seeds'?"),
        (GOOD.replace("reference: full", "reference: ful"), "reference: no arm 'ful'; did you mean 'full'?"),
        (GOOD + "margin: 0", "margin: should be greater than 0, got 0"),
        (GOOD + "confidence: 95", "confidence: should be less than 1, got 95"),
        (GOOD.replace("[0, 1]", "[]"), "seeds: should have at least 1 item, got []"),
        (GOOD.replace("[0, 1]", "[zero]"), "seeds.0: should be a valid integer, got 'zero'"),
        (GOOD.replace("seeds: [0, 1]", ""), "seeds: required by Study"),
        (
            GOOD.replace("head: [freeze=head]", "head: [freeze=head, +seed=4]"),
            "arms.head: +seed=4 is not what runs; list it under seeds, which every arm runs with",
        ),
        (GOOD + "base: [seed=3]", "base: seed=3 is not what runs; list it under seeds, which every arm runs with"),
        (
            GOOD.replace("head: [freeze=head]", "head: freeze=head"),
            "arms.head: should be a list, got 'freeze=head'",
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_file(text: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError) as caught:
        read(tmp_path, text)
    assert str(caught.value) == f"1 problem(s) in the config:\n  {tmp_path}/study.yaml: {problem}"


@pytest.mark.parametrize("text", ["", "just words", "[1, 2]"])
def test_a_file_without_keys_is_told_what_it_lacks(text: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError) as caught:
        read(tmp_path, text)
    assert str(caught.value) == f"{tmp_path}/study.yaml: should hold keys such as question, arms and seeds"


def test_what_is_not_yaml_is_told_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"study.yaml: is not YAML: .* line 2") as caught:
        read(tmp_path, "question: what?\narms: [open\n")
    assert "\n" not in str(caught.value)


def test_an_arm_that_stands_twice_is_not_lost(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"study.yaml: is not YAML: 'head' stands twice in .* line 4"):
        read(tmp_path, "question: what?\narms:\n  head: [freeze=head]\n  head: [freeze=full]\n")


def test_a_misspelt_folder_gets_the_nearest_study(tmp_path: Path) -> None:
    (tmp_path / "digits").mkdir()
    read(tmp_path / "digits", GOOD)
    with pytest.raises(RequestError) as caught:
        Study.read(tmp_path / "digts")
    assert str(caught.value) == f"{tmp_path}/digts: holds no study.yaml; beside it, did you mean 'digits'?"


EXPERIMENTS = sorted((Path(__file__).parents[2] / "experiments").glob("*/study.yaml"))


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda file: file.parent.name)
def test_every_study_of_the_repository_can_be_read(file: Path) -> None:
    assert Study.read(file.parent).question
