"""The page: complete, self-contained, safe, readable without a lesion and with many."""

import re
import tracemalloc
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from scenes import ORIENTATIONS, Orientation, Scene, findings_of, phantom, scene

from osteomet.errors import ReportError
from osteomet.findings import LesionAttributes, PrimaryPrediction
from osteomet.label_map import LabelMap
from osteomet.reporting.html import (
    CROP_PX,
    MAX_PICTURED,
    NOTICE,
    looks_in_words,
    primary_in_words,
    render_report,
    write_report,
)
from osteomet.volume import Volume

VOID = {"meta", "link", "img", "input", "br"}


class Page(HTMLParser):
    """Elements of a page; fails where tags do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.text += " ".join(data.split()) + " "

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def rendered(one: Scene) -> str:
    return render_report(one.findings, one.volume, one.label_map)


def page(one: Scene) -> Page:
    return Page(rendered(one))


def images(text: str) -> list[str]:
    return re.findall(r'<img src="([^"]+)"', text)


@pytest.mark.parametrize("lesions", [0, 1, 2, 45])
def test_the_page_needs_nothing_else(lesions: int) -> None:
    text = rendered(scene(lesions=lesions))
    for tag, attributes in Page(text).elements:
        assert tag not in {"script", "iframe", "object", "form"}
        for name in ("src", "href", "xlink:href", "action", "data"):
            address = attributes.get(name)
            assert address is None or address.startswith(("data:", "#")), address
        assert not any(name.startswith("on") for name in attributes)
    assert "url(" not in text
    assert "@import" not in text
    assert "default-src 'none'" in text


@pytest.mark.parametrize("lesions", [0, 2])
def test_the_page_can_be_heard(lesions: int) -> None:
    shown = page(scene(lesions=lesions))
    assert shown.all("html")[0]["lang"] == "en"
    assert len(shown.all("h1")) == 1
    assert all(image["alt"] for image in shown.all("img"))
    ids = [attributes["id"] for _, attributes in shown.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for attributes in (attributes for _, attributes in shown.elements):
        for name in ("aria-labelledby", "for"):
            assert name not in attributes or attributes[name] in ids
        href = attributes.get("href") or ""
        assert not href.startswith("#") or href[1:] in ids
    for drawn in shown.all("svg"):
        assert drawn.get("aria-hidden") == "true" or drawn.get("aria-label")


def test_what_was_found_is_written() -> None:
    one = scene(warnings=["Slice 3 is missing."])
    text = page(one).text
    first = one.findings.lesions[0]
    assert NOTICE in text
    assert "scan-7" in text
    assert "P-12" in text
    assert "Slice 3 is missing." in text
    assert f"{first.score:.3f}" in text
    assert f"{first.volume_ml:.2f}" in text
    assert "12.5" in text
    x, y, z = (f"{value:.1f}".replace("-", "\N{MINUS SIGN}") for value in first.centroid_lps_mm)
    assert f"{x}, {y}, {z}" in text
    assert "1000 ± 2" in text
    assert "72%" in text
    assert "2 further candidates" in text
    assert "abababababababab" in text


def test_what_each_lesion_looks_like_is_written_where_the_weights_tell() -> None:
    one = scene()
    assert "Looks" not in page(one).text
    said = LesionAttributes(lytic=0.91, sclerotic=0.62, expansile=0.07, cortical=0.5)
    first, second = one.findings.lesions
    told = first.model_copy(update={"attributes": said})
    findings = one.findings.model_copy(update={"lesions": (told, second)})
    text = Page(render_report(findings, one.volume, one.label_map)).text
    assert "mixed, cortical" in text
    assert "lytic 0.91, sclerotic 0.62, expansile 0.07, cortical 0.50" in text
    assert "not told" in text


def test_looks_in_words() -> None:
    def words(lytic: float, sclerotic: float, expansile: float = 0.0) -> str:
        return looks_in_words(
            LesionAttributes(lytic=lytic, sclerotic=sclerotic, expansile=expansile, cortical=0.1)
        )

    assert words(0.9, 0.1, 0.8) == "lytic, expansile"
    assert words(0.2, 0.5) == "sclerotic"
    assert words(0.4, 0.4) == "unclear"


def test_three_planes_per_lesion_and_two_projections() -> None:
    one = scene()
    shown = page(one)
    sizes = [(image["width"], image["height"]) for image in shown.all("img")]
    assert len(sizes) == 2 + 3 * 2
    assert sizes[2:] == [(str(CROP_PX), str(CROP_PX))] * 6
    text = shown.text
    for plane in ("Axial, z = ", "Coronal, y = ", "Sagittal, x = "):
        assert text.count(plane) == 2


@pytest.mark.parametrize("orientation", ORIENTATIONS[::7])
def test_how_a_scan_is_stored_does_not_change_its_page(orientation: Orientation) -> None:
    def pictures(one: Scene) -> tuple[list[str], list[str]]:
        text = rendered(one)
        return images(text), re.findall(r"<figcaption>(.+?)</figcaption>", text)

    assert pictures(scene(orientation)) == pictures(scene())


def test_the_outline_lies_where_the_lesion_is() -> None:
    text = rendered(scene(lesions=1))
    paths = re.findall(r'class="outline" d="([^"]+)"', text)
    # 4 x 10 x 8 voxels of 3, 1 and 1.5 mm in a picture of 60 mm, centred.
    for path, (width_mm, height_mm) in zip(paths, [(12, 10), (12, 12), (10, 12)], strict=True):
        points = np.array(re.findall(r"[-\d.]+", path), float).reshape(-1, 2) * 60 / CROP_PX
        assert points.min(axis=0) == pytest.approx([30 - width_mm / 2, 30 - height_mm / 2], abs=0.1)
        assert points.max(axis=0) == pytest.approx([30 + width_mm / 2, 30 + height_mm / 2], abs=0.1)


def test_no_lesion_reads_well() -> None:
    text = page(scene(lesions=0, weaker=0)).text
    assert "No lesion reached the operating threshold" in text
    assert "says nothing about a primary tumour" in text
    assert "not stated" in text
    assert "None." in text


def test_many_lesions_are_bounded_and_the_page_says_so() -> None:
    one = scene(lesions=60)
    text = rendered(one)
    assert len(images(text)) == 2 + 3 * MAX_PICTURED
    assert "20 more are in the table only" in Page(text).text
    assert len(re.findall(r'<th scope="row">(?:<a[^>]*>)?L\d+', text)) == 60
    assert len(text) < 4_000_000


def test_a_lesion_without_voxels_shows_its_box() -> None:
    one = scene(lesions=1)
    shown = page(replace(one, labels=np.zeros_like(one.labels)))
    boxes = [rect for rect in shown.all("rect") if rect.get("class") == "outline"]
    assert len(boxes) == 3
    assert float(boxes[0]["width"] or 0) == pytest.approx(12 / 60 * CROP_PX, abs=0.2)
    assert "its box drawn" in (shown.all("img")[2]["alt"] or "")


def test_a_lesion_in_two_pieces_is_cut_where_it_has_voxels() -> None:
    volume = phantom((1.0, 1.0, 1.0))
    labels = np.zeros(volume.shape, np.int16)
    labels[20:24, 40:50, 40:50] = labels[60:64, 40:50, 40:50] = 1
    shown = page(Scene(findings_of(volume, labels), volume, labels))
    assert "outlined" in (shown.all("img")[2]["alt"] or "")


def test_an_oblique_scan_says_so() -> None:
    one = scene()
    tilt = np.radians(20)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]]
    oblique = Volume(one.volume.voxels, turn @ one.volume.affine)
    text = render_report(
        findings_of(oblique, one.labels), oblique, LabelMap.of(oblique.with_voxels(one.labels))
    )
    assert "The scan is oblique" in text
    assert ">RA<" in text
    assert "The scan is oblique" not in rendered(one)


def test_text_from_files_is_never_markup() -> None:
    evil = "<script>alert('x')</script>\"&"
    one = scene(warnings=[evil])
    findings = one.findings.model_copy(
        update={"scan_id": evil, "patient_id": evil, "research_use_only": evil}
    )
    text = render_report(findings, one.volume, one.label_map)
    assert "<script" not in text
    assert NOTICE in text
    assert evil in Page(text).text


@pytest.mark.parametrize(
    ("p_lung", "interval", "words"),
    [
        (None, None, "says nothing about a primary"),
        (0.72, None, "72% that the primary tumour is lung cancer. How sure"),
        (0.72, (0.6, 0.83), "between 60% and 83%. This favours lung cancer."),
        (0.2, (0.1, 0.3), "This favours another primary than lung cancer."),
        (0.6, (0.4, 0.8), "includes 50%: the scan does not decide"),
        (0.999, (0.995, 1.0), "gives >99%"),
        (0.0, (0.0, 0.001), "gives <1%"),
    ],
)
def test_primary_in_words(
    p_lung: float | None, interval: tuple[float, float] | None, words: str
) -> None:
    assert words in primary_in_words(
        PrimaryPrediction(p_lung=p_lung, interval=interval, aggregation="mean")
    )


def test_memory_stays_far_below_the_scan() -> None:
    voxels = np.zeros((150, 200, 200), np.int16)  # 12 MB
    labels = np.zeros(voxels.shape, np.int16)
    labels[50:60, 90:110, 90:110] = 1
    volume = Volume.from_spacing(voxels, (2.0, 1.0, 1.0))
    findings = findings_of(volume, labels)
    render_report(findings, volume, LabelMap.of(volume.with_voxels(labels)))  # loads the template
    tracemalloc.start()
    render_report(findings, volume, LabelMap.of(volume.with_voxels(labels)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < voxels.nbytes / 3


def test_a_failure_keeps_the_old_page(tmp_path: Path) -> None:
    one = scene(lesions=1)
    path = tmp_path / "report.html"
    write_report(one.findings, one.volume, one.label_map, path)
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    with pytest.raises(ReportError, match="nowhere"):
        write_report(one.findings, one.volume, one.label_map, tmp_path / "nowhere" / "report.html")
