import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from osteomet.data.manifest import read_cohort
from osteomet.errors import ConfigError, InputError
from osteomet.io.scan import read_scan
from osteomet.io.volumes import read_labels, read_volume, write_volume
from osteomet.simulate import SimulationConfig, simulate_patient
from osteomet.simulate.hosts import find_bone, find_host, surface_distance
from osteomet.simulate.insert import insert_metastases, write_inserted
from osteomet.volume import Volume

SOME = SimulationConfig(lesion_free_share=0.0, median_diameter_mm=9.0, diameter_spread=0.2)
HEALTHY = SimulationConfig(
    field_mm=(70.0, 80.0), lesion_free_share=1.0, thoracic_share=0.0, lumbar_share=1.0,
    implant_share=0.0, cement_share=0.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("host") / "scan.nii.gz"
    write_volume(path, simulate_patient(4, HEALTHY).volume)
    return path


@pytest.fixture(scope="module")
def host(source):
    return find_host(read_scan(source))


def box_of_bone():
    """Return a scan with a box of bone 20 voxels wide: cortex around marrow."""
    hu = np.full((40, 40, 40), 40.0, np.float32)
    hu[10:30, 10:30, 10:30] = 700.0
    hu[12:28, 12:28, 12:28] = 120.0
    return hu


def test_bone_is_cortex_and_the_marrow_it_encloses():
    found = find_bone(box_of_bone(), np.ones(3))

    expected = np.zeros((40, 40, 40), bool)
    expected[10:30, 10:30, 10:30] = True
    np.testing.assert_array_equal(found, expected)


def test_canal_vessel_and_metal_are_no_bone():
    hu = box_of_bone()
    hu[12:28, 12:28, 12:28] = 20.0  # enclosed like marrow, but water
    hu[:, 2:8, 2:8] = 260.0  # enhanced, and nowhere as dense as cortex
    hu[28:34, 34:38, 34:38] = 3000.0

    found = find_bone(hu, np.ones(3))

    assert not found[20, 20, 20]
    assert not found[:, 2:8, 2:8].any()
    assert not found[28:34, 34:38, 34:38].any()


def test_distance_to_the_surface_is_signed_and_the_same_in_slabs():
    inside = np.zeros((120, 9, 9), bool)
    inside[20:100] = True

    distance = surface_distance(inside, np.array([1.0, 1.0, 1.0]))

    expected = np.clip(np.abs(np.arange(120) - 59.5) - 40.0, -19.5, None)
    np.testing.assert_allclose(distance[14:106, 4, 4], expected[14:106], atol=0.51)


def test_only_lesions_and_their_margin_change(host):
    patient = insert_metastases(host, 3, SOME)

    changed = np.abs(patient.volume.voxels.astype(int) - host.volume.voxels) > 0
    assert patient.lesions
    assert changed[patient.instances > 0].mean() > 0.8
    far = np.ones(changed.shape, bool)
    for index in np.argwhere(patient.instances > 0):
        low = np.maximum(index - 14, 0)
        far[tuple(slice(a, b + 15) for a, b in zip(low, index, strict=True))] = False
    assert far.any()
    assert not changed[far].any()


def test_lesions_lie_in_bone_and_are_listed(host):
    patient = insert_metastases(host, 3, SOME)

    assert [lesion.label for lesion in patient.lesions] == np.unique(patient.instances)[1:].tolist()
    for lesion in patient.lesions:
        own = patient.instances == lesion.label
        assert lesion.volume_ml == pytest.approx(own.sum() * host.volume.voxel_ml)
        assert (host.bone[own] < 1.0).mean() > 0.3


def test_destroyed_bone_is_about_as_noisy_as_soft_tissue(host):
    lytic = SOME.model_copy(update={"lung_share": 1.0, "median_diameter_mm": 16.0})
    before = host.volume.voxels - host.signal
    ratios, gains = [], []
    for seed in range(8):
        patient = insert_metastases(host, seed, lytic)
        after = patient.volume.voxels.astype(np.float32)
        detail = after - ndimage.gaussian_filter(after, 0.9)
        for lesion in patient.lesions:
            own = patient.instances == lesion.label
            inner = ndimage.binary_erosion(own, iterations=3)
            if lesion.type == "lytic" and inner.sum() > 50:
                ratios.append(detail[inner].std() / host.noise_hu)
                gains.append(detail[inner].std() / before[inner].std())

    # Some keep trabeculae, and show them; the usual one is as flat as tumour is.
    assert len(ratios) >= 4
    assert 0.5 < np.median(ratios) < 1.6
    assert np.median(gains) < 0.9


def test_cohort_of_inserted_lesions_is_one_that_training_reads(source, tmp_path):
    table = write_inserted(tmp_path, [source], 2, seed=1, config=SOME)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    cohort = read_cohort(table)
    write_inserted(tmp_path, [source], 2, seed=1, config=SOME)

    assert {path: path.read_bytes() for path in before} == before
    assert len({case.split for case in cohort.cases}) == 1
    for case in cohort.cases:
        assert case.centre == "inserted"
        labels = read_labels(case.mask)
        assert read_volume(case.image).volume.shape == labels.shape
        with case.lesions.open() as file:
            assert len(list(csv.DictReader(file))) == labels.voxels.max() > 0


def test_scan_without_bone_is_refused(tmp_path):
    path = tmp_path / "water.nii.gz"
    noise = np.random.default_rng(0).normal(40, 20, (30, 30, 30)).astype(np.int16)
    write_volume(path, Volume.from_spacing(noise, (1.0, 1.0, 1.0)))

    with pytest.raises(InputError, match=r"0\.0 ml of bone"):
        write_inserted(tmp_path / "cohort", [path], 1)


def test_no_scan_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no scan"):
        write_inserted(tmp_path, [], 1)


def test_bone_of_a_real_scan_is_where_another_program_says():
    data = os.environ.get("OSTEOMET_REAL_DATA")
    if not data:
        pytest.skip("OSTEOMET_REAL_DATA is not set: no real CT to find bone in")
    folder = Path(data) / "totalseg_example_ct"
    names = json.loads((folder / "labels_v1.json").read_text())["bone_labels_present"]
    labels = read_labels(folder / "example_seg_v1_104classes.nii.gz").closest_lps().voxels
    bone = np.isin(labels, [int(number) for number in names])

    found = find_host(read_scan(folder / "example_ct.nii.gz")).bone < 0

    assert bone[found].mean() > 0.85
    assert found[bone].mean() > 0.7
