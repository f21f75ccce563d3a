"""docs/findings.md names the fields of findings.json, all of them and no others."""

import inspect
import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from osteomet import findings

PAGE = Path(__file__).parents[2] / "docs" / "findings.md"
MODELS = [
    model
    for name, model in inspect.getmembers(findings, inspect.isclass)
    if issubclass(model, BaseModel) and not name.startswith("_") and model is not BaseModel
]


def sections() -> dict[str, list[str]]:
    parts = re.split(r"^## (\w+)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {
        name: re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE)
        for name, text in zip(parts[1::2], parts[2::2], strict=True)
    }


def test_every_part_of_the_document_has_a_section() -> None:
    assert set(sections()) == {model.__name__ for model in MODELS}


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_fields_are_named_in_their_order(model: type[BaseModel]) -> None:
    assert sections()[model.__name__] == list(model.model_fields)


def test_the_version_is_that_of_the_schema() -> None:
    assert f"version of this page: {findings.SCHEMA_VERSION}" in PAGE.read_text(encoding="utf-8")
