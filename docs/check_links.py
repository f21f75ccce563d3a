"""Check what the pages claim: links, commands, settings, imports and paths must exist.

Run by ``make docs`` and by tests/test_docs.py. A claim is what the pages write as code:

- a link to a file of the repository, and to a heading in it;
- ``osteomet train --resume``: the command, its options, and keys after ``--set``;
- ``training.seed``: a setting; a block of TOML: settings that load;
- ``make demo``: a target of the Makefile;
- a block of Python: it parses, and what it imports from osteomet is there;
- ``configs/tiny.toml``: a path of the repository.
"""

import ast
import importlib
import re
import shlex
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from typer.core import TyperGroup
from typer.main import get_command

from osteomet.cli.app import build_app
from osteomet.config import Config, Section, parse_config
from osteomet.errors import ConfigError

ROOT = Path(__file__).parents[1]
FOLDERS = ("src", "tests", "docs", "configs", "examples", "benchmarks")

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
SETTING = re.compile(rf"({'|'.join(Config.model_fields)})(\.[a-z0-9_]+)+")
REPOSITORY_PATH = re.compile(rf"({'|'.join(FOLDERS)})/[\w./-]+")


@dataclass(frozen=True)
class Page:
    """One Markdown file, its code taken apart.

    Attributes:
        prose: the text without code.
        spans: inline code.
        blocks: language and text of each block of code.
    """

    path: Path
    prose: str
    spans: tuple[str, ...]
    blocks: tuple[tuple[str, str], ...]

    @classmethod
    def read(cls, path: Path) -> "Page":
        """Read a page."""
        text = path.read_text(encoding="utf-8")
        rest = FENCE.sub("", text)
        blocks = tuple((match[1], match[2]) for match in FENCE.finditer(text))
        return cls(path, SPAN.sub("", rest), tuple(SPAN.findall(rest)), blocks)

    def commands(self) -> Iterator[str]:
        """Yield each line of a shell, and each span that may be one."""
        yield from self.spans
        for language, text in self.blocks:
            if language in {"bash", "sh", "console"}:
                joined = text.replace("\\\n", " ")
                yield from (line.strip().removeprefix("$ ") for line in joined.splitlines())


def pages(root: Path = ROOT) -> list[Path]:
    """Return the Markdown files of the repository."""
    found = [*root.glob("*.md")]
    for folder in FOLDERS:
        found += (root / folder).rglob("*.md")
    return sorted(found)


def check_links(page: Page) -> Iterator[str]:
    """Yield links to files or headings that are not there."""
    for target in LINK.findall(_with_code_in_links(page)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.path.parent / name).resolve() if name else page.path
        if not path.exists():
            yield f"link to {target}: there is no {name}"
        elif anchor and anchor not in headings(path):
            yield f"link to {target}: {path.name} has no such heading"


def _with_code_in_links(page: Page) -> str:
    return FENCE.sub("", page.path.read_text(encoding="utf-8"))


def headings(path: Path) -> set[str]:
    """Return the anchors that Markdown makes of a page's headings."""
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in HEADING.findall(text))
    return {heading.strip().replace(" ", "-") for heading in kept}


def check_commands(page: Page) -> Iterator[str]:
    """Yield commands, options and targets that are not there."""
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for line in page.commands():
        words = _words(line)
        if words[:1] == ["osteomet"] and len(words) > 1:
            yield from (f"{line}: {problem}" for problem in check_command(words[1:]))
        if words[:1] == ["make"] and len(words) > 1 and words[1] not in targets:
            yield f"{line}: the Makefile has no {words[1]}"


def check_command(words: list[str]) -> Iterator[str]:
    """Yield what is wrong with the words after ``osteomet``."""
    group = get_command(build_app())
    commands = group.commands if isinstance(group, TyperGroup) else {}
    command = group if words[0].startswith("-") else commands.get(words[0])
    if command is None:
        if not words[0].isupper():  # COMMAND stands for any
            yield f"there is no command {words[0]}"
        return
    known = {"--help"} | {
        name for one in command.params for name in (*one.opts, *one.secondary_opts)
    }
    for place, word in enumerate(words):
        option = word.partition("=")[0]
        if option.startswith("-") and option not in known:
            yield f"has no option {option}"
        if word == "--set" and place + 1 < len(words):
            name = words[place + 1].partition("=")[0]
            if name != "section.key" and not is_setting(name):
                yield f"there is no setting {name}"


def _words(line: str) -> list[str]:
    """Split a command; brackets around optional parts are left out."""
    optional = re.sub(r"\[(?=[-A-Z])|(?<=[\w.])\](?=\s|$|\.\.\.)|\.\.\.", "", line)
    try:
        return shlex.split(optional, comments=True)
    except ValueError:
        return []


def check_settings(page: Page) -> Iterator[str]:
    """Yield settings that are not there, and blocks of TOML that do not load."""
    for span in page.spans:
        name = re.split(r"\s*=", span)[0].strip()
        if SETTING.fullmatch(name) and not is_setting(name) and not is_module(name):
            yield f"`{span}`: there is no such setting"
    for language, text in page.blocks:
        if language == "toml":
            try:
                parse_config(tomllib.loads(text), "block of TOML")
            except (ConfigError, tomllib.TOMLDecodeError) as error:
                yield str(error)


def is_setting(name: str) -> bool:
    """Return whether ``section.key`` is a section or a setting."""
    place: object = Config()
    for key in name.split("."):
        if not isinstance(place, Section) or key not in type(place).model_fields:
            return False
        place = getattr(place, key)
    return True


def is_module(name: str) -> bool:
    """Return whether ``inference.merge`` is a file of the package."""
    return (ROOT / "src" / "osteomet" / name.replace(".", "/")).with_suffix(".py").is_file()


def check_python(page: Page) -> Iterator[str]:
    """Yield blocks of Python that do not parse or import what is not there."""
    for language, text in page.blocks:
        if language != "python":
            continue
        try:
            tree = ast.parse(text)
        except SyntaxError as error:
            yield f"block of Python: {error}"
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("osteomet"):
                module = importlib.import_module(node.module or "")
                for alias in node.names:
                    if not hasattr(module, alias.name):
                        yield f"block of Python: {node.module} has no {alias.name}"


def check_paths(page: Page) -> Iterator[str]:
    """Yield paths of the repository that are not there; ``NAME`` stands for any."""
    for span in page.spans:
        if REPOSITORY_PATH.fullmatch(span) and "NAME" not in span and not (ROOT / span).exists():
            yield f"`{span}`: there is no such file"


CHECKS: tuple[Callable[[Page], Iterator[str]], ...] = (
    check_links,
    check_commands,
    check_settings,
    check_python,
    check_paths,
)


def problems(path: Path) -> list[str]:
    """Return what a page claims and is not so, one line each."""
    page = Page.read(path)
    return [f"{path}: {problem}" for check in CHECKS for problem in check(page)]


def main() -> None:
    """Check all pages; end with 1 and the list of problems if there are any."""
    paths = pages()
    found = [problem for path in paths for problem in problems(path)]
    if found:
        sys.exit("\n".join(found))
    sys.stdout.write(f"{len(paths)} pages: links, commands, settings, imports and paths hold\n")


if __name__ == "__main__":
    main()
