"""Networks for text from transformers: any encoder or decoder of its hub, of a local folder, or new by its kind."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property, partial
from hashlib import sha256
from typing import Any, ClassVar

from torch import Tensor, nn

from frostline.errors import RequestError
from frostline.nn import hub
from frostline.nn.extras import library
from frostline.nn.stages import is_norm
from frostline.nn.text_input import TextInput

LONGEST = 512
"""Tokens that a network takes which sets no bound of its own."""

_PADDED_TABLES = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "longformer", "data2vec-text")
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
    causal: ClassVar[bool] = False
    """Whether each token must see only those before it."""

    name: str
    pretrained: bool = True
    tokenizer: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def input(self) -> TextInput:
        """The tokenizer, and how many tokens the network takes.

        Raises:
            RequestError: The tokenizer and the network's table of tokens do not belong together.
            WeightsError: Configuration or tokenizer cannot be read.
        """
        tokenizer, fingerprint = self._tokenizer
        self._refuse_another_vocabulary(len(tokenizer))
        longest = min(_positions(self._config, tokenizer.pad_token_id), tokenizer.model_max_length)
        return TextInput(tokenizer=tokenizer, max_length=longest, fingerprint=fingerprint, causal=self.causal)

    def brings_head(self, num_classes: int) -> bool:
        """Tell whether the weights are those of a network for the same task, with as many classes."""
        return self.pretrained and self._kind.__name__ in (self._config.architectures or [])

    def network(self, num_classes: int) -> nn.Module:
        """Build the network, filled with its weights where `pretrained` says so.

        Args:
            num_classes: Classes that the last layer tells apart; none for the tokens of a vocabulary.

        Returns:
            A module from a mapping of `input_ids` and `attention_mask`, each (B, L), to logits.

        Raises:
            WeightsError: The weights lack more than the head, or cannot be read.
        """
        config = self._config_for(num_classes)
        found, drawn = hub.built(self._kind, config, name=self.name, pretrained=self.pretrained)
        network = Logits(found)
        heads = tuple(f"{each.removeprefix('model.')}." for each in network.head_modules)
        hub.refuse_incomplete(self.name, drawn, may_be_new=lambda parameter: parameter.startswith(heads))
        return network

    def _refuse_another_vocabulary(self, tokens: int) -> None:
        rows, own = self._config.vocab_size, self.pretrained and self.tokenizer is not None
        if tokens > rows or (own and tokens < 0.9 * rows):  # some tables have spare rows, to be of a round size
            problem = f"the tokenizer has {tokens} tokens and {self.name} takes {rows}"
            way_out = (
                "choose the tokenizer that these weights belong to"
                if self.pretrained
                else "leave vocab_size out of model.config"
            )
            raise RequestError(f"model.tokenizer: {problem}; {way_out}")

    def _config_for(self, num_classes: int) -> Any:
        config = deepcopy(self._config)
        config.pad_token_id = self._tokenizer[0].pad_token_id
        if num_classes:
            config.num_labels = num_classes
        if hasattr(config, "use_cache"):
            config.use_cache = False  # nothing is generated token by token
        if self.causal and getattr(config, "is_decoder", None) is False:
            config.is_decoder = True  # else an encoder's attention would see the tokens that it is to predict
        return config

    @cached_property
    def _kind(self) -> Any:
        """The network's class."""
        return hub.member(self.family, self._config, name=self.name, task=self.tasks[0])

    @property
    def _is_a_kind(self) -> bool:
        return not self.pretrained and hub.is_a_kind(self.name)

    @cached_property
    def _config(self) -> Any:
        own = {"vocab_size": len(self._tokenizer[0])} if self._is_a_kind else {}
        return hub.configuration(self.name, self.config, new=not self.pretrained, own=own)

    @cached_property
    def _tokenizer(self) -> tuple[Any, str]:
        """The tokenizer and its fingerprint, taken before any call changes how it cuts and pads."""
        if self.tokenizer is None and self._is_a_kind:
            raise RequestError(f"model.tokenizer: '{self.name}' alone has none; name the folder or the id of one")
        name, key = (self.name, "model.name") if self.tokenizer is None else (self.tokenizer, "model.tokenizer")
        with hub.one_sentence(key, name):
            read = library("transformers", extra="text").AutoTokenizer.from_pretrained(
                name, padding_side="right", trust_remote_code=False
            )
        if not read.is_fast:
            raise RequestError(f"{key}={name}: has no tokenizer.json, which says where each token begins; add one")
        if read.pad_token_id is None:  # GPT-2 was trained on texts that need no padding
            read.pad_token = read.eos_token
        if read.pad_token_id is None:
            raise RequestError(
                f"{key}={name}: its tokenizer names no pad_token and no eos_token; name one of its tokens"
            )
        read.backend_tokenizer.no_truncation()
        read.backend_tokenizer.no_padding()
        return read, sha256(read.backend_tokenizer.to_str().encode()).hexdigest()


