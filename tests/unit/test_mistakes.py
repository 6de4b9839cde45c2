"""What a user reads of several mistakes at once."""

import pytest

from frostline.errors import ConfigError, DataError, Mistakes, RequestError, moved


def raised(refusals: list[tuple[str, RequestError]], *, alike: list[str]) -> RequestError:
    mistakes = Mistakes(alike)
    for name, error in refusals:
        with mistakes.gathered(name):
            raise error
    with pytest.raises(RequestError) as caught:
        mistakes.refuse()
    return caught.value


@pytest.mark.parametrize(
    ("refusals", "told"),
    [
        ({"": DataError("no file")}, "no file"),
        ({"a": DataError("no file")}, "a: no file"),
        ({"a": DataError("no file"), "b": DataError("no file")}, "no file"),
        ({"a": DataError("no file"), "c": DataError("no file")}, ["a: no file", "c: no file"]),
        ({"c": RequestError("no file"), "a": DataError("no file"), "b": RequestError("no file")}, "no file"),
        ({"a": ConfigError(["x", "y"]), "b": RequestError("y")}, ["a: x", "y"]),
        ({"a": ConfigError(["x"])}, ["a: x"]),
    ],
)
def test_what_is_alike_is_told_once_and_the_rest_by_name(
    refusals: dict[str, RequestError], told: str | list[str]
) -> None:
    error = raised([*refusals.items()], alike=["a", "b"])
    assert (error.problems if isinstance(error, ConfigError) else str(error)) == told
    assert isinstance(told, list) or type(error) is type(next(iter(refusals.values())))


def test_of_one_alone_nothing_is_common() -> None:
    assert str(raised([("a", DataError("no file"))], alike=["a"])) == "a: no file"


def test_where_nothing_is_refused_nothing_is_raised() -> None:
    mistakes = Mistakes()
    with mistakes.gathered():
        pass
    mistakes.refuse()


def test_of_checks_with_one_name_each_is_told() -> None:
    refusals = [("a", "x"), ("a", "y"), ("b", "x")]
    assert raised([(name, RequestError(problem)) for name, problem in refusals], alike=["a", "b"]).args == (
        "2 problem(s) in the config:\n  x\n  a: y",
    )


def test_keys_stand_where_they_were_chosen_in_each_problem() -> None:
    error = moved(ConfigError(["model.name: unknown", "model.k: too small"]), "model.backbone", ["name", "k"])
    assert isinstance(error, ConfigError)
    assert error.problems == ["model.backbone.name: unknown", "model.backbone.k: too small"]
