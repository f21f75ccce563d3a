"""The rules of ARCHITECTURE.md that can be read off the source files."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

import osteomet

ROOT = Path(osteomet.__file__).parent
REPOSITORY = Path(__file__).parents[1]
FILES = sorted(ROOT.rglob("*.py"))

# part -> what it may import from osteomet, besides itself
ALLOWED = {
    "errors": set(),
    "config": {"errors"},
    "volume": {"errors"},
    "structures": {"errors"},
    "ops": set(),
    "findings": {"errors", "volume"},
    "label_map": {"volume"},
    "checkup": set(),
    "box_arrays": set(),
    "ahead": set(),
    "io": {"ahead", "errors", "findings", "label_map", "volume"},
    "models": {"config", "errors", "ops", "structures"},
    "checkpoint": {"config", "errors", "models"},
    "data": {
        "box_arrays",
        "checkup",
        "config",
        "errors",
        "findings",
        "io",
        "label_map",
        "ops",
        "structures",
        "volume",
    },
    "simulate": {"errors", "findings", "io", "volume"},
    "evaluation": {"box_arrays", "errors", "findings", "io", "volume"},
    "reporting": {"checkup", "errors", "evaluation", "findings", "label_map", "volume"},
    "inference": {
        "ahead",
        "checkpoint",
        "config",
        "data",
        "errors",
        "evaluation",
        "findings",
        "io",
        "label_map",
        "models",
        "ops",
        "reporting",
        "structures",
        "volume",
    },
    "training": {
        "checkpoint",
        "config",
        "data",
        "errors",
        "evaluation",
        "findings",
        "inference",
        "io",
        "models",
        "ops",
        "reporting",
        "structures",
    },
    "demo": {"evaluation", "findings", "inference", "io", "simulate"},
    "doctor": {"checkup", "data", "errors", "reporting"},
    "reproduce": {
        "checkpoint",
        "config",
        "data",
        "errors",
        "evaluation",
        "findings",
        "inference",
        "reporting",
        "training",
    },
    "cli": {
        "checkpoint",
        "checkup",
        "config",
        "data",
        "demo",
        "doctor",
        "errors",
        "evaluation",
        "inference",
        "io",
        "reporting",
        "reproduce",
        "simulate",
        "training",
    },
}
# third-party package -> the parts that may import it
CONFINED = {
    "pydicom": {"io", "reporting", "service"},
    "gdcm": {"io"},
    "SimpleITK": {"io"},
    "nibabel": {"io"},
    "highdicom": {"io", "reporting"},
    "pynetdicom": {"service"},
    "fastapi": {"service"},
    "jinja2": {"reporting", "service"},
    "contourpy": {"reporting"},
    "openpyxl": {"data"},
    "matplotlib": {"reporting"},
    "PIL": {"reporting"},
    "blosc2": {"data"},
    "numba": {"ops", "simulate"},
    "llvmlite": {"ops"},
    "safetensors": {"checkpoint"},
    "sklearn": {"data"},
    "lightning_fabric": {"training"},
    "typer": {"cli"},
    "rich": {"cli", "reproduce", "training"},
    "torch": {"structures", "ops", "models", "checkpoint", "data", "inference", "training"},
}
# what an installer calls these packages
DISTRIBUTIONS = {"PIL": "pillow", "sklearn": "scikit-learn"}


def part_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.fixture(scope="module")
def trees() -> dict[Path, ast.Module]:
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


def test_parts_import_only_what_they_may(trees: dict[Path, ast.Module]) -> None:
    for path, tree in trees.items():
        part = part_of(path)
        for name in imported(tree):
            top, _, rest = name.partition(".")
            target = rest.partition(".")[0]
            # "import osteomet" is for the version, which every part may state.
            if top != "osteomet" or target in {"", part, "__version__"}:
                continue
            assert part in ALLOWED, f"{path}: no rule for {part}; add one to ALLOWED"
            assert target in ALLOWED[part], f"{path}: {part} may not import {target}"


def test_rules_have_no_cycle() -> None:
    done: set[str] = set()
    while ready := {part for part, may in ALLOWED.items() if part not in done and may <= done}:
        done |= ready
    assert done == set(ALLOWED), f"cycle among {set(ALLOWED) - done}"


def test_rules_permit_nothing_that_is_not_there() -> None:
    there = {part_of(path) for path in FILES}
    assert set(ALLOWED) == there - {"__init__"}


def test_packages_stay_where_they_belong(trees: dict[Path, ast.Module]) -> None:
    for path, tree in trees.items():
        for name in imported(tree):
            allowed = CONFINED.get(name.partition(".")[0])
            part = part_of(path)
            assert allowed is None or part in allowed, f"{path}: {part} may not import {name}"


def test_modules_have_no_cycle(trees: dict[Path, ast.Module]) -> None:
    """Two files of one part may not need each other either."""
    modules = {module_name(path): path for path in FILES}
    needs = {
        name: {found for one in imported(trees[path]) if (found := resolve(one, modules))} - {name}
        for name, path in modules.items()
    }
    done: set[str] = {"osteomet"}
    while ready := {name for name in needs if name not in done and needs[name] <= done}:
        done |= ready
    assert done == set(needs), f"cycle among {sorted(set(needs) - done)}"


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def resolve(name: str, modules: dict[str, Path]) -> str | None:
    """Return the module that ``name``, a module or something in one, lies in."""
    for candidate in (name, name.rpartition(".")[0]):
        if candidate in modules:
            return candidate
    return None


def test_imports_stand_at_the_top_and_are_absolute(trees: dict[Path, ast.Module]) -> None:
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}:{node.lineno}: write 'from osteomet...'"
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                inner = [n for n in ast.walk(node) if isinstance(n, ast.Import | ast.ImportFrom)]
                assert not inner, f"{path}:{node.lineno}: imports inside {node.name}"


def test_nothing_prints_or_asserts(trees: dict[Path, ast.Module]) -> None:
    """Output is the command line's, and ``assert`` vanishes under ``python -O``."""
    for path, tree in trees.items():
        for node in ast.walk(tree):
            assert not isinstance(node, ast.Assert), f"{path}:{node.lineno}: assert"
            called = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
            printed = called and node.func.id in {"print", "pprint", "breakpoint"}
            assert not printed, f"{path}: prints"


