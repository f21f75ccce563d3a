import numpy as np
import pytest

from osteomet.simulate import SimulationConfig, simulate_patient

SMALL = SimulationConfig(field_mm=(70.0, 75.0), lesion_free_share=0.0)


@pytest.fixture(scope="module")
def patients():
    return [simulate_patient(seed, SMALL) for seed in range(4)]


def test_same_seed_gives_the_same_patient(patients):
    again = simulate_patient(2, SMALL)

    np.testing.assert_array_equal(again.volume.voxels, patients[2].volume.voxels)
    np.testing.assert_array_equal(again.instances, patients[2].instances)
    assert again.lesions == patients[2].lesions
    assert not np.array_equal(patients[0].volume.affine, patients[2].volume.affine)


def test_instance_map_agrees_with_the_lesions(patients):
    assert any(patient.lesions for patient in patients)
    for patient in patients:
        labels = np.unique(patient.instances[patient.instances > 0])
        assert labels.tolist() == [lesion.label for lesion in patient.lesions]
        for lesion in patient.lesions:
            voxels = (patient.instances == lesion.label).sum()
            assert lesion.volume_ml == pytest.approx(voxels * patient.volume.voxel_ml)


def test_hounsfield_units_are_plausible(patients):
    for patient in patients:
        voxels = patient.volume.voxels
        assert voxels.dtype == np.int16
        assert voxels.min() >= -1024
        assert 400 < np.percentile(voxels, 99.5) < 1800


def test_patient_without_metastases():
    config = SimulationConfig(field_mm=(60.0, 60.0), lesion_free_share=1.0)

    patient = simulate_patient(1, config)

    assert patient.lesions == ()
    assert not patient.instances.any()
