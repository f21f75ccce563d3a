"""The page in a real browser: it paints, complains of nothing and asks for nothing."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scenes import scene

from osteomet.reporting.html import write_report

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
)
YELLOW_NOTICE = (0xFF, 0xD7, 0x5E)


@pytest.fixture(scope="module")
def browser() -> str:
    for name in BROWSERS:
        if path := shutil.which(name):
            return path
    pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")


def paint(browser: str, page: Path, picture: Path) -> list[str]:
    """Take a screenshot; return what the page wrote to its console, errors included."""
    command = [
        browser,
        *FLAGS,
        f"--user-data-dir={page.parent / 'profile'}",
        "--window-size=1180,2200",
        f"--screenshot={picture}",
        page.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_the_page_paints_without_complaint(browser: str, tmp_path: Path) -> None:
    one = scene(warnings=["A warning."])
    page, picture = tmp_path / "report.html", tmp_path / "page.png"
    write_report(one.findings, one.volume, one.label_map, page)
    assert paint(browser, page, picture) == []
    painted = np.asarray(Image.open(picture).convert("RGB")).astype(int)
    notice = (np.abs(painted - YELLOW_NOTICE) <= 2).all(axis=2).mean()
    assert notice > 0.005
    grey = (np.ptp(painted, axis=2) <= 6) & (painted[..., 0] > 60) & (painted[..., 0] < 230)
    assert grey.mean() > 0.1, "no CT picture was painted"


def test_this_browser_would_tell(browser: str, tmp_path: Path) -> None:
    """A page of the same policy with one foreign picture does complain."""
    one = scene(lesions=0)
    page = tmp_path / "report.html"
    write_report(one.findings, one.volume, one.label_map, page)
    foreign = '<img src="https://example.invalid/x.png" alt="x"></main>'
    page.write_text(page.read_text(encoding="utf-8").replace("</main>", foreign), encoding="utf-8")
    assert any("example.invalid" in line for line in paint(browser, page, tmp_path / "page.png"))
