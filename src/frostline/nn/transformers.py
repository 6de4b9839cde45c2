"""Networks for text from transformers: any encoder or decoder of its hub, of a local folder, or new by its kind."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from frostline.errors import RequestError, WeightsError
from frostline.nn.extras import library
from frostline.nn.text_input import TextInput

LONGEST = 512
"""Tokens that a network takes which sets no bound of its own."""

_PADDED_TABLES = ("roberta", "xlm-roberta", "camembert", "longformer", "data2vec-text")
"""Kinds whose first position follows the index of padding, which costs them rows of their position table."""


@dataclass(frozen=True, kw_only=True)
class Transformer:
    """A network for text from transformers.

    Attributes:
        name: An id of the hub (`google-bert/bert-base-uncased`) or a local folder with a configuration, a tokenizer and
            `model.safetensors`; with `pretrained=false` also a kind of network (`bert`, `gpt2`, ...).
        pretrained: Take the weights of `name`, too; otherwise they are new.
        tokenizer: An id or a folder of a tokenizer, where it is not that of `name`.
        config: What the configuration says otherwise: `{num_hidden_layers: 2}`.
    """

    tasks: ClassVar[tuple[str, ...]]
    family: ClassVar[str]
    """The class of transformers that builds the network."""

    name: str
    pretrained: bool = True
    tokenizer: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.tokenizer is None and self._is_a_kind():
            raise RequestError(f"model.tokenizer: '{self.name}' alone has none; name the folder or the id of one")

    @property
    def input(self) -> TextInput:
        """The tokenizer, and how many tokens the network takes.

        Raises:
            RequestError: The tokenizer has more tokens than the network's table.
        """
        tokens, rows = len(self._tokenizer), self._config.vocab_size
        if tokens > rows:
            problem = f"the tokenizer has {tokens} tokens and {self.name} takes {rows}"
            raise RequestError(f"model.tokenizer: {problem}; choose the tokenizer that these weights belong to")
        content = self._tokenizer.backend_tokenizer.to_str().encode()
        longest = min(_positions(self._config), self._tokenizer.model_max_length)
        return TextInput(tokenizer=self._tokenizer, max_length=longest, fingerprint=sha256(content).hexdigest())

    def brings_head(self, num_classes: int) -> bool:
        """Tell whether the weights are those of a network for the same task, with as many classes."""
        of_the_task = any(kind.endswith(self.family.removeprefix("AutoModel")) for kind in self._architectures)
        return self.pretrained and of_the_task and self._config.num_labels == num_classes

    def network(self, num_classes: int) -> nn.Module:
        """Build the network, filled with its weights where `pretrained` says so.

        Args:
            num_classes: Classes that the last layer tells apart.

        Returns:
            A module from a mapping of `input_ids` and `attention_mask`, each (B, L), to logits.

        Raises:
            WeightsError: The weights lack more than the head, or cannot be read.
        """
        family, config = getattr(library("transformers", extra="text"), self.family), self._config_for(num_classes)
        if not self.pretrained:
            return Logits(family.from_config(config, dtype=torch.float32))
        with _one_sentence(self.name):
            found, told = family.from_pretrained(
                self.name,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
        network = Logits(found)
        _refuse_incomplete(network, told["missing_keys"], self.name)
        return network

    def _config_for(self, num_classes: int) -> Any:
        config = deepcopy(self._config)
        config.num_labels, config.pad_token_id = num_classes, self._tokenizer.pad_token_id
        return config

    def _is_a_kind(self) -> bool:
        return not self.pretrained and self.name in library("transformers", extra="text").CONFIG_MAPPING

    @cached_property
    def _config(self) -> Any:
        configs = library("transformers", extra="text").AutoConfig
        with _one_sentence(self.name):
            read = configs.for_model(self.name) if self._is_a_kind() else configs.from_pretrained(self.name)
        for name, value in self.config.items():
            if not hasattr(read, name):
                raise RequestError(f"model.config.{name}: the configuration of {self.name} has no such entry")
            setattr(read, name, value)
        return read

    @property
    def _architectures(self) -> list[str]:
        return self._config.architectures or []

    @cached_property
    def _tokenizer(self) -> Any:
        name = self.tokenizer or self.name
        with _one_sentence(name):
            read = library("transformers", extra="text").AutoTokenizer.from_pretrained(name, padding_side="right")
        if read.pad_token_id is None:  # GPT-2 was trained on texts that need no padding
            read.pad_token = read.eos_token
        return read


class TextClassifier(Transformer):
    """A network of transformers with one label for each text."""

    tasks: ClassVar[tuple[str, ...]] = ("classification", "multilabel")
    family: ClassVar[str] = "AutoModelForSequenceClassification"


class Logits(nn.Module):
    """A network of transformers as a module from inputs to logits.

    Args:
        model: From `input_ids` and `attention_mask` to an output that has `logits`.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.head_modules = _head(model)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Map a mapping of tensors (B, L) to logits."""
        logits: Tensor = self.model(**inputs).logits
        return logits


def _head(model: nn.Module) -> tuple[str, ...]:
    """Return what is no part of the encoder; a pooler, which feeds the classifier alone, is part of the head."""
    base = str(getattr(model, "base_model_prefix", ""))
    head = [name for name, child in model.named_children() if name != base and any(True for _ in child.parameters())]
    encoder = getattr(model, base, None)
    pooler = [f"{base}.pooler"] if getattr(encoder, "pooler", None) is not None else []
    return tuple(f"model.{name}" for name in [*pooler, *head])


def _positions(config: Any) -> int:
    rows = int(getattr(config, "max_position_embeddings", LONGEST))
    return rows - config.pad_token_id - 1 if config.model_type in _PADDED_TABLES else rows


def _refuse_incomplete(network: Logits, missing: list[str], name: str) -> None:
    prefixes = tuple(each.removeprefix("model.") for each in network.head_modules)
    if body := sorted(key for key in missing if not key.startswith(prefixes)):
        more = f" and {len(body) - 1} more" if len(body) > 1 else ""
        raise WeightsError(
            f"model.name={name}: its weights have no value for '{body[0]}'{more}; choose weights of this network, or "
            "model.pretrained=false for new ones"
        )


@contextmanager
def _one_sentence(name: str) -> Iterator[None]:
    """Silence what transformers says of a new head, and say in one sentence what it could not find."""
    logging = library("transformers", extra="text").utils.logging
    level, shows = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        files = "config.json, model.safetensors and the tokenizer's files"
        raise WeightsError(
            f"model.name={name}: cannot be read ({reason}); put {files} of https://huggingface.co/{name} into a folder "
            "and name that, or fetch them into $HF_HOME where there is a network"
        ) from error
    finally:
        logging.set_verbosity(level)
        if shows:
            logging.enable_progress_bar()
