"""Average precision against the COCO evaluation's own code, on boxes one voxel thick."""

import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from osteomet.evaluation.detection import PooledMatches, froc, match_candidates
from osteomet.evaluation.precision import average_precision

Scans = list[tuple[np.ndarray, np.ndarray, np.ndarray]]


# 23 lesions: no share of them but 0 and 1 is a whole percentage, where COCO's own rounding decides.
LESIONS = (0, 1, 2, 3, 4, 0, 3, 1, 2, 4, 0, 3)


def random_scans(seed: int) -> Scans:
    """Return boxes, distinct scores and lesions of scans, some of them empty."""
    generator = np.random.default_rng(seed)

    def boxes(n: int) -> np.ndarray:
        low = generator.uniform(0, 60, (n, 3)) * [0, 1, 1]
        return np.concatenate(
            [low, low + [1, 0, 0] + generator.uniform(8, 20, (n, 3)) * [0, 1, 1]], 1
        )

    scans = []
    for count in LESIONS:
        lesions = boxes(count)
        near = lesions + generator.normal(0, 2.0, lesions.shape) * [0, 1, 1, 0, 1, 1]
        found = np.concatenate([near, boxes(int(generator.integers(0, 5)))])
        scans.append((found, generator.random(len(found)), lesions))
    return scans


def coco(scans: Scans, iou: float) -> float:
    truth, found = [], []
    for image, (boxes, scores, lesions) in enumerate(scans, start=1):
        for box in lesions.tolist():
            truth.append(annotation(image, box) | {"id": len(truth) + 1, "iscrowd": 0})
        for box, score in zip(boxes.tolist(), scores.tolist(), strict=True):
            found.append(annotation(image, box) | {"score": score})
    reference = COCO()
    reference.dataset = {
        "info": {},
        "images": [{"id": n} for n in range(1, len(scans) + 1)],
        "annotations": truth,
        "categories": [{"id": 1}],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        reference.createIndex()
        judge = COCOeval(reference, reference.loadRes(found), "bbox")
        judge.params.iouThrs = np.array([iou])
        judge.evaluate()
        judge.accumulate()
    return float(judge.eval["precision"][0, :, 0, 0, -1].mean())


def annotation(image: int, box: list[float]) -> dict[str, object]:
    _, y1, x1, _, y2, x2 = box
    width, height = x2 - x1, y2 - y1
    return {
        "image_id": image,
        "category_id": 1,
        "bbox": [x1, y1, width, height],
        "area": width * height,
    }


@pytest.mark.parametrize("iou", [0.1, 0.5])
@pytest.mark.parametrize("seed", range(8))
def test_equals_coco(seed: int, iou: float) -> None:
    scans = random_scans(seed)
    curve = froc([match_candidates(*scan, iou_threshold=iou) for scan in scans])
    assert average_precision(curve) == pytest.approx(coco(scans, iou), abs=1e-9)


def test_by_hand() -> None:
    box, far = np.array([[0.0, 0, 0, 2, 2, 2]]), np.array([[9.0, 9, 9, 11, 11, 11]])
    found = np.concatenate([box, far, far + 20])
    scan = match_candidates(found, np.array([0.5, 0.9, 0.1]), np.concatenate([box, far + 50]))
    # One of two lesions, after one false positive: precision 1/2 up to a sensitivity of 1/2.
    assert average_precision(froc([scan])) == pytest.approx(0.5 * 51 / 101)


def test_without_lesions_or_candidates() -> None:
    none, box = np.zeros((0, 6)), np.array([[0.0, 0, 0, 2, 2, 2]])
    assert np.isnan(average_precision(froc([match_candidates(box, np.ones(1), none)])))
    assert average_precision(froc([match_candidates(none, np.zeros(0), box)])) == 0.0
    pooled = PooledMatches([match_candidates(box, np.ones(1), box)], np.zeros(1, np.int64))
    assert average_precision(pooled.froc(np.array([0.3]))) == pytest.approx(1.0)
