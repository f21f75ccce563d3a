"""The page about a cohort: complete, self-contained, safe, and right in its counts."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from osteomet.checkup import Checkup, Finding, Guess, ScanRecord, ScanViews, Severity, View
from osteomet.reporting.doctor_html import GALLERY, LISTED, PICTURED, histogram, render_page
from osteomet.reporting.html import NOTICE

VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """Text and attributes of a page; fails where tags do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.text += " ".join(data.split()) + " "


def views(place: int) -> ScanViews:
    values = np.full((40, 30), -1000, np.int16)
    values[10:30, 10:20] = 300 + place
    labels = np.zeros((40, 30), np.int16)
    labels[15:25, 12:18] = 1
    return ScanViews(View(values, None, (2.0, 2.0)), {1: View(values, labels, (1.0, 1.0))})


def finding(severity: Severity, scan: str, check: str = "doubtful HU", **more: int) -> Finding:
    return Finding(
        check=check, severity=severity, scans=(scan,), found=f"Found in {scan}.",
        advice="Do this.", lesion=more.get("lesion"),
    )  # fmt: skip


def checkup(
    *findings: Finding, scans: int = 3, name: str = "s", guesses: tuple[Guess, ...] = ()
) -> Checkup:
    rows = tuple(
        ScanRecord(
            scan_id=f"{name}{n}", patient_id=f"p{n}", centre="A", primary=("lung", "other")[n % 2],
            image_fault="damaged",
        )
        for n in range(scans)
    )  # fmt: skip
    return Checkup(
        cohort="cohort.csv", osteomet_version="1", scans=rows, findings=findings, guesses=guesses
    )


def test_the_page_needs_nothing_else() -> None:
    text = render_page(checkup(finding(Severity.ERROR, "s1", lesion=1)), views)
    for tag, attributes in Page(text).attributes:
        assert tag not in {"script", "iframe", "object", "form"}
        for name in ("src", "href"):
            address = attributes.get(name)
            assert address is None or address.startswith(("data:", "#")), address
        assert tag != "img" or attributes["alt"]
    assert "default-src 'none'" in text
    assert "url(" not in text
    assert NOTICE in text


def test_text_from_files_is_never_markup() -> None:
    evil = "<script>x</script>"
    text = render_page(checkup(finding(Severity.ERROR, f"{evil}0"), name=evil), views)
    assert "<script" not in text
    assert "<script>x</script>0" in Page(text).text


@pytest.mark.parametrize(
    ("findings", "verdict"),
    [
        ((), "Fit for training: nothing"),
        ((finding(Severity.NOTE, "s0"),), "Fit for training: nothing"),
        ((finding(Severity.WARNING, "s0"),), "Fit for training, with 1 warning"),
        ((finding(Severity.ERROR, "s0"),), "Not fit for training: 1 error must"),
    ],
)
def test_the_verdict(findings: tuple[Finding, ...], verdict: str) -> None:
    one = checkup(*findings)
    assert verdict in Page(render_page(one, views)).text
    assert one.is_fit == verdict.startswith("Fit")


def test_serious_findings_stand_first_and_advice_once() -> None:
    many = [finding(Severity.WARNING, f"s{n}") for n in range(12)]
    one = checkup(*many, finding(Severity.ERROR, "s1", "no body"), scans=12)
    text = render_page(one, views)
    page = Page(text).text
    assert page.index("No body") < page.index("Doubtful HU")
    assert page.count("Do this.") == 2
    assert f"{12 - LISTED} more" in page
    assert all(f"Found in s{n}." in page for n in range(12))
    assert text.count('<div class="strip">') == 2
    assert len(re.findall(r"<img", text)) == PICTURED + 1 + 12


def test_a_lesion_is_outlined() -> None:
    text = render_page(checkup(finding(Severity.WARNING, "s0", lesion=1)), views)
    assert len(re.findall(r'class="outline" d="M', text)) == 1
    assert "s0, lesion 1" in text


def test_a_scan_without_picture_and_a_finding_without_scan() -> None:
    whole = Finding(
        check="few patients", severity=Severity.WARNING, scans=(), found="Few.", advice="Add."
    )
    text = render_page(checkup(whole, finding(Severity.ERROR, "s0")), lambda place: ScanViews())
    assert "<img" not in text
    assert Page(text).text.count("cannot be read") == 6  # in the gallery and in the table


def test_the_gallery_is_bounded_and_holds_what_is_wrong() -> None:
    last = f"s{GALLERY + 9}"
    text = render_page(checkup(finding(Severity.ERROR, last), scans=GALLERY + 10), views)
    assert text.count("<img") == GALLERY + 1
    assert f"{GALLERY} of {GALLERY + 10} scans are shown" in Page(text).text
    assert f"<b>{last}</b>" in text.split('class="tiles"')[1]


def test_guesses_with_and_without_a_figure() -> None:
    told = Guess(
        factor="slice distance", kind="acquisition", patients=90, lung=40, auc=0.875,
        chance=(0.38, 0.62), p_value=0.001,
    )  # fmt: skip
    notes = [
        Guess(factor=name, kind="patient", patients=3, lung=1, note="too few patients to tell")
        for name in ("age", "sex")
    ]
    text = render_page(checkup(guesses=(told, *notes)), views)
    page = Page(text).text
    page = " ".join(page.split())
    assert "40 + 50 0.88 0.38 to 0.62 0.001" in page
    assert "age, sex : too few patients to tell" in page
    assert f'cx="{5 + 250 * 0.875:.1f}"' in text


def test_bars_hold_every_value_once() -> None:
    table = [("lung", 1.0), ("lung", 1.0000001), ("other", 5.0), ("unknown", 3.0)]
    chart = histogram("Slice distance", "mm", table)
    assert sum(sum(bar.counts) for bar in chart.bars) == 4
    assert chart.highest == 2
    assert (chart.bars[0].low, chart.bars[-1].high) == (1.0, 5.0)
    (single,) = histogram("Same", "mm", [("lung", 0.9765625), ("other", 0.97656249)]).bars
    assert (single.low, single.high, single.counts) == (0.977, 0.977, (1, 1, 0))