class TextClassifier(Transformer):
    """A network of transformers with one label for each text; a decoder's last token decides."""

    tasks: ClassVar[tuple[str, ...]] = ("classification", "multilabel")
    family: ClassVar[str] = "AutoModelForSequenceClassification"

    @property
    def classes(self) -> list[str] | None:
        """Names of the classes that the weights tell apart, where the configuration has some."""
        return hub.class_names(self._config)

    def brings_head(self, num_classes: int) -> bool:
        """Tell whether the weights are those of a network for the same task, with as many classes."""
        return super().brings_head(num_classes) and bool(self._config.num_labels == num_classes)


class TokenClassifier(TextClassifier):
    """A network of transformers with one label for each token."""

    tasks: ClassVar[tuple[str, ...]] = ("token_classification",)
    family: ClassVar[str] = "AutoModelForTokenClassification"


class MaskedLanguageModel(Transformer):
    """An encoder of transformers that guesses the masked tokens of a text.

    Its output layer is tied to the embeddings, as BERT's is, and belongs to the stem; the head is what else lies above
    the encoder: BERT's transform, normalisation and output bias.
    """

    tasks: ClassVar[tuple[str, ...]] = ("masked_lm",)
    family: ClassVar[str] = "AutoModelForMaskedLM"


class CausalLanguageModel(Transformer):
    """A decoder of transformers that guesses each next token of a text.

    Where its output layer is tied to the embeddings, as GPT-2's is, it belongs to the stem, and the head is the last
    normalisation; an output layer of its own is the head.
    """

    tasks: ClassVar[tuple[str, ...]] = ("causal_lm",)
    family: ClassVar[str] = "AutoModelForCausalLM"
    causal: ClassVar[bool] = True


class Logits(nn.Module):
    """A network of transformers as a module from inputs to logits.

    Args:
        model: From `input_ids` and `attention_mask` to an output that has `logits`.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.head_modules = _head(model)

    def forward(self, inputs: Mapping[str, Tensor], at: Tensor | None = None) -> Tensor:
        """Map a mapping of tensors (B, L) to logits.

        Args:
            inputs: What the network takes.
            at: Boolean (B, L), true at M places: the head sees only these, and logits are (M, V).
        """
        if at is None:
            logits: Tensor = self.model(**inputs).logits
            return logits
        encoder = getattr(self.model, str(self.model.base_model_prefix))
        met: list[Any] = []
        handle = encoder.register_forward_hook(partial(_only, at, met))
        try:
            logits = self.model(**inputs).logits
        finally:
            handle.remove()
        return logits[0] if met else logits[at]  # some, such as OPT, go past their own encoder's forward


def _only(at: Tensor, met: list[Any], *call: Any) -> Any:
    """Leave of an encoder's output (B, L, D) what is at M places, as one text (1, M, D)."""
    output = call[-1]
    met.append(output)
    output["last_hidden_state"] = output["last_hidden_state"][at].unsqueeze(0)
    return output


def _head(model: nn.Module) -> tuple[str, ...]:
    """Return what is no part of the encoder, and a pooler, which feeds the classifier alone.

    Where all of that is tied to the encoder, the head is the encoder's last normalisation, too.
    """
    base = str(getattr(model, "base_model_prefix", ""))
    encoder = getattr(model, base, None)
    head = [name for name, child in model.named_children() if name != base and any(True for _ in child.parameters())]
    if encoder is None:
        return tuple(f"model.{name}" for name in head)
    pooler = [f"{base}.pooler"] if getattr(encoder, "pooler", None) is not None else []
    below = {id(parameter) for parameter in encoder.parameters()}
    owned = [p for name in [*pooler, *head] for p in model.get_submodule(name).parameters() if not pooler]
    tied = not pooler and all(id(parameter) in below for parameter in owned)
    norms = [f"{base}.{name}" for name, module in encoder.named_modules() if is_norm(module) and _once(name)]
    return tuple(f"model.{name}" for name in [*pooler, *(norms[-1:] if tied else []), *head])


def _once(name: str) -> bool:
    """Tell whether a module is none of a list of layers."""
    return not any(part.isdecimal() for part in name.split("."))


def _positions(config: Any, pad: int) -> int:
    rows = int(getattr(config, "max_position_embeddings", None) or LONGEST)
    return rows - pad - 1 if config.model_type in _PADDED_TABLES else rows
