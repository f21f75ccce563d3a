"""``report.html``: what was found in one scan, on one page that needs nothing else.

Pictures are inside the page, it loads nothing and runs no script, so it opens offline, in a
sealed network and on paper. ``figures`` makes the pictures; the page is the template
``templates/report.html.j2``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from jinja2 import Environment, PackageLoader, StrictUndefined

from osteomet.findings import Findings, Lesion, LesionAttributes, PrimaryPrediction
from osteomet.label_map import LabelMap
from osteomet.reporting import figures
from osteomet.reporting.figures import Frame, Plane
from osteomet.reporting.files import write_atomically
from osteomet.volume import ShapeZYX, Volume, Window

NOTICE = "Research software. Not a medical device. Not for diagnosis."
"""On every page, whatever the findings say."""
MAX_PICTURED = 40
"""Lesions with pictures, best score first; it bounds the page to about 3 MB."""
CROP_PX = 300
MIN_CROP_MM = 60.0
"""Smallest side of a lesion's picture, so that the bone around it can be recognised."""
CROP_PER_EXTENT = 2.2
"""Side of a lesion's picture over the longest side of its box."""
PROJECTIONS_PX = (520, 840)
"""Largest height of the two projections, and width of both together."""
OBLIQUE_COSINE = float(np.cos(np.radians(5)))
"""The page says so where an axis of the grid is further than this from the patient's."""


@dataclass(frozen=True)
class Picture:
    """A picture and what is drawn over it, in its pixels.

    Attributes:
        letters: orientation at the left, right, upper and lower edge.
        outline: SVG path of the lesion's mask.
        others: SVG path of the other lesions' masks.
        box: ``(x, y, width, height)``, drawn where the lesion has no voxel in the mask.
    """

    title: str
    alt: str
    uri: str
    width: int
    height: int
    letters: tuple[str, str, str, str]
    bar_mm: int
    bar_px: float
    outline: str = ""
    others: str = ""
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class Marker:
    """Where a lesion lies in a projection, and where its name stands beside it."""

    name: str
    x: float
    y: float
    radius: float
    label_x: float
    label_y: float
    side: str


@dataclass(frozen=True)
class Overview:
    """A projection of the whole scan with numbered lesions."""

    picture: Picture
    markers: tuple[Marker, ...]


@dataclass(frozen=True)
class PicturedLesion:
    lesion: Lesion
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class ListedCandidate:
    """A candidate below the operating threshold, in mm."""

    number: int
    score: float
    p_lung: float
    centre_lps_mm: tuple[float, float, float]
    size_lps_mm: tuple[float, float, float]


def write_report(findings: Findings, volume: Volume, labels: LabelMap, path: Path) -> None:
    """Write a self-contained HTML page about one scan.

    Args:
        findings: what was found; a scan without a lesion gets a page that says so.
        volume: the scan in HU on its own grid, in any orientation.
        labels: instance labels on the same grid; ``Lesion.label`` names a lesion's value.
        path: the page; an old one is replaced once the new one is complete.

    Raises:
        ReportError: the file cannot be written.
    """
    write_atomically(path, render_report(findings, volume, labels).encode())


def render_report(findings: Findings, volume: Volume, labels: LabelMap) -> str:
    """Return the page of ``write_report`` as text."""
    # Nothing of the size of the scan is copied.
    upright, upright_labels = volume.closest_lps(), labels.closest_lps()
    lesions = findings.lesions
    boxes = [_moved_box(lesion.box_vox, volume, upright) for lesion in lesions]
    return (
        page_environment()
        .get_template("report.html.j2")
        .render(
            findings=findings,
            notice=NOTICE,
            primary_words=primary_in_words(findings.primary),
            overviews=_overviews(upright, lesions),
            pictured=[
                PicturedLesion(lesion, _pictures(upright, upright_labels, lesion, boxes[place]))
                for place, lesion in enumerate(lesions[:MAX_PICTURED])
            ],
            below=_below_threshold(findings, volume),
            described=any(lesion.attributes is not None for lesion in lesions),
            oblique=_is_oblique(upright),
            window_hu=figures.BONE_WINDOW_HU,
        )
    )


def primary_in_words(primary: PrimaryPrediction) -> str:
    """Say in one or two sentences what ``p_lung`` means, with its uncertainty."""
    if primary.p_lung is None:
        return (
            "No lesion was found above the operating threshold, so the program says nothing "
            "about a primary tumour."
        )
    words = f"The program gives {_percent(primary.p_lung)} that the primary tumour is lung cancer"
    if primary.interval is None:
        return f"{words}. How sure it is of this figure is not known: no interval was computed."
    low, high = primary.interval
    words += f"; the central 90% of its ensemble lie between {_percent(low)} and {_percent(high)}."
    if low <= 0.5 <= high:
        return f"{words} The interval includes 50%: the scan does not decide between the two."
    favoured = "lung cancer" if primary.p_lung > 0.5 else "another primary than lung cancer"
    return f"{words} This favours {favoured}."


