"""A file of weights as tensors by name, whoever wrote it: nothing in the file is ever run."""

import json
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from frostline.errors import WeightsError
from frostline.nearest import nearest

COUNTER = "num_batches_tracked"
"""A buffer that weights may lack: batch normalisation counts its batches only since 2018, and needs the count only
where it averages over all of them."""

HEADER = "frostline"
"""The entry of a safetensors file's header that holds, as JSON, what this program wrote beside the tensors."""

CLASSES = "classes"
"""What is under this name there: those that the head tells apart, as a JSON list in the order of their indices."""

_PICKLES = (".pt", ".pth", ".th", ".bin", ".ckpt")
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_NEEDS_CODE = re.compile(r"Unsupported (global|class)|TorchScript", re.IGNORECASE)


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read the weights in a file, or in a folder that holds one, onto the CPU.

    The weights may lie under `state_dict`, `model_state_dict` or `model`, as in Lightning's checkpoints; those of
    several networks side by side (`student`, `teacher`) come with these names before their own. Where torch wrote the
    versions of its modules beside the weights, they stay with the dictionary, as `load_state_dict` needs.

    Raises:
        WeightsError: The file is missing, broken, of unknown kind, holds no weights or needs to run code to be read.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise WeightsError(_missing(path))
    if _is_safetensors(path):
        return _read_safetensors(path)
    if path.suffix.lower() in _PICKLES:
        return _unwrap(_read_pickle(path), path)
    raise WeightsError(f"{path} does not end as a file of weights does: .safetensors, {', '.join(_PICKLES)}.")


def classes_in(path: str | Path) -> list[str] | None:
    """Return which classes the head in a file or folder of weights tells apart; None where none are named.

    A finished run writes them into the header of its weights, under `CLASSES`; transformers into a folder's
    `config.json`.
    """
    path = Path(path)
    if (config := path / "config.json").is_file():
        named: dict[str, str] = json.loads(config.read_text()).get("id2label") or {}
        return [named[place] for place in sorted(named, key=int)] or None
    files = sorted(filter(_is_safetensors, path.iterdir())) if path.is_dir() else [path]
    if len(files) != 1 or not _is_safetensors(files[0]):
        return None
    header = header_of(files[0])
    return list(json.loads(header[CLASSES])) if CLASSES in header else None


def header_of(path: Path) -> dict[str, str]:
    """Return what this program wrote beside the tensors of a safetensors file, by name; nothing in a foreign one."""
    with safe_open(path, framework="pt") as file:
        written: dict[str, str] = json.loads((file.metadata() or {}).get(HEADER, "{}"))
    return written


def _is_safetensors(path: Path) -> bool:
    return path.suffix.lower() == ".safetensors"


def _read_folder(folder: Path) -> dict[str, Tensor]:
    """Read the one file of weights in a folder, or all parts of one that an index holds together."""
    if indices := sorted(folder.glob("*.safetensors.index.json")) or sorted(folder.glob("*.bin.index.json")):
        parts = [folder / part for part in _parts(indices[0])]
        return {name: weight for part in parts for name, weight in read_weights(part).items()}
    for suffixes in ((".safetensors",), _PICKLES):
        found = sorted(file for file in folder.iterdir() if file.suffix.lower() in suffixes)
        if len(found) == 1:
            return read_weights(found[0])
        if found:
            raise WeightsError(f"{folder} holds {', '.join(file.name for file in found)}; name one of these files.")
    raise WeightsError(f"{folder} holds no file of weights ({', '.join(('.safetensors', *_PICKLES))}); name one.")


def _parts(index: Path) -> list[str]:
    """Return the names of the files that an index holds together, which lie beside it."""
    try:
        parts = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{index} is no index of weights; copy or download it again.") from error
    if outside := [part for part in parts if Path(part).name != part]:
        raise WeightsError(f"{index} names '{outside[0]}', which does not lie beside it; copy or download it again.")
    return parts


def _missing(path: Path) -> str:
    names = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    meant = nearest(path.name, names)
    return f"there is no file '{path}'" + (f"; did you mean '{meant}'?" if meant else "")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise WeightsError(_broken(path)) from error


def _read_pickle(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a broken pickle raises anything at all
        if _NEEDS_CODE.search(str(error)) and (zipfile.is_zipfile(path) or isinstance(error, pickle.UnpicklingError)):
            raise WeightsError(
                f"{path} needs to run code to be read, which is refused; save its state_dict alone: "
                "torch.save(network.state_dict(), FILE)."
            ) from error
        raise WeightsError(_broken(path)) from error


def _broken(path: Path) -> str:
    return f"{path} is truncated or not a file of weights ({path.stat().st_size} bytes); copy or download it again."


def _unwrap(content: object, path: Path) -> dict[str, Tensor]:
    while (inner := _wrapped(content)) is not None:
        content = inner
    if isinstance(content, dict) and _is_state(content):
        return content  # as it is: torch keeps the versions of its modules beside the weights
    if not (weights := dict(_nested(content, ""))):
        raise WeightsError(
            f"{path} holds no weights by name; save a state_dict: torch.save(network.state_dict(), FILE)."
        )
    return weights


def _wrapped(content: object) -> Mapping[str, object] | None:
    """Return the network that a wrapper holds; None where there is none, or others beside it (`model_ema`)."""
    if not isinstance(content, Mapping):
        return None
    wrappers = [name for name in _WRAPPERS if any(True for _ in _nested(content.get(name), ""))]
    others = [name for name, inner in content.items() if name not in wrappers[:1] and _is_state(inner)]
    inner: Mapping[str, object] | None = content[wrappers[0]] if wrappers and not others else None
    return inner


def _is_state(content: object) -> bool:
    """Tell whether something is weights by name, and nothing else."""
    if not isinstance(content, Mapping) or not content:
        return False
    return all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items())


def _nested(content: object, before: str) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights of several networks that lie beside each other, such as `student` and `teacher`."""
    for name, inner in content.items() if isinstance(content, Mapping) else ():
        if isinstance(name, str):  # an optimizer counts its parameters
            yield from [(before + name, inner)] if isinstance(inner, Tensor) else _nested(inner, f"{before}{name}.")
