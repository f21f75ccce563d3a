"""The files in configs/ are settings that make a model, and default.toml is the defaults."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

from osteomet.config import Config, load_config
from osteomet.models.mask_rcnn import MaskRCNN

FOLDER = Path(__file__).parents[1] / "configs"
FILES = sorted(FOLDER.glob("*.toml"))


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("write_default", FOLDER / "write_default.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_default_is_what_config_says() -> None:
    assert load_config(FOLDER / "default.toml") == Config()


def test_default_is_written_with_its_comments() -> None:
    text = (FOLDER / "default.toml").read_text(encoding="utf-8")
    assert text == script().default_toml(), "run configs/write_default.py"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_file_makes_a_model_for_its_patches(path: Path) -> None:
    config = load_config(path)
    with torch.device("meta"):  # shapes without numbers: the paper's model has 200 million
        model = MaskRCNN(config.model, config.preprocess.spacing_mm)
    for side in (*config.data.patch_size, *config.inference.tile_size):
        assert side % model.multiple_of == 0
    assert all(side % 32 == 0 for side in config.inference.tile_size)
    assert config.inference.overlap_vox <= min(config.inference.tile_size) // 2


def test_paper_preset_has_what_the_paper_gives() -> None:
    config = load_config(FOLDER / "paper.toml")
    model, training = config.model, config.training
    assert model.backbone.name == "convnextv2_base"
    assert model.anchors.sizes_mm == ((4,), (8,), (16,), (32,), (64,))
    assert model.anchors.ratios == (0.5, 1, 2)
    assert (model.rpn.matcher, model.rpn.positive_iou) == ("iou", 0.95)
    assert (training.learning_rate, training.batch_size, training.schedule) == (1e-4, 8, "step")
    assert config.preprocess.spacing_mm == 1
    assert (config.augment.rotate_degrees, config.augment.scale) == (15, (0.8, 1.2))
    assert (model.losses.mask_dice, model.losses.segmentation) == (0, 0)
