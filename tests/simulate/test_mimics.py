import numpy as np
import pytest

from osteomet.simulate import SimulationConfig, simulate_patient
from osteomet.simulate.anatomy import Region
from osteomet.simulate.benign import PAINTERS, SMALL_KINDS, add_benign_findings
from osteomet.simulate.bones import Part
from osteomet.simulate.implants import add_calcification, add_cement, add_implant
from osteomet.simulate.lesions import METAL_HU, grow_blob
from osteomet.simulate.metastases import add_metastasis
from osteomet.simulate.phantom import Phantom
from osteomet.simulate.primaries import APPEARANCES

FULL = SimulationConfig(
    field_mm=(60.0, 64.0), thoracic_share=0.0, lumbar_share=1.0, lesion_free_share=1.0,
    benign_findings=8.0, fractures=1.5, implant_share=1.0, cement_share=1.0,
)  # fmt: skip


def body(part=Part.BODY):
    """Return two cylinders of bone, one above the other, in muscle, on a grid of 1 mm."""
    z, y, x = np.mgrid[:80, :80, :80].astype(np.float32)
    inside = np.minimum(16 - np.hypot(y - 30, x - 40), 12 - np.abs((z % 36) - 16))
    bone = -inside
    kind = np.where(bone < 0, part, Part.NONE).astype(np.uint8)
    hu = np.where(bone < 0, 180.0, 55.0).astype(np.float32)
    cortex = ((bone < 0) & (bone > -1.5)).astype(np.float32)
    return Phantom(hu, bone, kind, cortex, 180.0, np.ones(3), Region.LUMBAR)


def test_shares_of_small_findings_sum_to_one():
    assert sum(SMALL_KINDS.values()) == pytest.approx(1.0)


def test_no_mimic_is_in_the_instance_map():
    patient = simulate_patient(1, FULL)

    assert len(patient.mimics) >= 4
    assert not patient.instances.any()
    assert patient.volume.voxels.max() > METAL_HU


@pytest.mark.parametrize("kind", sorted(SMALL_KINDS))
def test_each_small_finding_changes_the_patient_where_its_name_is_returned(kind, monkeypatch):
    only = {name: float(name == kind) for name in SMALL_KINDS}
    monkeypatch.setattr("osteomet.simulate.benign.SMALL_KINDS", only)
    config = SimulationConfig(
        benign_findings=9.0, fractures=0.0, implant_share=0.0, cement_share=0.0
    )
    phantom, before = body(), body().hu

    added = add_benign_findings(np.random.default_rng(0), phantom, config, 70, "F")

    assert set(added) == {kind}
    assert np.abs(phantom.hu - before).max() > 60


def test_women_of_eighty_break_more_than_men_of_forty():
    config = FULL.model_copy(
        update={"benign_findings": 0.0, "implant_share": 0.0, "cement_share": 0.0}
    )

    def fractures(age, sex):
        rng = np.random.default_rng(0)
        return sum(len(add_benign_findings(rng, body(), config, age, sex)) for _ in range(10))

    assert fractures(80, "F") > 2 * fractures(40, "M")


def test_screws_and_cement_are_brighter_than_bone():
    phantom = body()

    assert add_implant(np.random.default_rng(0), phantom, 60) == "screws"
    assert add_cement(np.random.default_rng(1), phantom) == "cement"
    assert (phantom.hu > METAL_HU).sum() > 1000


def test_implants_need_bone_and_calcifications_need_soft_tissue():
    phantom = body(part=Part.RIB)
    assert add_implant(np.random.default_rng(0), phantom, 60) == ""
    assert add_cement(np.random.default_rng(0), phantom) == ""

    phantom.bone[:] = -5.0
    assert add_calcification(np.random.default_rng(0), phantom) == ""
    np.testing.assert_array_equal(phantom.hu, body().hu)


def test_metastases_leave_metal_alone():
    phantom = body()
    phantom.hu[10:60, 28:33, 38:43] = 5000.0
    rng = np.random.default_rng(0)
    blob = grow_blob(rng, phantom, 22.0, stiffness=5.0, depth_mm=(1.2, 99.0))

    add_metastasis(rng, phantom, blob, APPEARANCES[0])

    metal = phantom.hu[blob.window] > METAL_HU
    assert metal.any()
    assert (phantom.hu[10:60, 28:33, 38:43] == 5000.0).all()
    assert not (metal & (blob.inward > 0)).any()


def test_no_bone_is_left_where_a_hip_was_replaced():
    z, y, x = np.mgrid[:90, :70, :90].astype(np.float32)
    head = np.sqrt((z - 62) ** 2 + (y - 35) ** 2 + (x - 30) ** 2) - 23
    shaft = np.maximum(np.hypot(y - 35, x - 66) - 15, z - 60)
    bone = np.minimum(
        head, np.minimum(shaft, np.hypot(y - 35, z - 50) - 9 + 9 * ((x < 30) | (x > 70)))
    )
    part = np.where(bone < 0, Part.FEMUR, Part.NONE).astype(np.uint8)
    hu = np.where(bone < 0, 250.0, 55.0).astype(np.float32)
    phantom = Phantom(hu, bone, part, np.zeros_like(hu), 200.0, np.ones(3), Region.PELVIS)

    assert add_implant(np.random.default_rng(0), phantom, 75) == "hip"
    assert phantom.hu[62, 35, 30] > METAL_HU
    assert phantom.bone[62, 35, 30] > 0
    assert phantom.part[62, 35, 12] == Part.NONE
    assert phantom.bone[10, 35, 66] < 0
    assert phantom.part[10, 35, 66] == Part.FEMUR


def test_schmorl_nodes_open_to_an_end_plate():
    rng, found = np.random.default_rng(0), 0
    for _ in range(6):
        phantom = body()
        if not PAINTERS["Schmorl node"](rng, phantom):
            continue
        found += 1
        notch = np.argwhere((body().bone < -1) & (phantom.hu < 140))
        # The cylinders end at slices 4 and 28, and again 36 further up.
        assert np.abs(notch[:, 0] % 36 - 16).max() >= 10
    assert found >= 4
