"""Networks of transformers by an id of its hub, by a local folder, or new by their kind: how all recipes get them."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from frostline.errors import RequestError, WeightsError
from frostline.nearest import nearest
from frostline.nn.extras import library


def is_a_kind(name: str) -> bool:
    """Tell whether a name is that of a kind of network (`bert`, `segformer`, ...)."""
    return name in library("transformers", extra="text").CONFIG_MAPPING


def configuration(name: str, entries: Mapping[str, Any], *, new: bool, own: Mapping[str, Any] | None = None) -> Any:
    """Read a configuration.

    Args:
        name: An id of the hub or a folder; with `new` also a kind of network.
        entries: What it says otherwise, by the user's choice.
        new: Whether the network gets no weights.
        own: What it says otherwise where the name is a kind.

    Raises:
        RequestError: The configuration has no entry of a name.
        WeightsError: It cannot be read.
    """
    configs, kind = library("transformers", extra="text").AutoConfig, new and is_a_kind(name)
    read = configs.for_model if kind else partial(configs.from_pretrained, trust_remote_code=False)
    meant = nearest(name, library("transformers", extra="text").CONFIG_MAPPING) if new and not kind else None
    with one_sentence("model.name", name, otherwise=f", or did you mean the kind '{meant}'?" if meant else ""):
        plain = read(name)
        for entry in entries:
            if not hasattr(plain, entry):
                raise RequestError(f"model.config.{entry}: the configuration of {name} has no such entry")
        return read(name, **{**((own or {}) if kind else {}), **entries})  # anew: some entries follow from others


def class_names(config: Any) -> list[str]:
    """Return the names of a configuration's classes in their order: `LABEL_0`, ... where it only numbers them."""
    return [str(config.id2label.get(place) or f"LABEL_{place}") for place in range(config.num_labels)]


def member(family: str, config: Any, *, name: str, task: str) -> Any:
    """Return the class of a family, such as `AutoModelForMaskedLM`, for a configuration.

    Raises:
        RequestError: The family has none.
    """
    mapping = getattr(library("transformers", extra="text"), family)._model_mapping
    if type(config) not in mapping:
        raise RequestError(f"model.name={name}: transformers has no {config.model_type} for {task}; choose another")
    found = mapping[type(config)]
    return found[0] if isinstance(found, tuple) else found


def built(kind: Any, config: Any, *, name: str, pretrained: bool) -> tuple[nn.Module, set[str]]:
    """Build a network and, where that is asked for, fill it with its weights.

    Args:
        kind: Its class.
        config: Its configuration.
        name: Where the weights are.
        pretrained: Whether to take them.

    Returns:
        The network, and the names of the parameters that the weights lack.

    Raises:
        WeightsError: The weights cannot be read.
    """
    if not pretrained:
        return kind._from_config(config, dtype=torch.float32), set()
    with one_sentence("model.name", name):
        network, told = kind.from_pretrained(
            name,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    return network, {*told["missing_keys"], *(each[0] for each in told["mismatched_keys"])}


def refuse_incomplete(name: str, drawn: set[str], *, may_be_new: Callable[[str], bool]) -> None:
    """Refuse weights that lack parameters of other names than may be new.

    Raises:
        WeightsError: They do; one is named.
    """
    if body := sorted(each for each in drawn if not may_be_new(each)):
        more = f" and {len(body) - 1} more" if len(body) > 1 else ""
        raise WeightsError(
            f"model.name={name}: its weights have no value for '{body[0]}'{more}; choose weights of this network, or "
            "model.pretrained=false for new ones"
        )


def image_processor(name: str, config: Any, *, pretrained: bool) -> Any:
    """Return what knows sizes and normalisation of a network for images: that of its folder or id, or its kind's.

    Raises:
        WeightsError: There is one, and it cannot be read.
    """
    kinds = library("transformers", extra="text").models.auto.image_processing_auto.IMAGE_PROCESSOR_MAPPING
    own = kinds[type(config)]["torchvision"]
    folder = Path(name)
    if not pretrained or (folder.is_dir() and not (folder / "preprocessor_config.json").is_file()):
        return own()
    with one_sentence("model.name", name):
        return own.from_pretrained(name)


def _way_to_files(name: str, reason: str) -> str:
    """Say what to do where a network cannot be read: a folder lacks files, and an id of the hub those that it has."""
    files = "config.json, model.safetensors and the tokenizer's files or preprocessor_config.json"
    if Path(name).is_dir():
        return f"the folder cannot be read ({reason}); it should hold {files}"
    if name.startswith(("/", ".", "~")) or name.count("/") > 1:
        return f"there is no such folder; name one that holds {files}, or an id of https://huggingface.co"
    return (
        f"cannot be read ({reason}); put {files} of https://huggingface.co/{name} into a folder and name that, or "
        "fetch them into $HF_HOME where there is a network"
    )


@contextmanager
def one_sentence(key: str, name: str, *, otherwise: str = "") -> Iterator[None]:
    """Silence what transformers says of a new head, and say in one sentence what it could not find.

    Args:
        key: What asked for it.
        name: The id or folder.
        otherwise: Another way out, at the end of the sentence.
    """
    logging = library("transformers", extra="text").utils.logging
    level, shows = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    except RequestError:
        raise
    except (OSError, ValueError, SafetensorError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise WeightsError(f"{key}={name}: {_way_to_files(name, reason)}{otherwise}") from error
    finally:
        logging.set_verbosity(level)
        if shows:
            logging.enable_progress_bar()
