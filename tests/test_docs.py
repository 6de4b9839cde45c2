"""What the README promises: every command line in it is right, every file it points to is there."""

import re
import shlex
from pathlib import Path
from typing import get_type_hints

import pytest
import yaml

from frostline.cli import VERBS
from frostline.config.compose import compose, expand_sweep
from frostline.config.vocabulary import conf_dir, options
from frostline.errors import ConfigError
from frostline.study import Study

REPOSITORY = Path(__file__).parents[1]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "experiments").glob("**/README.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
EXAMPLE = "0123456789abcdef0123456789abcdef"
README = (REPOSITORY / "README.md").read_text()


def commands() -> list[str]:
    """Every `frostline ...` line that the fenced blocks of the pages tell to type."""
    lines = [
        line.strip()
        for page in PAGES
        for kind, block in BLOCK.findall(page.read_text())
        if kind == "sh"
        for line in block.splitlines()
    ]
    return sorted({line for line in lines if line.startswith("frostline ")})


def test_the_readme_shows_commands() -> None:
    assert {line.split()[1] for line in commands()} >= {"pretrain", "finetune", "plan"}


@pytest.mark.parametrize("line", commands(), ids=lambda line: re.sub(r"\W+", "-", line)[:60])
def test_a_command_of_the_pages_is_right(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    said = line.partition(" #")[0].replace("<run id>", EXAMPLE).replace("DIR", str(tmp_path))
    verb, *arguments = shlex.split(said)[1:]
    assert verb in VERBS
    overrides = [argument for argument in arguments if "=" in argument]
    if verb in ("pretrain", "finetune", "plan"):
        for job in expand_sweep(overrides) if "-m" in arguments else [overrides]:
            compose(verb, job)
    elif verb in ("study", "compare"):
        assert Study.read(Path(arguments[0])).question


def test_the_mistakes_of_the_readme_get_the_answer_that_it_shows() -> None:
    (shown,) = [block for _, block in BLOCK.findall(README) if "problem(s) in the config" in block]
    command, _, answer = shown.partition("\n")
    verb, *overrides = shlex.split(command.removeprefix("$ frostline "))
    with pytest.raises(ConfigError) as caught:
        compose(verb, overrides)
    assert str(caught.value) == answer.strip("\n")


def test_the_study_of_the_readme_is_one(tmp_path: Path) -> None:
    (said,) = [block for kind, block in BLOCK.findall(README) if kind == "yaml" and "question:" in block]
    (tmp_path / "study.yaml").write_text(said)
    study = Study.read(tmp_path)
    for arm in study.arms.values():
        compose("finetune", [*study.base, *arm])
    compose("pretrain", study.pretrain or [])


def test_the_schedule_of_the_readme_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (said,) = [block for kind, block in BLOCK.findall(README) if kind == "yaml" and "phases:" in block]
    (tmp_path / "conf" / "freeze").mkdir(parents=True)
    (tmp_path / "conf" / "freeze" / "mine.yaml").write_text(said)
    monkeypatch.chdir(tmp_path)
    assert len(compose("finetune", ["freeze=mine"]).freeze.phases) == 4
    assert len(compose("finetune", ["freeze=mine", "freeze.phases=[{train: [head]}]"]).freeze.phases) == 1


def test_every_strategy_and_verb_stands_in_the_readme() -> None:
    assert [name for name in options("freeze") if f"`{name}`" not in README] == []
    assert [verb for verb in VERBS if f"`{verb}" not in README] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.parent.name))
def test_what_a_page_points_to_is_there(page: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_strategy_shows_its_drawn_plan() -> None:
    from hydra.utils import get_object

    files = sorted((conf_dir() / "freeze").glob("*.yaml"))
    targets = [yaml.safe_load(file.read_text())["_target_"] for file in files]
    assert len(targets) >= 7
    kinds = {target: get_object(target) for target in targets}
    shown = {t: k if isinstance(k, type) else get_type_hints(k)["return"] for t, k in kinds.items()}
    assert [t for t, k in shown.items() if not re.search(r">>> print\(draw\(.*\n\s+epoch \d+\n", k.__doc__)] == []
