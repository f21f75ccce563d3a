import numpy as np
import pytest

from osteomet.simulate import SimulationConfig, simulate_patient
from osteomet.simulate.lesions import draw_diameter, grow_blob
from osteomet.simulate.metastases import add_metastasis
from osteomet.simulate.patient import random_streams
from osteomet.simulate.phantom import draw_phantom
from osteomet.simulate.primaries import (
    APPEARANCES,
    LUNG,
    LesionType,
    draw_age_and_sex,
    draw_tumour,
)
from osteomet.simulate.scanner import average_slices, draw_protocol

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


def bone_of(seed, config):
    """Return where the patient's bone is by anatomy, whatever lesions did to it."""
    who, where, _, how = random_streams(seed)
    _, tumour = draw_tumour(who, config.lung_share)
    age, _ = draw_age_and_sex(who, tumour)
    protocol = draw_protocol(how, config)
    inside = draw_phantom(where, config, protocol, age).inside
    return average_slices(inside.astype(np.float32), protocol.substeps) > 0.5


def test_a_threshold_does_not_find_the_lesions():
    # The best single window of HU inside bone, chosen with the answer at hand. Fewer lesions
    # than by default fill a small field of view about as much as those fill a large one.
    config = SimulationConfig(field_mm=(70.0, 70.0), median_lesions=1.2, max_lesions=3)
    values, truth = [], []
    for seed in range(12):
        patient, bone = simulate_patient(seed, config), bone_of(seed, config)
        values.append(patient.volume.voxels[bone])
        truth.append(patient.instances[bone] > 0)
    hu, lesion = np.concatenate(values), np.concatenate(truth)
    edges = np.quantile(hu, np.linspace(0, 1, 41))
    total = np.histogram(hu, edges)[0].cumsum()
    found = np.histogram(hu[lesion], edges)[0].cumsum()
    total, found = np.append(0, total), np.append(0, found)
    f1 = 2 * (found - found[:, None]) / (total - total[:, None] + lesion.sum())

    assert np.triu(f1).max() < 0.5


def test_diameters_follow_the_prior():
    rng = np.random.default_rng(0)
    config = SimulationConfig()
    kinds = rng.choice(len(APPEARANCES), 4000, p=LUNG.shares())

    drawn = [draw_diameter(rng, config, APPEARANCES[k]) for k in kinds]

    low, middle, high = np.percentile(drawn, [5, 50, 95])
    assert low == pytest.approx(5.8, rel=0.12)
    assert middle == pytest.approx(14.8, rel=0.08)
    assert high == pytest.approx(36.0, rel=0.12)


def test_lesions_keep_the_volume_asked_for_where_bone_allows():
    config = SimulationConfig(
        field_mm=(80.0, 80.0), lesion_free_share=0.0, median_diameter_mm=8.0, diameter_spread=0.0,
        thoracic_share=0.0, lumbar_share=1.0,
    )  # fmt: skip

    patients = [simulate_patient(seed, config) for seed in range(2)]
    # Expansile lesions are meant to be larger.
    ratios = [
        lesion.diameter_mm / (10.0 if lesion.expansile else 7.84)
        for patient in patients
        for lesion in patient.lesions
    ]

    assert ratios
    assert np.median(ratios) == pytest.approx(1.0, rel=0.12)


def test_mixed_lesion_that_leaves_the_bone_is_soft_tissue_there():
    config = SimulationConfig(field_mm=(70.0, 70.0), thoracic_share=1.0, lumbar_share=0.0)
    rng = np.random.default_rng(3)
    protocol = draw_protocol(rng, config)
    phantom = draw_phantom(rng, config, protocol, 60)
    kind = next(a for a in APPEARANCES if a.type is LesionType.MIXED and a.expansile)
    blob = grow_blob(rng, phantom, 30.0, stiffness=0.3, depth_mm=(1.2, 99.0))
    outside = (blob.inward > 2.0) & (phantom.bone[blob.window] > 1.0)

    add_metastasis(rng, phantom, blob, kind)

    assert outside.any()
    assert phantom.hu[blob.window][outside].min() > -100
