"""The shape of the package: imports point down, functions stay short, and only the record and the store know MLflow."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "src" / "frostline"
FILES = sorted(ROOT.rglob("*.py"))
LAYERS = [  # top to bottom; a module imports from lines below its own, and from its own package
    {"__main__"},
    {"cli"},
    {"commands"},
    {"bill"},
    {"runner", "compare", "resume", "wise_ft", "soup"},
    {"study_runs"},
    {"study_configs"},
    {"study", "display", "rank", "weight_space"},
    {"run"},
    {"calibration", "together"},
    {"rehearsal"},
    {"estimate"},
    {"computed_once"},
    {"dossier", "training", "launch", "beginnings", "waiting"},
    {"instead"},
    {"instruments"},
    {"prepare", "run_logger", "interrupted"},
    {"initial"},
    {"refusals", "init_from", "reuse"},
    {"stopwatch", "checkpoint_io"},
    {"cost", "forecast"},
    {"engine", "plan_figure", "interruption", "flops"},
    {"signals", "audit"},
    {"modules"},
    {"cache"},
    {"plan", "store"},
    {"record", "delta", "provenance"},
    {"freeze", "objectives", "data", "checkpoint", "optim", "regularizers", "processes", "moving_average"},
    {"nn", "config", "seeds"},
    {"errors", "adapter", "depth", "batch", "nearest", "digest", "memory", "precision"},
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}


def home(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Names of the modules that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "frostline":
            names |= {f"frostline.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_the_walk_sees_the_package() -> None:
    assert len(FILES) > 60
    assert {home(path) for path in FILES} - {"__init__"} == set(RANK)


@pytest.mark.parametrize("path", [path for path in FILES if path.name != "__init__.py"], ids=ids)
def test_imports_point_down(path: Path) -> None:
    here = home(path)
    for name in imported(path):
        if name.startswith("frostline."):
            there = name.split(".")[1]
            assert there == here or RANK[there] > RANK[here], f"{here} imports {there}, which is not below it"


def test_only_the_record_and_the_store_import_mlflow() -> None:
    assert [ids(path) for path in FILES if any(name.split(".")[0] == "mlflow" for name in imported(path))] == [
        "record.py",
        "store.py",
    ]


def test_only_the_verbs_side_sees_a_dictconfig() -> None:
    seeing = {home(path) for path in FILES if any(name.split(".")[0] == "omegaconf" for name in imported(path))}
    assert seeing <= {
        "runner",
        "study_runs",
        "study_configs",
        "run",
        "dossier",
        "prepare",
        "config",
        "resume",
        "training",
        "together",
        "rank",
        "refusals",
        "bill",
        "reuse",
    }


def test_no_file_is_a_drawer_for_everything() -> None:
    assert not [ids(path) for path in FILES if path.stem in {"utils", "helpers", "common", "misc"}]


def test_functions_are_short() -> None:
    lengths = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                doc = ast.get_docstring(node, clean=False)
                body = node.end_lineno - node.lineno + 1 - (doc.count("\n") + 1 if doc else 0)
                lengths.append((body, f"{ids(path)}:{node.name}"))
    lengths.sort()
    assert lengths[len(lengths) // 2][0] <= 8
    assert lengths[int(0.9 * len(lengths))][0] < 25
    assert lengths[-1][0] <= 50, lengths[-1]
