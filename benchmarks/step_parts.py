"""Where the CPU time of a training step goes, by part of the network."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from osteomet.models.mask_rcnn import MaskRCNN
from osteomet.training.loop import Trainer

BACKWARD = "backward"
REGIONS, POOLING = "RoIs: sampling, RoIAlign, losses", "RoIAlign and below"
"""Regions forward, and what the gradient passes between the heads and the neck."""
RPN_LAYERS = "RPN: layers"
UPDATE, AVERAGE = "clipping, AdamW", "average of weights"


class PartClock:
    """Adds up CPU time for whatever part is at work: modules tell when they begin and end.

    In the backward pass a part begins when the gradient of what it returned is there.

    Attributes:
        cpu_ms: by part, and by direction.
    """

    def __init__(self) -> None:
        self.cpu_ms: dict[tuple[str, str], float] = defaultdict(float)
        self._stack: list[tuple[str, str]] = [("logs, checks, moves", "forward")]
        self._last = time.process_time()

    @contextmanager
    def on(self, trainer: Trainer, model: MaskRCNN) -> Iterator[None]:
        """Time the steps that are taken meanwhile."""
        handles = []
        for name, module in parts_of(model):
            handles.append(module.register_forward_pre_hook(self._entering(name)))
            handles.append(module.register_forward_hook(self._leaving(name)))
        timed: list[tuple[Any, str, str, str]] = [
            (model.roi_heads, "losses", REGIONS, "forward"),
            (trainer.fabric, "backward", "losses", BACKWARD),
            (trainer._update, "follow", UPDATE, "forward"),
            (trainer.learner.average, "update", AVERAGE, "forward"),
        ]
        for owner, method, name, direction in timed:
            setattr(owner, method, self._timed(getattr(owner, method), (name, direction)))
        self._last = time.process_time()
        try:
            yield
        finally:
            self._tick()
            for handle in handles:
                handle.remove()
            for owner, method, _, _ in timed:
                delattr(owner, method)  # what the class has shows again

    def _tick(self) -> None:
        now = time.process_time()
        self.cpu_ms[self._stack[-1]] += 1000 * (now - self._last)
        self._last = now

    def _enter(self, part: tuple[str, str]) -> None:
        self._tick()
        self._stack.append(part)

    def _leave(self) -> None:
        self._tick()
        self._stack.pop()

    def _goes_on_with(self, name: str) -> Callable[[Tensor], None]:
        def hook(_: Tensor) -> None:
            self._tick()
            self._stack[-1] = (name, BACKWARD)

        return hook

    def _entering(self, name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            if name in ("box head", "mask head"):
                self._follow(inputs[:1], POOLING)
            self._enter((name, "forward"))

        return hook

    def _leaving(self, name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def hook(_: nn.Module, __: tuple[Any, ...], output: object) -> None:
            self._leave()
            self._follow(output, name)

        return hook

    def _follow(self, output: object, name: str) -> None:
        """Note when the gradients of these tensors are there."""
        if isinstance(output, Tensor) and output.requires_grad:
            output.register_hook(self._goes_on_with(name))
        if isinstance(output, list | tuple):
            for one in output:
                self._follow(one, name)

    def _timed(self, function: Callable[..., Any], part: tuple[str, str]) -> Callable[..., Any]:
        def run(*args: object, **keywords: object) -> object:
            self._enter(part)
            try:
                return function(*args, **keywords)
            finally:
                self._leave()

        return run


def parts_of(model: MaskRCNN) -> Iterator[tuple[str, nn.Module]]:
    """Give the modules that are timed, inner ones last, and what each is called."""
    backbone = model.backbone
    yield "rest of the model", model
    for level, entry, stage in zip(backbone.levels, backbone.entries, backbone.stages, strict=True):
        yield f"backbone, level {level}", entry
        yield f"backbone, level {level}", stage
    yield "neck", model.neck
    yield "RPN: anchors, matching, proposals, losses", model.rpn
    for layer in model.rpn.modules():  # its own code calls them one by one
        if not list(layer.children()):
            yield RPN_LAYERS, layer
    yield "segmentation", model.segmentation
    if model.segmentation.logits is not None:
        yield "segmentation", model.segmentation.logits
    yield "box head", model.roi_heads.box_head
    yield "mask head", model.roi_heads.mask_head
