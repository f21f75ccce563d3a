"""Write the table of docs/paper.md: how many anchors the paper's rule leaves as positives.

Lesions are those of a simulated cohort, on the model's grid. Each scan is put somewhere into one
cube of the size that ``configs/paper.toml`` trains on, so that no lesion is cut, and the anchors
of the cube are matched to its lesions as in training.

    osteomet simulate -o cohort --patients 60 --seed 1
    python docs/write_paper_anchors.py cohort/cohort.csv
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from osteomet.config import Config, load_config
from osteomet.data.manifest import read_cohort
from osteomet.data.prepare import STORE_FOLDER
from osteomet.data.store import build_store
from osteomet.models.anchors import AnchorGenerator
from osteomet.models.matching import match_by_atss, match_by_iou
from osteomet.ops.boxes import box_iou

ROOT = Path(__file__).parents[1]
PAGE = Path(__file__).with_name("paper.md")
START, END = "<!-- anchors:start -->", "<!-- anchors:end -->"
SCANS = 60
PAPER = "the paper's anchors, IoU"


@dataclass(frozen=True)
class Count:
    """Positives of one rule, over all lesions.

    Attributes:
        reached: lesions with an anchor of at least the rule's IoU; none where it has no fixed one.
        positives: anchors that train as a lesion.
        lesions: with at least one of them.
    """

    reached: int | None
    positives: int
    lesions: int


def main(cohort: Path, scans: int = SCANS) -> str:
    """Return the table, of the first scans of a cohort."""
    paper, default = load_config(ROOT / "configs" / "paper.toml"), Config()
    spacing = paper.preprocess.spacing_mm
    cases = read_cohort(cohort).cases[:scans]
    store = build_store(cases, cohort.parent / STORE_FOLDER, spacing)
    generator = torch.Generator().manual_seed(0)
    side = paper.data.patch_size[0]
    anchors = {name: _anchors(config, side) for name, config in _both(paper, default).items()}
    counts: dict[str, list[Count]] = {}
    best: dict[str, list[Tensor]] = {name: [] for name in anchors}
    lesions = 0
    for scan in store.scans:
        if not scan.lesions or max(scan.shape) > side:
            continue
        boxes = torch.tensor([lesion.box.tolist() for lesion in scan.lesions])
        room = torch.tensor([side - size for size in scan.shape])
        boxes = boxes + (torch.rand(3, generator=generator) * room).floor().repeat(2)
        lesions += len(boxes)
        for name, (made, _) in anchors.items():
            best[name].append(box_iou(made, boxes).amax(dim=0))
        for name, count in _rules(anchors, boxes, paper, default).items():
            counts.setdefault(name, []).append(count)
    theirs, ours = (torch.cat(best[name]) for name in ("paper", "default"))
    rows = [_row(name, each, lesions) for name, each in counts.items()]
    return (
        f"{lesions} lesions of {len(best['paper'])} simulated patients, in a cube of {side} mm. A "
        f"lesion's best of the paper's {len(anchors['paper'][0]):,} anchors has a median IoU of "
        f"{theirs.median():.2f} and at most {theirs.max():.2f}; of the default's "
        f"{len(anchors['default'][0]):,}, {ours.median():.2f} and {ours.max():.2f}.\n\n"
        "| rule | lesions with an anchor that reaches it | lesions with a positive | positives a "
        "lesion |\n| --- | --- | --- | --- |\n" + "".join(rows)
    )


def _both(paper: Config, default: Config) -> dict[str, Config]:
    return {"paper": paper, "default": default}


def _anchors(config: Config, side: int) -> tuple[Float[Tensor, "n 6"], Int[Tensor, " n"]]:
    levels = config.model.neck.levels
    maps = [(side // 2**level,) * 3 for level in levels]
    make = AnchorGenerator(config.model.anchors, levels, config.preprocess.spacing_mm)
    return make(maps, torch.device("cpu"))


def _rules(
    anchors: dict[str, tuple[Tensor, Tensor]],
    boxes: Float[Tensor, "g 6"],
    paper: Config,
    default: Config,
) -> dict[str, Count]:
    theirs, _ = anchors["paper"]
    iou = box_iou(theirs, boxes).amax(dim=0)
    found = {}
    literal, low = paper.model.rpn.positive_iou, paper.model.rpn.negative_iou
    for threshold, forced in ((literal, False), (literal, True), (0.7, True), (0.5, True)):
        matches = match_by_iou(theirs, boxes, threshold, low, forced)
        name = f"{PAPER} {threshold:g}" + (", best forced" if forced else ", nothing forced")
        found[name] = _count(matches, int((iou >= threshold).sum()))
    rpn, ours = default.model.rpn, anchors["default"]
    candidates = rpn.atss_candidates * len(default.model.anchors.sizes_mm[0])
    matches = match_by_atss(*ours, boxes, candidates, rpn.atss_ignored_share)
    found["the default's anchors, ATSS"] = _count(matches, None)
    return found


def _count(matches: Int[Tensor, " n"], reached: int | None) -> Count:
    positive = matches[matches >= 0]
    return Count(reached, len(positive), len(positive.unique()))


def _row(name: str, counts: list[Count], lesions: int) -> str:
    reached = [one.reached for one in counts if one.reached is not None]
    with_one = sum(one.lesions for one in counts)
    return (
        f"| {name} | {sum(reached) if reached else 'no fixed one'} | {with_one} | "
        f"{sum(one.positives for one in counts) / lesions:.2f} |\n"
    )


def insert(page: str, table: str) -> str:
    """Return the page with the table between its marks."""
    before, rest = page.split(START)
    return f"{before}{START}\n{table}{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    written = main(Path(sys.argv[1]))
    PAGE.write_text(insert(PAGE.read_text(encoding="utf-8"), written), encoding="utf-8")
