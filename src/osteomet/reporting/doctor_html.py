"""``doctor.html``: what is wrong with a cohort, on one page that needs nothing else.

Findings stand first, the serious ones on top, each with what to do and with pictures where a
picture says more; then what predicts the primary without a lesion, then the cohort at a glance.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from osteomet.checkup import Checkup, Finding, Guess, ScanRecord, ScanViews, Severity, View
from osteomet.reporting import figures
from osteomet.reporting.figures import Frame
from osteomet.reporting.files import write_atomically
from osteomet.reporting.html import NOTICE, page_environment

LISTED = 8
"""Findings of one kind that are shown; the others unfold."""

PICTURED = 5
"""Pictures beside the findings of one kind."""

GALLERY = 60
"""Scans with a picture; it bounds the page."""

LESION_PX, FRONT_PX = 190, 150
BINS = 14
PRIMARIES = ("lung", "other", "unknown")

ViewsOf = Callable[[int], ScanViews]


@dataclass(frozen=True)
class Shown:
    """A picture with what is drawn over it, in its pixels.

    Attributes:
        outline: SVG path of the lesion that it is about.
        others: SVG path of the other lesions.
        letters: at the left and right edge.
    """

    caption: str
    alt: str
    uri: str
    width: int
    height: int
    bar_mm: int
    bar_px: float
    outline: str = ""
    others: str = ""
    letters: tuple[str, str] = ("R", "L")


@dataclass(frozen=True)
class Group:
    """The findings of one check.

    Attributes:
        advice: each kind of advice once, in the order of the findings.
    """

    title: str
    severity: str
    findings: tuple[Finding, ...]
    advice: tuple[str, ...]
    pictures: tuple[Shown, ...]


@dataclass(frozen=True)
class Bar:
    """One bin of a histogram: heights of its stacked parts, in the order of ``PRIMARIES``."""

    low: float
    high: float
    counts: tuple[int, int, int]


@dataclass(frozen=True)
class Histogram:
    title: str
    unit: str
    bars: tuple[Bar, ...]
    highest: int


@dataclass(frozen=True)
class Tile:
    """A scan in the gallery."""

    scan: ScanRecord
    severity: str
    lesions: str
    picture: Shown | None


def write_page(path: Path, checkup: Checkup, views_of: ViewsOf) -> None:
    """Write the page about a cohort.

    Args:
        path: an old page is replaced once the new one is complete.
        checkup: what was measured and found.
        views_of: the pictures of a scan, by its place in ``checkup.scans``.

    Raises:
        ReportError: the file cannot be written.
    """
    write_atomically(path, render_page(checkup, views_of).encode())


def render_page(checkup: Checkup, views_of: ViewsOf) -> str:
    """Return the page of ``write_page`` as text."""
    patients = {scan.patient_id: scan.primary for scan in checkup.scans}
    return (
        page_environment()
        .get_template("doctor.html.j2")
        .render(
            checkup=checkup,
            notice=NOTICE,
            patients=len(patients),
            primaries=Counter(patients.values()),
            lesions=sum(_lesion_count(scan) for scan in checkup.scans),
            lesion_free=sum(_is_lesion_free(scan) for scan in checkup.scans),
            groups=_groups(checkup, views_of),
            listed=LISTED,
            told=[guess for guess in checkup.guesses if guess.auc is not None],
            untold=_untold(checkup.guesses),
            strata=_strata(checkup.scans),
            histograms=_histograms(checkup.scans),
            tiles=_tiles(checkup, views_of),
            window_hu=figures.BONE_WINDOW_HU,
        )
    )


def _groups(checkup: Checkup, views_of: ViewsOf) -> list[Group]:
    """Group findings by check, serious ones first, then by how often they occur."""
    place = {scan.scan_id: number for number, scan in enumerate(checkup.scans)}
    kinds: dict[tuple[Severity, str], list[Finding]] = defaultdict(list)
    for finding in checkup.findings:
        kinds[finding.severity, finding.check].append(finding)
    order = list(Severity)
    return [
        Group(
            title=f"{check[:1].upper()}{check[1:]}",
            severity=severity.value,
            findings=tuple(found),
            advice=tuple(dict.fromkeys(one.advice for one in found)),
            pictures=_pictures(found, place, views_of),
        )
        for (severity, check), found in sorted(
            kinds.items(), key=lambda item: (order.index(item[0][0]), -len(item[1]))
        )
    ]


def _pictures(
    findings: Sequence[Finding], place: dict[str, int], views_of: ViewsOf
) -> tuple[Shown, ...]:
    shown: list[Shown] = []
    for finding in findings:
        for scan_id in finding.scans:
            if len(shown) >= PICTURED:
                return tuple(shown)
            picture = _picture(finding, scan_id, views_of(place[scan_id]))
            if picture is not None:
                shown.append(picture)
    return tuple(shown)


def _picture(finding: Finding, scan_id: str, views: ScanViews) -> Shown | None:
    if finding.lesion in views.lesions:
        return _lesion(views.lesions[finding.lesion], finding.lesion, scan_id)
    if finding.lesion is None and views.front is not None:
        return _front(views.front, scan_id, LESION_PX)
    return None


def _lesion(view: View, label: int, scan_id: str) -> Shown:
    labels = np.zeros(view.values.shape, np.int16) if view.labels is None else view.labels
    frame = _frame(view, LESION_PX)
    outline, others = figures.outlines(labels, frame, label)
    return Shown(
        caption=f"{scan_id}, lesion {label}",
        alt=f"Axial CT through lesion {label} of {scan_id}, bone window, outlined.",
        uri=figures.draw(view.values, frame),
        width=frame.width_px,
        height=frame.height_px,
        bar_mm=_bar_mm(frame),
        bar_px=_bar_mm(frame) / frame.mm_per_px,
        outline=outline,
        others=others,
    )


def _front(view: View, scan_id: str, side_px: int) -> Shown:
    frame = _frame(view, side_px)
    return Shown(
        caption=scan_id,
        alt=f"Coronal projection of {scan_id}.",
        uri=figures.draw(view.values, frame, figures.PROJECTION_WINDOW_HU),
        width=frame.width_px,
        height=frame.height_px,
        bar_mm=_bar_mm(frame),
        bar_px=_bar_mm(frame) / frame.mm_per_px,
    )


def _frame(view: View, side_px: int) -> Frame:
    rows, columns = view.values.shape
    longest_mm = max(rows * view.spacing_mm[0], columns * view.spacing_mm[1])
    return Frame.whole((rows, columns), view.spacing_mm, longest_mm / side_px)


def _bar_mm(frame: Frame) -> int:
    return figures.scale_bar_mm(frame.width_px * frame.mm_per_px)


def _tiles(checkup: Checkup, views_of: ViewsOf) -> list[Tile]:
    """Show scans with findings first, so that the gallery holds those if it cannot hold all."""
    worst: dict[str, Severity] = {}
    order = list(Severity)
    for finding in checkup.findings:
        for scan_id in finding.scans:
            before = worst.get(scan_id, finding.severity)
            worst[scan_id] = min(before, finding.severity, key=order.index)
    ranked = sorted(
        range(len(checkup.scans)),
        key=lambda n: order.index(worst.get(checkup.scans[n].scan_id, Severity.NOTE)),
    )
    tiles = []
    for place in sorted(ranked[:GALLERY]):
        scan = checkup.scans[place]
        front = views_of(place).front
        tiles.append(
            Tile(
                scan=scan,
                severity=worst.get(scan.scan_id, ""),
                lesions=_lesions_in_words(scan),
                picture=None if front is None else _front(front, scan.scan_id, FRONT_PX),
            )
        )
    return tiles


def _lesion_count(scan: ScanRecord) -> int:
    if scan.measures is None:
        return 0
    return len(scan.measures.lesions) + len(scan.measures.boxes_mm)


def _is_lesion_free(scan: ScanRecord) -> bool:
    return scan.measures is not None and scan.annotation_fault is None and not _lesion_count(scan)


def _lesions_in_words(scan: ScanRecord) -> str:
    if scan.measures is None or scan.annotation_fault is not None:
        return "not measured"
    count = _lesion_count(scan)
    return "no lesion" if not count else f"{count} lesion{'' if count == 1 else 's'}"


def _untold(guesses: Sequence[Guess]) -> dict[str, list[str]]:
    """Return the factors without a figure, by the reason why."""
    reasons: dict[str, list[str]] = defaultdict(list)
    for guess in guesses:
        if guess.auc is None:
            reasons[guess.note].append(guess.factor)
    return reasons


def _strata(scans: Sequence[ScanRecord]) -> list[tuple[str, str, list[int], int]]:
    """Return centre, side, patients of each primary, and their scans."""
    groups: dict[tuple[str, str], list[ScanRecord]] = defaultdict(list)
    for scan in scans:
        groups[scan.centre, scan.split or "no split"].append(scan)
    rows = []
    for (centre, side), group in sorted(groups.items()):
        counts = Counter({scan.patient_id: scan.primary for scan in group}.values())
        rows.append((centre, side, [counts[name] for name in PRIMARIES], len(group)))
    return rows


def _histograms(scans: Sequence[ScanRecord]) -> list[Histogram]:
    """Draw what differs between scans, by primary."""
    measured = [(scan.primary, scan.measures) for scan in scans if scan.measures is not None]
    lesions = [(p, float(len(m.lesions) + len(m.boxes_mm))) for p, m in measured]
    tables: list[tuple[str, str, list[tuple[str, float | None]]]] = [
        ("Slice distance", "mm", [(p, m.spacing_zyx_mm[0]) for p, m in measured]),
        ("Pixel spacing", "mm", [(p, m.spacing_zyx_mm[2]) for p, m in measured]),
        ("Noise in soft tissue", "HU", [(p, m.hu.noise_hu) for p, m in measured]),
        ("Peak of fat", "HU", [(p, m.hu.fat_hu) for p, m in measured]),
        ("Length of the view", "mm", [(p, m.length_mm) for p, m in measured]),
        ("Lung in view", "% of the body", [(p, 100 * m.body.lung_share) for p, m in measured]),
        ("Lesions per scan", "", [(p, count) for p, count in lesions]),
        ("Lesion diameter", "mm", [(p, d.diameter_mm) for p, m in measured for d in m.lesions]),
    ]
    return [
        histogram(title, unit, [(name, value) for name, value in table if value is not None])
        for title, unit, table in tables
        if any(value is not None for _, value in table)
    ]


def histogram(title: str, unit: str, table: Sequence[tuple[str, float]]) -> Histogram:
    """Count values in even bins, by primary; there is at least one value."""
    # Spacings that differ in the last digit of a header are one spacing.
    table = [(name, round(value, 3)) for name, value in table]
    values = np.array([value for _, value in table])
    edges = np.histogram_bin_edges(values, bins=min(BINS, max(1, len(np.unique(values)))))
    counts = [
        np.histogram([value for name, value in table if name == primary], bins=edges)[0].tolist()
        for primary in PRIMARIES
    ]
    if values.min() == values.max():  # NumPy makes a bin of width 1 around a single value
        edges = np.array([values.min(), values.max()])
    bars = tuple(
        Bar(low, high, (lung, other, unknown))
        for low, high, lung, other, unknown in zip(
            edges[:-1].tolist(), edges[1:].tolist(), *counts, strict=True
        )
    )
    return Histogram(title, unit, bars, max(sum(bar.counts) for bar in bars))
