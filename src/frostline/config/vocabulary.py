"""Where the words of a config are kept: the package's own folder of YAML files, and the user's."""

import re
from pathlib import Path

import yaml

import frostline
from frostline.config.signature import describe

_PACKAGE = Path(frostline.__file__).resolve().parent
_SAID = re.compile(r"^(?:_target_: \S+|\w+: null) # (.+)$", re.MULTILINE)


def conf_dir() -> Path:
    """Return the package's own configs: inside it where it is installed, else at the top of the checkout."""
    inside = _PACKAGE / "conf"
    return inside if inside.is_dir() else _PACKAGE.parents[1] / "conf"


def user_conf() -> Path | None:
    """Return the `conf` folder of the working directory, if it has one of its own."""
    folder = Path.cwd() / "conf"
    return folder if folder.is_dir() and not folder.samefile(conf_dir()) else None


def folders(*more: Path) -> list[Path]:
    """Return every folder that configs are read from, the package's own last."""
    user = user_conf()
    return [*([user] if user else []), *more, conf_dir()]


def groups(*more: Path) -> list[str]:
    """Return the groups that an option can be chosen for, the user's included."""
    return sorted({file.relative_to(top).parts[0] for top in folders(*more) for file in top.glob("*/**/*.yaml")})


def summary(group: str, option: str) -> str:
    """Return what an option's file says behind its choice, else the first line of what its class says of itself."""
    text = next(file for top in folders() if (file := top / group / f"{option}.yaml").is_file()).read_text()
    if said := _SAID.search(text):
        return said[1]
    target = (yaml.safe_load(text) or {}).get("_target_")
    return describe(target) if target else ""


def options(group: str, *more: Path) -> list[str]:
    """Return what can be chosen for a group, the user's included.

    Args:
        group: A folder of configs.
        *more: Further folders to look in.
    """
    tops = [top / group for top in folders(*more)]
    return sorted({file.relative_to(top).with_suffix("").as_posix() for top in tops for file in top.rglob("*.yaml")})
