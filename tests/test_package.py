"""What is installed is enough: the wheel carries its vocabulary, and works from any folder."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
REPOSITORY = Path(__file__).parents[1]


def run(*command: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = [str(word) for word in command]
    return subprocess.run(words, cwd=cwd, env=clean | environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of what a clean clone holds, so that building leaves nothing in this one."""
    folder = tmp_path_factory.mktemp("source")
    tracked = run("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", cwd=REPOSITORY).stdout
    for name in filter(None, tracked.split("\0")):
        if name.split("/")[0] not in ("tests", "experiments") and (REPOSITORY / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((REPOSITORY / name).read_bytes())
    return folder


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check")
    done = run(sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", out, source, cwd=out)
    assert done.returncode == 0, done.stderr
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the wheel unpacked, apart from this checkout."""
    target = tmp_path_factory.mktemp("site")
    options = ("--no-deps", "--no-index", "--quiet", "--disable-pip-version-check")
    done = run(sys.executable, "-m", "pip", "install", *options, "--target", target, wheel, cwd=target)
    assert done.returncode == 0, done.stderr
    return target


def frostline(installed: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    script = "import frostline, sys; print(frostline.__file__, file=sys.stderr); from frostline.cli import main; main()"
    done = run(sys.executable, "-c", script, *arguments, cwd=cwd, PYTHONPATH=str(installed))
    assert Path(done.stderr.splitlines()[0]).is_relative_to(installed), "the wheel is tried, not the checkout"
    return done


def test_the_wheel_holds_every_module_and_every_word(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {p.relative_to(REPOSITORY / "src").as_posix() for p in (REPOSITORY / "src").glob("frostline/**/*.py")}
    words = {f"frostline/{p.relative_to(REPOSITORY).as_posix()}" for p in (REPOSITORY / "conf").rglob("*.yaml")}
    assert len(words) > 20
    assert sorted((modules | words | {"frostline/py.typed"}) - names) == []
    assert [name for name in names if name.startswith(("tests", "experiments"))] == []


def test_it_plans_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    done = frostline(installed, tmp_path, "plan", "freeze=head", "data.digits=[3,4]", "trainer.max_epochs=2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("epoch 01\nstem  ..\n")
    assert list(tmp_path.iterdir()) == []


def test_a_conf_folder_of_ones_own_adds_words_and_classes(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "conf" / "freeze").mkdir(parents=True)
    (tmp_path / "conf" / "freeze" / "mine.yaml").write_text("_target_: strategies.Mine\n")
    (tmp_path / "strategies.py").write_text(
        "from dataclasses import dataclass\n"
        "from frostline.freeze.strategy import FreezeStrategy\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Mine(FreezeStrategy):\n"
        '    """Train the stem and the head."""\n'
        "    def scale(self, stage, role, progress):\n"
        "        return float(stage.index == 0 or stage.from_head == 0)\n"
    )
    listed = frostline(installed, tmp_path, "list", "freeze").stdout
    assert re.search(r"^freeze=mine +Train the stem and the head\.", listed, re.MULTILINE)
    done = frostline(installed, tmp_path, "plan", "freeze=mine", "data.digits=[3,4]", "trainer.max_epochs=1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1:6] == ["stem  #", "body1 .", "body2 .", "body3 .", "head  #"]
