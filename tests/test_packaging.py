"""The house: imports run one way, sizes stay small, public functions are explained."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "hmasd"
FILES = sorted(PACKAGE.rglob("*.py"))
FLOORS = {
    name: floor
    for floor, names in enumerate(
        (
            ("types", "config", "disk", "processes", "launch", "pulse", "meeting", "shared_memory"),
            (
                "batch_schedule",
                "kernels",
                "settings",
                "presets",
                "checkpoint",
                "distributed",
                "envs",
                "telemetry",
            ),
            ("modules", "validation", "description", "viz"),
            ("networks",),
            ("algorithm", "rollout"),
            ("sync", "trained_team", "round_metrics"),
            ("agent",),
            ("training", "play"),
            ("bench",),
            ("cli", "check_env"),
            ("commands",),
            ("__main__",),
        )
    )
    for name in names
}
SIDE_ROOMS = {  # each stands beside the walk and may import only these
    "envs": {"types", "envs", "processes"},
    "telemetry": {"types", "config", "disk", "telemetry"},
    "distributed": {"types", "launch", "pulse", "meeting", "shared_memory"},
    "meeting": {"pulse"},
    "shared_memory": {"pulse"},
    "launch": set(),
    "pulse": set(),
    "checkpoint": {"types", "config", "disk"},
    "config": {"types"},
    "types": set(),
    "disk": set(),
    "processes": set(),
    "settings": {"config"},
    "presets": {"config"},
    "batch_schedule": {"config"},
    "validation": {"config", "settings", "batch_schedule", "envs"},
    "description": {"config", "batch_schedule"},
}
FUNCTIONS = [
    pytest.param(file, node, id=f"{file.relative_to(ROOT)}:{node.name}")
    for file in FILES
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
]


def room(file):
    """First name below hmasd/: a folder or a module."""
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(tree):
    """The rooms that a module imports from, lazily or not."""
    found = set()
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            module = node.module or ""
            names = [f"{module}.{x.name}" for x in node.names] if module == "hmasd" else [module]
        elif isinstance(node, ast.Import):
            names = [x.name for x in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("hmasd.")}
    return found


def wrong_imports(name, rooms):
    """The rooms that `name` must not import from."""
    if name in SIDE_ROOMS:
        return rooms - SIDE_ROOMS[name]
    return {x for x in rooms if x != name and FLOORS[x] >= FLOORS[name]}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_run_one_way(file):
    if file == PACKAGE / "__init__.py":
        return
    rooms = imported(ast.parse(file.read_text(encoding="utf-8")))
    assert room(file) in FLOORS, "a new room: give it a floor here and in the design"
    assert not wrong_imports(room(file), rooms)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("modules", "from hmasd.agent import HMASDAgent"),
        ("algorithm", "from hmasd import sync"),
        ("algorithm", "import hmasd.rollout.storage"),
        ("envs", "def f():\n    from hmasd.config import Config"),
        ("viz", "from hmasd.training.loop import train"),
    ],
)
def test_an_import_upwards_is_found(name, line):
    assert wrong_imports(name, imported(ast.parse(line)))


def test_the_entry_is_thin():
    assert len((ROOT / "train_sync_enhanced.py").read_text().splitlines()) <= 60


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_file_is_long(file):
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 450


def test_no_function_is_long():
    sizes = {p.id: p.values[1].end_lineno - p.values[1].lineno + 1 for p in FUNCTIONS}
    assert not {name: size for name, size in sizes.items() if size > 60}
    assert sorted(sizes.values())[len(sizes) // 2] <= 15


def test_nine_tenths_of_the_public_functions_are_explained():
    public = [p for p in FUNCTIONS if not p.values[1].name.startswith("_")]
    silent = [p.id for p in public if not ast.get_docstring(p.values[1])]
    assert len(silent) <= 0.1 * len(public), silent


def test_every_module_is_explained():
    texts = {f: f.read_text(encoding="utf-8") for f in FILES if f.name != "__init__.py"}
    assert not [f for f, text in texts.items() if not ast.get_docstring(ast.parse(text))]


def test_every_direct_dependency_is_pinned():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    pinned = {x.split("==")[0] for x in (ROOT / "constraints.txt").read_text().splitlines()}
    lists = text.split("dependencies = [")[1].split("[project.scripts]")[0]
    wanted = {re.split(r"[>\[]", x.split('"')[1])[0] for x in lists.splitlines() if '"' in x}
    assert wanted and wanted <= pinned
