"""A question: arms, which are lists of overrides, times seeds, read from a folder's study.yaml."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import yaml
from annotated_types import Gt, Lt, MinLen

from frostline.config.check import problems
from frostline.errors import ConfigError, RequestError
from frostline.nearest import did_you_mean

STUDY = "study:"
"""What stands before the name of a study's own pre-training run in `init_from`."""
PRETRAINED = f"{STUDY}pretrain"
"""The value of `init_from` that stands for the only pre-training run of a study."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """What `study.yaml` says.

    Attributes:
        question: What the study is to answer, a sentence.
        arms: By name, the overrides that make an arm what it is.
        seeds: The seeds that every arm runs with.
        reference: The arm that the others are compared with.
        base: Overrides of every arm, before its own.
        pretrain: Overrides of a pre-training run whose weights every arm starts from, unless the arm says
            `init_from=null`; or several such runs by name, of which an arm starts from the one that it names with
            `init_from=study:NAME`.
        metric: What is compared.
        higher_is_better: Whether more of it is better.
        margin: The smallest difference that would matter, in the metric's units.
        confidence: The coverage of intervals, below 1.
    """

    question: str
    arms: Annotated[Mapping[str, list[str]], MinLen(1)]
    seeds: Annotated[list[int], MinLen(1)]
    reference: str
    base: list[str] = field(default_factory=list)
    pretrain: list[str] | Mapping[str, list[str]] | None = None
    metric: str = "test/accuracy"
    higher_is_better: bool = True
    margin: Annotated[float, Gt(0)] = 0.005
    confidence: Annotated[float, Gt(0), Lt(1)] = 0.95

    @property
    def pretrainings(self) -> Mapping[str, list[str]]:
        """The overrides of each pre-training run, by what `init_from` calls it."""
        if isinstance(self.pretrain, Mapping):
            return {f"{STUDY}{name}": overrides for name, overrides in self.pretrain.items()}
        return {} if self.pretrain is None else {PRETRAINED: self.pretrain}

    @classmethod
    def read(cls, folder: Path) -> "Study":
        """Read a study's folder.

        Raises:
            RequestError: There is no study.yaml, or it says what a study does not know.
        """
        path = folder / "study.yaml"
        if not path.is_file():
            near = sorted(p.parent.name for p in folder.parent.glob("*/study.yaml")) or ["none"]
            raise RequestError(f"{folder}: holds no study.yaml; beside it, {did_you_mean(folder.name, near)}")
        try:
            said = yaml.load(path.read_text(), _EachKeyOnce)  # noqa: S506 (a safe loader)
        except yaml.YAMLError as error:
            raise RequestError(f"{path}: is not YAML: {' '.join(str(error).split())}") from error
        if not isinstance(said, dict):
            raise RequestError(f"{path}: should hold keys such as question, arms and seeds")
        wrong = problems({"_target_": "frostline.study.Study", **said})
        wrong = wrong or list(_contradictions(said))
        if wrong:
            raise ConfigError([f"{path}: {problem.lstrip('.')}" for problem in wrong])
        return cls(**said)


class _EachKeyOnce(yaml.SafeLoader):
    """Refuses a key that stands twice, of which YAML would keep the last: the first of two arms would be lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping whose keys all differ."""
        seen = list[Any]()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"'{key.value}' stands twice", key.start_mark)
            seen.append(key.value)
        return super().construct_mapping(node, deep)


def _contradictions(said: Mapping[str, Any]) -> Iterator[str]:
    """Say where keys that are right by themselves do not go together."""
    if said["reference"] not in said["arms"]:
        yield f"reference: no arm '{said['reference']}'; {did_you_mean(said['reference'], said['arms'])}"
    if len(set(said["seeds"])) < len(said["seeds"]):
        yield f"seeds: each should stand once, got {said['seeds']}"
    overrides = {"base": said.get("base") or [], **{f"arms.{arm}": own for arm, own in said["arms"].items()}}
    for where, own in overrides.items():
        if seeds := [override for override in own if override.lstrip("+").startswith("seed=")]:
            yield f"{where}: {seeds[0]} is not what runs; list it under seeds, which every arm runs with"
