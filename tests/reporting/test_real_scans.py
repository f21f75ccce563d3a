"""Pages about real CT; OSTEOMET_REAL_DATA names the folder that holds it."""

import os
from pathlib import Path

import numpy as np
import pytest
from scenes import findings_of
from test_figures import pixels
from test_html import Page, images

from osteomet.io.scan import read_scan
from osteomet.label_map import LabelMap
from osteomet.reporting.html import render_report


@pytest.fixture(scope="module")
def real_data() -> Path:
    folder = os.environ.get("OSTEOMET_REAL_DATA")
    if not folder:
        pytest.skip("OSTEOMET_REAL_DATA is not set: no real CT to report on")
    return Path(folder)


@pytest.mark.parametrize(
    ("name", "centre_xyz_mm"),
    [
        # Centres of lesions that radiologists boxed.
        ("blds_bone_lesions/1.nii.gz", (24.5, 169.9, -547.5)),
        ("blds_bone_lesions/3.nii.gz", (-32.9, 92.8, -265.7)),
        ("totalseg_example_ct/example_ct.nii.gz", None),
        ("sts_001_thigh_sarcoma/dicom/ct", None),
    ],
)
def test_bone_shows_in_every_plane(
    real_data: Path, name: str, centre_xyz_mm: tuple[float, float, float] | None
) -> None:
    volume = read_scan(real_data / name).volume
    if centre_xyz_mm is None:
        # The middle of the bone nearest to all other bone.
        bone = np.argwhere(volume.voxels[::4, ::4, ::4] > 300) * 4
        centre = bone[np.abs(bone - np.median(bone, axis=0)).sum(axis=1).argmin()]
    else:
        centre = np.round(volume.world_to_index(np.array([centre_xyz_mm]))[0]).astype(int)
    labels = np.zeros(volume.shape, np.uint8)
    labels[tuple(slice(max(place - 3, 0), place + 4) for place in centre)] = 1
    text = render_report(
        findings_of(volume, labels), volume, LabelMap.of(volume.with_voxels(labels))
    )
    Page(text)
    for picture in images(text):
        grey = pixels(picture)
        assert np.ptp(grey) > 60, "soft tissue and spongy bone differ by more than this"
