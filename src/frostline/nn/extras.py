"""Libraries that only some networks need, imported when one of these is asked for."""

from importlib import import_module
from types import ModuleType

from frostline.errors import RequestError


def library(name: str, *, extra: str, key: str = "model") -> ModuleType:
    """Import a library that an extra of this package installs.

    Args:
        name: The library.
        extra: The extra.
        key: The config key that asks for it.

    Raises:
        RequestError: It is not installed; the sentence has the command.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise RequestError(f"{key}: needs {name}, which is not here; pip install 'frostline[{extra}]'") from error
