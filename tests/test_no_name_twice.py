"""No module of the package defines a name twice: of two constants only the last one counts."""

import ast
from collections import Counter
from pathlib import Path

import pytest

import osteomet

ROOT = Path(osteomet.__file__).parent
MODULES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))


@pytest.mark.parametrize("module", MODULES)
def test_each_name_is_defined_once(module: str) -> None:
    body = ast.parse((ROOT / module).read_text(encoding="utf-8")).body
    names = Counter(name for statement in body for name in _defined(statement))
    assert not [name for name, times in names.items() if times > 1]


def _defined(statement: ast.stmt) -> list[str]:
    """Return the names that a statement of a module defines."""
    match statement:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            return [name]
        case ast.Assign(targets=targets):
            return [target.id for target in targets if isinstance(target, ast.Name)]
        case ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
    return []