def test_every_file_is_on_the_map() -> None:
    """osteomet/__init__.py lists every module in the order of the data flow."""
    listed = re.findall(r"^    (\S+\.py) ", osteomet.__doc__ or "", re.MULTILINE)
    there = [path.relative_to(ROOT).as_posix() for path in FILES if path.name != "__init__.py"]
    assert sorted(listed) == sorted(there)


def test_every_module_says_what_it_is_for(trees: dict[Path, ast.Module]) -> None:
    for path, tree in trees.items():
        assert not tree.body or ast.get_docstring(tree), f"{path}: has no docstring"


def test_no_file_is_called_after_nothing() -> None:
    vague = {"utils", "util", "helpers", "helper", "common", "misc", "core", "base", "abstract"}
    assert not [path for path in FILES if path.stem in vague]


def test_imported_packages_are_declared(trees: dict[Path, ast.Module]) -> None:
    """A package that comes along with another one may be gone tomorrow."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {re.split(r"[^A-Za-z0-9_.-]", line)[0].lower() for line in project["dependencies"]}
    known = metadata.packages_distributions()
    for path, tree in trees.items():
        for name in {name.partition(".")[0] for name in imported(tree)}:
            if name in sys.stdlib_module_names or name == "osteomet":
                continue
            candidates = {DISTRIBUTIONS.get(name, name), *known.get(name, [])}
            candidates = {one.lower().replace("_", "-") for one in candidates}
            assert candidates & declared, f"{path}: imports {name}, which pyproject.toml lacks"
