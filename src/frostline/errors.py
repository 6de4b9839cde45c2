"""The errors that are the user's to mend: a sentence each, naming the key or the file and the way out."""


class RequestError(ValueError):
    """What was asked for cannot be done as asked; the command line prints the sentence and exits with 2."""


class ConfigError(RequestError):
    """Every problem of a config at once, one per line, as `key: what is wrong`."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n  ".join([f"{len(problems)} problem(s) in the config:", *problems]))


class DataError(RequestError):
    """A file, a folder or a label of a dataset is not what the run needs."""


class WeightsError(RequestError):
    """Weights cannot be read, or do not fit the network they were asked to fill."""


class IntegrityError(RuntimeError):
    """Something that was declared frozen has changed; the run cannot be believed."""
