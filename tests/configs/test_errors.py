"""What a user reads after each kind of mistake: commands and exact sentences, a file each in `errors/`."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from frostline.config.compose import compose
from frostline.errors import ConfigError

CASES = sorted(Path(__file__).parent.joinpath("errors").rglob("*.txt"))


def test_the_table_is_not_empty() -> None:
    assert len(CASES) >= 30


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_sentence(case: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command, _, expected = case.read_text().partition("\n")
    verb, *overrides = shlex.split(command.removeprefix("$ frostline "))
    with pytest.raises(ConfigError) as caught:
        compose(verb, overrides)
    assert str(caught.value) == expected.rstrip("\n")


def test_a_mistake_is_told_without_the_heavy_imports(tmp_path: Path) -> None:
    code = """
import sys
from frostline.config.compose import compose
try:
    compose("finetune", ["freeze=gradual", "freeze.evry=2", "optimizer.lr=fast", "trainer.precision=17", "seed=x"])
except ValueError as error:
    print(len(error.problems))
print([name for name in ("torch", "torchvision", "pytorch_lightning", "mlflow", "sklearn") if name in sys.modules])
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    counted, imported = done.stdout.splitlines()
    assert counted == "4"
    assert imported == "[]"
