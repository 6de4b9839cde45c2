"""The errors that are the user's to mend, a sentence each that names the key or the file and the way out.

What a person who interrupts is told is made here too.
"""

import re
import shlex
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class RequestError(ValueError):
    """What was asked for cannot be done as asked; the command line prints the sentence and exits with 2."""


class ConfigError(RequestError):
    """Every problem of a config at once, one per line, as `key: what is wrong`."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n  ".join([f"{len(problems)} problem(s) in the config:", *problems]))


def problems_of(error: RequestError) -> list[str]:
    """Return the sentences of an error, of which a `ConfigError` has several."""
    return error.problems if isinstance(error, ConfigError) else [str(error)]


def counted(number: int, noun: str) -> str:
    """Return a number and what it counts.

    >>> counted(1, "line"), counted(0, "line"), counted(1200, "class")
    ('1 line', '0 lines', '1,200 classes')
    """
    ending = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{ending}"


@contextmanager
def goes_on_by(*command: str) -> Iterator[None]:
    """Tell a person who interrupts this context by which of our commands it goes on; the outermost context tells."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"go on with: {shlex.join(['frostline', *command])}") from None


def moved(error: RequestError, key: str, names: Iterable[str]) -> RequestError:
    """Return an error of a part that was chosen beneath another key, with its keys as they stand there.

    Args:
        error: What the part says of `model.name`, say.
        key: Where it was chosen: `model.backbone`.
        names: Of its keys.

    >>> str(moved(RequestError("model.name: unknown; see model.safetensors"), "model.backbone", ["name"]))
    'model.backbone.name: unknown; see model.safetensors'
    """
    names = "|".join(map(re.escape, names))
    own = rf"(?<![\w./]){re.escape(key.partition('.')[0])}\.(?=(?:{names})\b)"
    problems = [re.sub(own, f"{key}.", problem) for problem in problems_of(error)]
    return ConfigError(problems) if isinstance(error, ConfigError) else type(error)(*problems)


class Mistakes:
    """Gathers what independent checks refuse, so that a user reads of every mistake at once.

    Args:
        alike: Names of checks that are alike, as those of a study's arms are: what all of them refuse is told once.
    """

    def __init__(self, alike: Iterable[str] = ()) -> None:
        self._alike = list(alike)
        self._found: list[tuple[str, RequestError]] = []

    @contextmanager
    def gathered(self, name: str = "") -> Iterator[None]:
        """Keep the refusal of this context, if there is one, for `refuse`, which puts a name before it."""
        try:
            yield
        except RequestError as error:
            self._found.append((name, error))

    def refuse(self) -> None:
        """Raise what was gathered: one sentence as an error of its kind, several as a `ConfigError` of them all."""
        if not self._found:
            return
        errors = [error for _, error in self._found]
        problems = list(dict.fromkeys(self._told()))
        if len(problems) > 1 or any(isinstance(error, ConfigError) for error in errors):
            raise ConfigError(problems) from errors[0]
        raise type(errors[0])(problems[0]) from errors[0]

    def _told(self) -> Iterator[str]:
        """Yield each problem behind the name of its check, but for what all that are alike have in common."""
        found = [(name, problem) for name, error in self._found for problem in problems_of(error)]
        of_each = [{problem for name, problem in found if name == alike} for alike in self._alike]
        common = set[str].intersection(*of_each) if len(of_each) > 1 else set[str]()
        for name, problem in found:
            yield f"{name}: {problem}" if name and problem not in common else problem


class DataError(RequestError):
    """A file, a folder or a label of a dataset is not what the run needs."""


class WeightsError(RequestError):
    """Weights cannot be read, or do not fit the network they were asked to fill."""


class DamagedError(RuntimeError):
    """A file that was whole when it was checked can no longer be read, in the midst of a run.

    Args:
        sentence: What is wrong; or the traceback of a worker process, out of which torch's loader makes the worker's
            error anew, and whose last line is the sentence.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence.rstrip().rpartition("\n")[2].removeprefix(f"{__name__}.{type(self).__name__}: "))


class ProcessError(RuntimeError):
    """A process of a run that has several ended before its time."""


class IntegrityError(RuntimeError):
    """Something that was declared frozen has changed; the run cannot be believed."""
