"""Write the table of docs/architectures.md: parameters and multiplications of every backbone.

Networks are built and run on torch's meta device, which has shapes and no numbers, so that the
largest one takes no memory. Multiplications are those of convolutions and linear layers.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from osteomet.config import BACKBONES, BackboneConfig, ModelConfig
from osteomet.models.backbones import build_backbone, convnext, convnextv2, resnet, yolov8
from osteomet.models.fpn import FeaturePyramid
from osteomet.models.mask_rcnn import MaskRCNN, count_parameters

PAGE = Path(__file__).with_name("architectures.md")
START, END = "<!-- sizes:start -->", "<!-- sizes:end -->"

PUBLISHED_DEEPEST = 5
SIDE = 128


@dataclass(frozen=True)
class Cost:
    """What a backbone costs.

    Attributes:
        parameters: of all four stages.
        parameters_2d: of the same network with flat kernels and one grey channel.
        multiplications: of all four stages, for a cube of ``SIDE`` voxels a side.
        with_neck: of the stages that the default levels need, and the default pyramid.
        detector: parameters of the whole default detector with this backbone.
    """

    parameters: int
    parameters_2d: int
    multiplications: int
    with_neck: int
    detector: int


def multiplications(module: nn.Module, x: Tensor) -> int:
    """Return those of the products and convolutions that a module asks torch for."""
    with FlopCounterMode(display=False) as counter:
        module(x)
    return counter.get_total_flops() // 2  # each with an addition


def cost(name: str) -> Cost:
    """Return the cost of one backbone at its published size."""
    model = ModelConfig(backbone=BackboneConfig(name=name))
    image = torch.zeros(1, 1, SIDE, SIDE, SIDE, device="meta")
    with torch.device("meta"), torch.no_grad():
        backbone = build_backbone(model.backbone, PUBLISHED_DEEPEST).eval()
        all_stages = multiplications(backbone, image)
        used = build_backbone(model.backbone, max(model.neck.levels)).eval()
        neck = FeaturePyramid(model.neck, used.channels)
        with_neck = multiplications(nn.Sequential(used, neck), image)
        detector = count_parameters(MaskRCNN(model, spacing_mm=1.0))
    flat = sum(p.numel() // (p.shape[2] if p.ndim == 5 else 1) for p in backbone.parameters())
    return Cost(count_parameters(backbone), flat, all_stages, with_neck, detector)


def table() -> str:
    """Return the table as Markdown."""
    lines = [
        "| `model.backbone.name` | blocks | channels | parameters, M | in 2D, M | "
        f"multiplications, G, {SIDE}³ | levels 2 to 4 and pyramid, G | default detector, M |",
        f"|{' --- |' * 8}",
    ]
    return "\n".join([*lines, *map(row, BACKBONES)])


def row(name: str) -> str:
    """Return the row of one backbone."""
    c, size = cost(name), published_size(name)
    counts = (c.parameters, c.parameters_2d, c.detector)
    parameters, flat, detector = (f"{count / 1e6:.2f}" for count in counts)
    return (
        f"| {name} | {size[0]} | {size[1]} | {parameters} | {flat} "
        f"| {c.multiplications / 1e9:.1f} | {c.with_neck / 1e9:.1f} | {detector} |"
    )


def published_size(name: str) -> tuple[str, str]:
    """Return blocks and channels of the stages."""
    for family in (resnet, convnext, convnextv2, yolov8):
        if name in family.SIZES:
            size = family.SIZES[name]
            return ", ".join(map(str, size.depths)), ", ".join(map(str, size.dims))
    raise ValueError(f"no sizes of {name}")


def page(text: str) -> str:
    """Return the page's text with a new table."""
    before, rest = text.split(START)
    after = rest.split(END)[1]
    return f"{before}{START}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
