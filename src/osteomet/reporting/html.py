"""``report.html``: what was found in one scan, on one page that needs nothing else.

Pictures are inside the page, it loads nothing and runs no script, so it opens offline, in a
sealed network and on paper. ``figures`` makes the pictures; the page is the template
``templates/report.html.j2``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Integer
from jinja2 import Environment, PackageLoader, StrictUndefined

from osteomet.findings import Findings, Lesion, PrimaryPrediction
from osteomet.reporting import figures
from osteomet.reporting.figures import Frame, Plane
from osteomet.reporting.files import write_atomically
from osteomet.volume import Volume

MAX_PICTURED = 40
"""Lesions with pictures, best score first; it bounds the page to about 3 MB."""
CROP_PX = 300
MIN_CROP_MM = 60.0
"""Smallest side of a lesion's picture, so that the bone around it can be recognised."""
CROP_PER_EXTENT = 2.2
"""Side of a lesion's picture over the longest side of its box."""
PROJECTION_PX = 560
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


def write_report(
    findings: Findings, volume: Volume, labels: Integer[np.ndarray, "z y x"], path: Path
) -> None:
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


def render_report(findings: Findings, volume: Volume, labels: Integer[np.ndarray, "z y x"]) -> str:
    """Return the page of ``write_report`` as text."""
    # Both are views: nothing of the size of the scan is copied.
    upright = volume.closest_lps()
    upright_labels = volume.with_voxels(labels).closest_lps().voxels
    lesions = findings.lesions
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            findings=findings,
            primary_words=primary_in_words(findings.primary),
            overviews=[
                _overview(upright, lesions, plane) for plane in (figures.CORONAL, figures.SAGITTAL)
            ],
            pictured=[
                PicturedLesion(lesion, _pictures(upright, upright_labels, lesion))
                for lesion in lesions[:MAX_PICTURED]
            ],
            below=_below_threshold(findings, volume),
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
    words = f"The program gives {primary.p_lung:.0%} that the primary tumour is lung cancer"
    if primary.interval is None:
        return f"{words}. How sure it is of this figure is not known: no interval was computed."
    low, high = primary.interval
    words += f"; the central 90 % of its ensemble lie between {low:.0%} and {high:.0%}."
    if low <= 0.5 <= high:
        return f"{words} The interval includes 50 %: the scan does not decide between the two."
    favoured = "lung cancer" if primary.p_lung > 0.5 else "another primary than lung cancer"
    return f"{words} This favours {favoured}."


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("osteomet.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _number
    environment.filters["percent"] = lambda value: f"{value:.0%}"
    return environment


def _number(value: float, digits: int = 1) -> str:
    # Adding 0 turns -0.0 into 0.0; the true minus sign is as wide as a digit.
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _pictures(
    upright: Volume, labels: Integer[np.ndarray, "z y x"], lesion: Lesion
) -> tuple[Picture, ...]:
    """Draw the three planes through a lesion's centroid at one scale."""
    box = upright.boxes_from_world(np.array([lesion.box_lps_mm]))[0]
    extents_mm = (box[3:] - box[:3]) * upright.spacing_zyx_mm
    side_mm = max(MIN_CROP_MM, CROP_PER_EXTENT * float(extents_mm.max()))
    centre = upright.world_to_edge(np.array([lesion.centroid_lps_mm]))[0]
    return tuple(
        _picture(upright, labels, lesion, plane, box, centre, side_mm) for plane in figures.PLANES
    )


def _picture(
    upright: Volume,
    labels: Integer[np.ndarray, "z y x"],
    lesion: Lesion,
    plane: Plane,
    box: np.ndarray,
    centre: np.ndarray,
    side_mm: float,
) -> Picture:
    index = int(np.clip(np.floor(centre[plane.normal]), 0, upright.shape[plane.normal] - 1))
    values = figures.take_slice(upright.voxels, plane, index)
    shown = figures.take_slice(labels, plane, index)
    frame = Frame.square(
        plane.place(centre, upright.shape), plane.spacing(upright), side_mm, CROP_PX
    )
    outline = figures.outline(shown == lesion.label, frame)
    corners = [frame.to_px(plane.place(corner, upright.shape)) for corner in (box[:3], box[3:])]
    (x1, x2), (y1, y2) = (sorted(values) for values in zip(*corners, strict=True))
    position = upright.edge_to_world(centre[None])[0, 2 - plane.normal]
    bar_mm = figures.scale_bar_mm(side_mm)
    return Picture(
        title=f"{plane.name.capitalize()}, {'zyx'[plane.normal]} = {_number(float(position))} mm",
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
        others=figures.outline((shown > 0) & (shown != lesion.label), frame),
        box=None if outline else (x1, y1, x2 - x1, y2 - y1),
    )


def _overview(upright: Volume, lesions: Sequence[Lesion], plane: Plane) -> Overview:
    values = figures.project(upright, plane)
    frame = Frame.whole(values.shape, plane.spacing(upright), PROJECTION_PX)
    bar_mm = figures.scale_bar_mm(frame.width_px * frame.mm_per_px)
    picture = Picture(
        title=f"{plane.name.capitalize()} maximum intensity projection",
        alt=(
            f"{plane.name.capitalize()} projection of the whole scan with "
            f"{len(lesions)} numbered lesions."
        ),
        uri=figures.draw(values, frame, figures.PROJECTION_WINDOW_HU),
        width=frame.width_px,
        height=frame.height_px,
        letters=figures.edge_letters(upright, plane),
        bar_mm=bar_mm,
        bar_px=bar_mm / frame.mm_per_px,
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


def _spread(heights: Sequence[float], limit: float, gap: float = 15.0) -> list[float]:
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
