"""docs/paper.md has every element and contradiction, and what it says of settings is so."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from osteomet.config import Config, load_config

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
ELEMENTS = [str(number) for number in range(1, 39)]
CONTRADICTIONS = [f"C{number}" for number in range(1, 22)]
PAPER = load_config(ROOT / "configs" / "paper.toml")


def rows(heading: str) -> dict[str, list[str]]:
    """Return the cells of each line of a section's table, by their first."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line.strip("| ").split(" | ") for line in section.splitlines() if line[:1] == "|"]
    return {cells[0]: cells for cells in lines[2:]}


def assigned(cell: str) -> list[tuple[str, Any]]:
    """Return each setting of a cell that stands there with its value."""
    sections = "|".join(Config.model_fields)
    spans = re.findall(rf"`((?:{sections})\.[\w.]+) = (.+?)`", cell)
    return [(name, tomllib.loads(f"value = {value}")["value"]) for name, value in spans]


def value_of(config: Config, name: str) -> object:
    place: Any = config.model_dump(mode="json")
    for key in name.split("."):
        place = place[key]
    return place


@pytest.mark.parametrize(
    ("heading", "names"), [("Elements", ELEMENTS), ("Contradictions", CONTRADICTIONS)]
)
def test_none_is_missing_and_each_has_its_files(heading: str, names: list[str]) -> None:
    table = rows(heading)
    assert list(table) == names
    for name, cells in table.items():
        assert len(cells) == 5, name
        assert all(cell.strip() for cell in cells), name
        files = re.findall(r"`([^`]+)`", cells[2])
        assert files, f"{name}: no file"
        for file in files:
            assert (ROOT / file).is_file(), f"{name}: {file}"


@pytest.mark.parametrize(("heading", "least"), [("Elements", 30), ("Contradictions", 7)])
def test_settings_of_the_paper_s_preset_are_in_it(heading: str, least: int) -> None:
    checked = 0
    for name, cells in rows(heading).items():
        for setting, value in assigned(cells[3]):
            assert value_of(PAPER, setting) == value, f"{name}: {setting}"
            checked += 1
    assert checked >= least


def test_settings_of_the_default_are_so() -> None:
    checked = 0
    for name, cells in rows("Elements").items():
        for setting, value in assigned(cells[4]):
            assert value_of(Config(), setting) == value, f"{name}: {setting}"
            checked += 1
    assert checked >= 25


def test_same_means_that_the_default_does_not_depart() -> None:
    for name, cells in rows("Elements").items():
        if cells[4].strip() == "same":
            for setting, value in assigned(cells[3]):
                assert value_of(Config(), setting) == value, f"{name}: {setting}"


def test_settings_that_a_row_names_are_there() -> None:
    """Also those without a value, which say where the other reading is."""
    sections = "|".join(Config.model_fields)
    for heading in ("Elements", "Contradictions"):
        for name, cells in rows(heading).items():
            for setting in re.findall(rf"`((?:{sections})\.[a-z_.]+)[ `]", " ".join(cells[3:])):
                assert value_of(PAPER, setting) != "", f"{name}: {setting}"
