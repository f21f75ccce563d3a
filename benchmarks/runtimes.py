"""What runs the network's layers fastest: this package, torch alone, torch.compile or OpenVINO.

    pip install openvino  # in an environment of its own, or with --target and PYTHONPATH
    python benchmarks/runtimes.py --output benchmarks/runtimes.md

Layers are those that every tile of a scan passes: backbone, pyramid, proposal and segmentation
heads, of the bundled weights. Each way has a process of its own, in turn with the others.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from machine import description
from torch import Tensor, nn
from torch.nn import functional as F

from osteomet.checkpoint import DEFAULT_WEIGHTS, load_weights
from osteomet.models.backbones.convnextv2 import GlobalResponseNorm
from osteomet.models.mask_rcnn import MaskRCNN
from osteomet.ops.freed_memory import keep_freed_memory
from osteomet.ops.response_norm import EPS

OURS, ALONE, COMPILED, OPENVINO = "osteomet", "torch alone", "torch.compile", "OpenVINO"
THREADS, SIDE, RUNS, ROUNDS = 2, 128, 7, 3


class Layers(nn.Module):
    """What a tile passes before boxes are chosen."""

    def __init__(self) -> None:
        super().__init__()
        weights = load_weights(DEFAULT_WEIGHTS)
        self.model = MaskRCNN(weights.config.model, weights.config.preprocess.spacing_mm).eval()
        self.model.load_state_dict(weights.model_state)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        features = self.model.neck(self.model.backbone(image))
        told = []
        for level in features:
            hidden = self.model.rpn.slide(level)
            told += [self.model.rpn.objectness(hidden), self.model.rpn.deltas(hidden)]
        if self.model.segmentation.logits is not None:
            told.append(self.model.segmentation.logits(features[0]))
        return (*features, *told)


def write_out_response_norm() -> None:
    """Let GRN be layers that a converter knows."""

    def forward(self: GlobalResponseNorm, x: Tensor) -> Tensor:
        norms = x.square().sum(dim=(1, 2, 3), keepdim=True).sqrt()
        share = norms / (norms.mean(dim=4, keepdim=True) + EPS)
        return x * (1 + self.gamma * share) + self.beta

    def between(
        self: GlobalResponseNorm, expand: nn.Linear, project: nn.Linear, x: Tensor
    ) -> Tensor:
        projected: Tensor = project(self(F.gelu(expand(x))))
        return projected

    GlobalResponseNorm.forward = forward  # type: ignore[method-assign, assignment]
    GlobalResponseNorm.between = between  # type: ignore[method-assign, assignment]


def runner(way: str, layers: Layers, image: Tensor) -> Callable[[], Any]:
    """Return what runs the layers once."""
    if way != OPENVINO:
        run = torch.compile(layers) if way == COMPILED else layers
        return lambda: run(image)
    openvino = importlib.import_module("openvino")
    traced = torch.jit.trace(layers, image, check_trace=False)  # type: ignore[no-untyped-call]
    model = openvino.convert_model(traced, example_input=image, input=[tuple(image.shape)])
    asked = {"INFERENCE_NUM_THREADS": THREADS, "INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.Core().compile_model(model, "CPU", asked).create_infer_request()
    array = image.numpy()
    return lambda: [torch.from_numpy(one) for one in request.infer({0: array}).values()]


def serve(way: str, reference: Path) -> None:
    """Time one way, and print wall ms, CPU ms and the largest difference from ``reference``."""
    torch.set_num_threads(THREADS)
    keep_freed_memory()
    if way != OURS:
        write_out_response_norm()
    image = torch.randn(1, 1, SIDE, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        run = runner(way, Layers(), image)
        told = [one.clone() for one in run()]
        if not reference.exists():
            torch.save(told, reference)
        apart = max(
            ((a - b).abs().max() / b.abs().max()).item()
            for a, b in zip(told, torch.load(reference), strict=True)
        )
        run()
        spent = []
        for _ in range(RUNS):
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            spent.append((time.perf_counter() - wall, time.process_time() - cpu))
    wall_ms, cpu_ms = (1000 * median(column) for column in zip(*spent, strict=True))
    print(json.dumps([wall_ms, cpu_ms, apart]))


def ask(way: str, reference: Path) -> list[float]:
    """Time one way in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS), "GOMP_SPINCOUNT": "1000"}
    if way != OURS:
        environment["OSTEOMET_NUMBA"] = "0"
    command = [sys.executable, __file__, "--serve", way, "--reference", str(reference)]
    answer = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    told: list[float] = json.loads(answer.stdout.splitlines()[-1])
    return told


def page() -> str:
    """Time all ways and return the page."""
    ways = [OURS, ALONE, COMPILED]
    if importlib.util.find_spec("openvino"):
        ways.append(OPENVINO)
    spent: dict[str, list[list[float]]] = defaultdict(list)
    with TemporaryDirectory() as folder:
        for _ in range(ROUNDS):
            for way in ways:
                spent[way].append(ask(way, Path(folder) / "reference.pt"))
    lines = [
        "# What runs the layers",
        "",
        "Repeat with `python benchmarks/runtimes.py`; OpenVINO is timed where it is installed.",
        "",
        f"{description(THREADS)}. Backbone, pyramid and dense heads on one tile of {SIDE}-cubed, "
        f"float32; medians of {ROUNDS} rounds in turn.",
        "",
        "| way | ms | CPU ms | times osteomet's | largest difference |",
        "| --- | --- | --- | --- | --- |",
    ]
    ours = median(wall for wall, _, _ in spent[OURS])
    for way, every in spent.items():
        wall, cpu, apart = (median(column) for column in zip(*every, strict=True))
        lines.append(f"| {way} | {wall:.0f} | {cpu:.0f} | {wall / ours:.2f} | {apart:.0e} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Read the options, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--reference", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help="file to write the page to")
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.reference)
        return
    text = page()
    print(text)
    if options.output:
        options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
