"""docs/architectures.md says what the networks cost."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

FOLDER = Path(__file__).parents[3] / "docs"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sizes", FOLDER / "write_architectures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their own module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "convnextv2_femto", "yolov8n"])
def test_row_is_what_the_network_is(script: ModuleType, name: str) -> None:
    text = (FOLDER / "architectures.md").read_text(encoding="utf-8")
    assert script.row(name) in text, "run docs/write_architectures.py"


def test_every_name_has_its_row(script: ModuleType) -> None:
    text = (FOLDER / "architectures.md").read_text(encoding="utf-8")
    rows = text.split(script.START)[1].split(script.END)[0].strip().splitlines()[2:]
    assert [row.split("|")[1].strip() for row in rows] == list(script.BACKBONES)


def test_multiplications_are_counted_layer_by_layer(script: ModuleType) -> None:
    layers = nn.Sequential(nn.Conv3d(2, 3, 3, padding=1), nn.Conv3d(3, 3, 2, stride=2, groups=3))
    counted = script.multiplications(layers, torch.zeros(1, 2, 4, 4, 4))
    assert counted == 3 * 4**3 * 2 * 27 + 3 * 2**3 * 8