def looks_in_words(attributes: LesionAttributes | None) -> str:
    """Name what a lesion looks like: each attribute that is likelier than not."""
    if attributes is None:
        return "not told"
    likely = [name for name, p in attributes if p >= 0.5]
    if {"lytic", "sclerotic"} <= set(likely):
        likely = ["mixed", *(name for name in likely if name not in ("lytic", "sclerotic"))]
    return ", ".join(likely) or "unclear"


def page_environment() -> Environment:
    """Return the templates of all pages, with the filters that they use."""
    environment = Environment(
        loader=PackageLoader("osteomet.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _number
    environment.filters["percent"] = _percent
    environment.filters["looks"] = looks_in_words
    return environment


def _percent(probability: float) -> str:
    """Write a probability without ever claiming certainty."""
    if probability < 0.01:
        return "<1%"
    return ">99%" if probability > 0.99 else f"{probability:.0%}"


def _number(value: float, digits: int = 1) -> str:
    # Adding 0 turns -0.0 into 0.0; the true minus sign is as wide as a digit.
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _pictures(
    upright: Volume,
    labels: LabelMap,
    lesion: Lesion,
    box: Float[np.ndarray, " 6"],
) -> tuple[Picture, ...]:
    """Draw the three planes through a lesion's centroid at one scale."""
    extents_mm = (box[3:] - box[:3]) * upright.spacing_zyx_mm
    side_mm = max(MIN_CROP_MM, CROP_PER_EXTENT * float(extents_mm.max()))
    centre = upright.world_to_edge(np.array([lesion.centroid_lps_mm]))[0]
    return tuple(
        _picture(upright, labels, lesion, plane, box, centre, side_mm) for plane in figures.PLANES
    )


def _picture(
    upright: Volume,
    labels: LabelMap,
    lesion: Lesion,
    plane: Plane,
    box: Float[np.ndarray, " 6"],
    centre: Float[np.ndarray, " 3"],
    side_mm: float,
) -> Picture:
    index = _index_through(labels, lesion.label, plane, box, centre)
    values = figures.take_slice(upright.voxels, plane, index)
    shown = plane.flat(labels.window(_slice_of(labels.shape, plane, index)).squeeze(plane.normal))
    frame = Frame.square(
        plane.place(centre, upright.shape), plane.spacing(upright), side_mm, CROP_PX
    )
    outline, others = figures.outlines(shown, frame, lesion.label)
    corners = [frame.to_px(plane.place(corner, upright.shape)) for corner in (box[:3], box[3:])]
    (x1, x2), (y1, y2) = (sorted(values) for values in zip(*corners, strict=True))
    point = centre.copy()
    point[plane.normal] = index + 0.5
    position_mm = float(upright.edge_to_world(point[None])[0, 2 - plane.normal])
    bar_mm = figures.scale_bar_mm(side_mm)
    return Picture(
        title=f"{plane.name.capitalize()}, {'zyx'[plane.normal]} = {_number(position_mm)} mm",
        alt=(
            f"{plane.name.capitalize()} CT through lesion {lesion.id}, bone window, "
            f"{side_mm:.0f} mm wide, {'outlined' if outline else 'its box drawn'}."
        ),
        uri=figures.draw(values, frame),
        width=CROP_PX,
        height=CROP_PX,
        letters=figures.edge_letters(upright, plane),
        bar_mm=bar_mm,
        bar_px=bar_mm / frame.mm_per_px,
        outline=outline,
        others=others,
        box=None if outline else (x1, y1, x2 - x1, y2 - y1),
    )


def _index_through(
    labels: LabelMap,
    label: int,
    plane: Plane,
    box: Float[np.ndarray, " 6"],
    centre: Float[np.ndarray, " 3"],
) -> int:
    """Return the slice through the centroid, or the nearest that cuts the mask.

    The centroid of a mask in two pieces may lie between them.
    """
    limits = np.array(labels.shape)
    low = np.clip(np.floor(box[:3]).astype(int), 0, limits)
    high = np.clip(np.ceil(box[3:]).astype(int), 0, limits)
    z, y, x = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    others = tuple(axis for axis in range(3) if axis != plane.normal)
    cut = np.flatnonzero((labels.window((z, y, x)) == label).any(axis=others)) + low[plane.normal]
    wanted = int(np.clip(np.floor(centre[plane.normal]), 0, limits[plane.normal] - 1))
    return int(cut[np.abs(cut - wanted).argmin()]) if len(cut) else wanted


def _slice_of(shape: ShapeZYX, plane: Plane, index: int) -> Window:
    """Return the window of one slice."""
    z, y, x = (
        slice(index, index + 1) if axis == plane.normal else slice(0, n)
        for axis, n in enumerate(shape)
    )
    return z, y, x


def _moved_box(
    box_vox: tuple[float, float, float, float, float, float], volume: Volume, upright: Volume
) -> Float[np.ndarray, " 6"]:
    """Return a box of the scan's grid on the same grid with its axes permuted and flipped."""
    corners = upright.world_to_edge(volume.edge_to_world(np.array(box_vox).reshape(2, 3)))
    return np.concatenate([corners.min(axis=0), corners.max(axis=0)])


def _overviews(upright: Volume, lesions: Sequence[Lesion]) -> list[Overview]:
    """Project the scan to the front and to the side, at one scale."""
    height_mm, depth_mm, width_mm = (
        count * spacing
        for count, spacing in zip(upright.shape, upright.spacing_zyx_mm, strict=True)
    )
    highest, widest = PROJECTIONS_PX
    mm_per_px = max(height_mm / highest, (width_mm + depth_mm) / widest)
    return [
        _overview(upright, lesions, plane, mm_per_px)
        for plane in (figures.CORONAL, figures.SAGITTAL)
    ]


def _overview(
    upright: Volume, lesions: Sequence[Lesion], plane: Plane, mm_per_px: float
) -> Overview:
    values = figures.project(upright, plane)
    frame = Frame.whole(values.shape, plane.spacing(upright), mm_per_px)
    bar_mm = figures.scale_bar_mm(frame.width_px * mm_per_px)
    picture = Picture(
        title=f"{plane.name.capitalize()} maximum intensity projection",
        alt=(
            f"{plane.name.capitalize()} projection of the whole scan; "
            f"lesions marked by name: {len(lesions)}."
        ),
        uri=figures.draw(values, frame, figures.PROJECTION_WINDOW_HU),
        width=frame.width_px,
        height=frame.height_px,
        letters=figures.edge_letters(upright, plane),
        bar_mm=bar_mm,
        bar_px=bar_mm / mm_per_px,
    )
    return Overview(picture, _markers(upright, lesions, plane, frame))


def _markers(
    upright: Volume, lesions: Sequence[Lesion], plane: Plane, frame: Frame
) -> tuple[Marker, ...]:
    """Name the lesions in the margin nearer to them, spread so that no two names overlap."""
    places = []
    for lesion in lesions:
        centre = upright.world_to_edge(np.array([lesion.centroid_lps_mm]))[0]
        x, y = frame.to_px(plane.place(centre, upright.shape))
        radius = max(4.0, lesion.longest_diameter_mm / 2 / frame.mm_per_px)
        places.append((lesion.id, x, y, radius))
    markers = []
    for side in ("left", "right"):
        here = [place for place in places if (place[1] < frame.width_px / 2) == (side == "left")]
        here.sort(key=lambda place: place[2])
        heights = _spread([place[2] for place in here], frame.height_px)
        label_x = -8.0 if side == "left" else frame.width_px + 8.0
        markers += [
            Marker(*place, label_x, height, side)
            for place, height in zip(here, heights, strict=True)
        ]
    return tuple(markers)


def _spread(heights: Sequence[float], limit: int, gap: float = 15.0) -> list[float]:
    """Move sorted heights apart by at least ``gap``, or evenly where there is no room for it."""
    if len(heights) * gap > limit:
        return [(place + 0.5) * limit / len(heights) for place in range(len(heights))]
    moved: list[float] = []
    for height in heights:
        moved.append(max(height, moved[-1] + gap if moved else gap / 2))
    bottom = limit - gap / 2
    for place in reversed(range(len(moved))):
        moved[place] = min(moved[place], bottom)
        bottom = moved[place] - gap
    return moved


def _below_threshold(findings: Findings, volume: Volume) -> list[ListedCandidate]:
    shown = {lesion.candidate for lesion in findings.lesions}
    listed = []
    for number, candidate in enumerate(findings.candidates):
        if number in shown:
            continue
        x1, y1, z1, x2, y2, z2 = volume.boxes_to_world(np.array([candidate.box_vox]))[0].tolist()
        listed.append(
            ListedCandidate(
                number,
                candidate.score,
                candidate.p_lung,
                ((x1 + x2) / 2, (y1 + y2) / 2, (z1 + z2) / 2),
                (x2 - x1, y2 - y1, z2 - z1),
            )
        )
    return listed


def _is_oblique(upright: Volume) -> bool:
    axes = upright.affine[:3, :3] / np.linalg.norm(upright.affine[:3, :3], axis=0)
    return bool((np.diag(axes[::-1]) < OBLIQUE_COSINE).any())
