"""Several images at one position: copies, phases, overlapping acquisitions."""

from collections import defaultdict

import numpy as np
from jaxtyping import Float

from osteomet.errors import GeometryError
from osteomet.io.dicom_headers import Frame
from osteomet.io.pixels import stored_planes
from osteomet.io.slice_geometry import SAME_POSITION_MM

TIMING = ("temporal position", "acquisition", "image type", "kernel", "tube voltage")
"""Names of the parts of ``Frame.timing``."""


def one_per_position(
    frames: list[Frame], along: Float[np.ndarray, " n"]
) -> tuple[list[Frame], tuple[str, ...]]:
    """Return one image a position, sorted along the normal, and warnings about the others.

    Files sent twice are dropped. Of phases or acquisitions that each cover everything, the
    first is taken whole. Of acquisitions that overlap, the first image at each position.
    Of what nothing in the header tells apart, copies with equal pixels are dropped.

    Args:
        frames: images of one stack, at least one.
        along: ``(n,)`` their distance along the normal in mm.

    Raises:
        GeometryError: different images lie at one position and nothing tells which to take.
    """
    places = _places(frames, along)
    places, warnings = _without_resent(places)
    if any(len(place) > 1 for place in places):
        places, chosen = _first_of_several(places)
        warnings += chosen
    if any(len(place) > 1 for place in places):
        places, copies = _without_copies(places)
        warnings += copies
    return [place[0] for place in places], warnings


def _places(frames: list[Frame], along: Float[np.ndarray, " n"]) -> list[list[Frame]]:
    order = np.argsort(along, kind="stable")
    starts = np.flatnonzero(np.diff(along[order]) > SAME_POSITION_MM) + 1
    return [[frames[k] for k in group] for group in np.split(order, starts)]


def _without_resent(places: list[list[Frame]]) -> tuple[list[list[Frame]], tuple[str, ...]]:
    kept = [list({frame.sop_uid: frame for frame in reversed(place)}.values()) for place in places]
    resent = sum(map(len, places)) - sum(map(len, kept))
    kept = [place[::-1] for place in kept]
    return kept, (f"{resent} images were there twice: one copy of each was read",) if resent else ()


def _first_of_several(places: list[list[Frame]]) -> tuple[list[list[Frame]], tuple[str, ...]]:
    """Choose by the first part of the timing that tells all images of a position apart."""
    for part, name in enumerate(TIMING):
        if not all(_differ(place, part) for place in places):
            continue
        counts: dict[str, int] = defaultdict(int)
        for place in places:
            for frame in place:
                counts[frame.timing[part]] += 1
        values = sorted(counts, key=_original_then_numerically)
        complete = [value for value in values if counts[value] == len(places)]
        if complete:
            kept = [[f for f in place if f.timing[part] == complete[0]] for place in places]
            return kept, (
                f"{len(counts)} images lie at each position, told apart by {name}: the first, "
                f"{complete[0]!r}, was read",
            )
        repeated = sum(len(place) > 1 for place in places)
        first = [min(place, key=lambda frame: values.index(frame.timing[part])) for place in places]
        return [[frame] for frame in first], (
            f"several images lie at {repeated} of {len(places)} positions, told apart by {name}: "
            "the first of each was read, so that neighbouring slices may differ in contrast",
        )
    return places, ()


def _differ(place: list[Frame], part: int) -> bool:
    return len({frame.timing[part] for frame in place}) == len(place)


def _original_then_numerically(value: str) -> tuple[bool, float, str]:
    try:
        return False, float(value), value
    except ValueError:
        return value.startswith("DERIVED"), np.inf, value


def _without_copies(places: list[list[Frame]]) -> tuple[list[list[Frame]], tuple[str, ...]]:
    copies = 0
    for place in places:
        if len(place) > 1:
            first, *others = stored_planes(place)
            if not all(np.array_equal(first, other) for other in others):
                raise GeometryError(
                    f"{len(place)} different images lie at the same position "
                    f"{list(place[0].position or ())} and nothing in the header tells which comes "
                    "first; expected one image a position: separate the phases into series"
                )
            copies += len(others)
    return [place[:1] for place in places], (
        f"{copies} images are copies of others at their position: one of each was read",
    )
