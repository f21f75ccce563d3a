"""Write configs/default.toml: every setting, its default and what config.py says of it.

Run it after a default in src/osteomet/config.py has changed.
"""

import ast
import json
import textwrap
from pathlib import Path

from osteomet import config
from osteomet.config import Config, Section

TARGET = Path(__file__).with_name("default.toml")
HEAD = """\
# All settings with their defaults. A file of your own needs only what differs.
# Written by configs/write_default.py from src/osteomet/config.py; do not edit.
"""


def field_comments() -> dict[str, dict[str, str]]:
    """Return the docstring below each field, by class and field."""
    comments: dict[str, dict[str, str]] = {}
    for node in ast.parse(Path(config.__file__).read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.ClassDef):
            continue
        comments[node.name] = {}
        for field, below in zip(node.body, node.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
                name, text = ast.unparse(field.target), ast.literal_eval(below.value)
                comments[node.name][name] = text
    return comments


def as_toml(section: Section, name: str = "") -> str:
    """Return one section and those in it; what is None, which TOML lacks, is commented out."""
    comments = field_comments()[type(section).__name__]
    settings, sections = [], []
    for key in type(section).model_fields:
        value = getattr(section, key)
        if isinstance(value, Section):
            place = f"{name}.{key}" if name else key
            sections.append(f"\n[{place}]\n{as_toml(value, place)}")
            continue
        settings += textwrap.wrap(
            comments.get(key, ""), 96, initial_indent="# ", subsequent_indent="# "
        )
        settings.append(f"# {key} is not set" if value is None else f"{key} = {json.dumps(value)}")
    return "".join(f"{line}\n" for line in settings) + "".join(sections)


def default_toml() -> str:
    """Return what default.toml has to say."""
    return HEAD + as_toml(Config())


if __name__ == "__main__":
    TARGET.write_text(default_toml(), encoding="utf-8")
