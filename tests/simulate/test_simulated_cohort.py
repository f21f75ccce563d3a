import csv
import hashlib
from collections import Counter

import pytest

from osteomet.data.manifest import read_cohort
from osteomet.errors import ConfigError
from osteomet.findings import PrimaryTumour
from osteomet.io.volumes import read_labels, read_volume
from osteomet.simulate import SimulationConfig, write_cohort
from osteomet.simulate.cohort import write_patients
from osteomet.simulate.enrolment import enrol_centres, lung_of, side_of

TINY = SimulationConfig(field_mm=(40.0, 42.0), lesion_free_share=0.0)


def digests(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    write_cohort(folder, 3, seed=5, config=TINY)
    return folder


def test_cohort_is_one_that_training_reads(folder):
    cohort = read_cohort(folder / "cohort.csv")

    assert len(cohort.cases) == 3
    for case in cohort.cases:
        scan, labels = read_volume(case.image), read_labels(case.mask)
        assert scan.volume.shape == labels.shape
        with case.lesions.open() as file:
            listed = [int(row["label"]) for row in csv.DictReader(file)]
        assert listed == list(range(1, int(labels.voxels.max()) + 1))


def test_resuming_keeps_finished_patients_and_repairs_the_rest(folder):
    before = digests(folder)
    kept = folder / "images/sim5-00000.nii"
    written = kept.stat().st_mtime_ns
    (folder / "masks/sim5-00001.nii.gz").unlink()
    (folder / "cases/sim5-00002.json").write_text("{")

    write_cohort(folder, 3, seed=5, config=TINY)

    assert digests(folder) == before
    assert kept.stat().st_mtime_ns == written


def test_other_settings_replace_finished_patients(folder, tmp_path):
    write_cohort(tmp_path, 1, seed=5, config=TINY)
    before = digests(tmp_path)

    write_cohort(tmp_path, 1, seed=5, config=TINY.model_copy(update={"noise_scale": 0.5}))

    after = digests(tmp_path)
    assert before.keys() == after.keys()
    assert before["images/sim5-00000.nii"] != after["images/sim5-00000.nii"]


def test_larger_cohort_begins_with_the_smaller(folder, tmp_path):
    write_cohort(tmp_path, 2, seed=5, config=TINY)

    smaller, larger = digests(tmp_path), digests(folder)

    shared = [name for name in smaller if name != "cohort.csv"]
    assert all(smaller[name] == larger[name] for name in shared)


def test_empty_cohort(tmp_path):
    table = write_cohort(tmp_path, 0)

    assert len(table.read_text().splitlines()) == 1


def test_shares_that_do_not_sum_to_one_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="do not sum to 1"):
        write_cohort(tmp_path, 1, splits={"train": 0.5})


def test_splits_hold_their_share():
    drawn = [side_of(k, {"train": 0.6, "test": 0.4}) for k in range(100)]

    assert 58 <= drawn.count("train") <= 62


def test_two_centres_have_the_numbers_of_the_paper():
    patients = enrol_centres({"A": 106, "B": 265}, seed=0)

    found = Counter((one.centre, one.is_lung) for one in patients)
    assert found == {("A", True): 56, ("A", False): 50, ("B", True): 89, ("B", False): 176}
    assert len({one.seed for one in patients}) == len({one.patient_id for one in patients}) == 371


def test_splits_hold_their_share_within_centre_and_primary():
    patients = enrol_centres({"A": 106, "B": 265}, 0, {"train": 0.7, "val": 0.15, "test": 0.15})

    for centre, is_lung in (("A", True), ("A", False), ("B", True), ("B", False)):
        group = [p.split for p in patients if (p.centre, p.is_lung) == (centre, is_lung)]
        assert group.count("train") / len(group) == pytest.approx(0.7, abs=0.03)


def test_more_patients_of_a_centre_begin_with_the_fewer():
    assert lung_of("B", 40)[:25] == lung_of("B", 25)
    assert enrol_centres({"A": 9}, 1)[:4] == enrol_centres({"A": 4}, 1)


@pytest.mark.parametrize("counts", [{"C": 3}, {"A": -1}])
def test_impossible_centres_are_refused(counts):
    with pytest.raises(ConfigError):
        enrol_centres(counts, 0)


def test_cohort_of_two_centres_is_one_that_training_reads(tmp_path):
    patients = enrol_centres({"A": 1, "B": 2}, 3)

    cohort = read_cohort(write_patients(tmp_path, patients, TINY))

    assert [case.centre for case in cohort.cases] == ["A", "B", "B"]
    lung = [case.primary is PrimaryTumour.LUNG for case in cohort.cases]
    assert lung == [one.is_lung for one in patients]
