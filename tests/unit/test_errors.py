"""What a user reads of several mistakes at once."""

import pytest

from frostline.errors import ConfigError, DataError, Mistakes, RequestError, named


def raised(refusals: dict[str, RequestError], *, alike: list[str]) -> RequestError:
    mistakes = Mistakes(alike)
    for name, error in refusals.items():
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
    error = raised(refusals, alike=["a", "b"])
    assert (error.problems if isinstance(error, ConfigError) else str(error)) == told
    assert isinstance(told, list) or type(error) is type(next(iter(refusals.values())))


def test_of_one_alone_nothing_is_common() -> None:
    assert str(raised({"a": DataError("no file")}, alike=["a"])) == "a: no file"


def test_where_nothing_is_refused_nothing_is_raised() -> None:
    mistakes = Mistakes()
    with mistakes.gathered():
        pass
    mistakes.refuse()


def test_a_name_stands_before_a_refusal_of_its_kind() -> None:
    with pytest.raises(DataError, match=r"^arm 'a': no file$"), named("arm 'a'"):
        raise DataError("no file")
