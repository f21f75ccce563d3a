"""A scan without fault, as it is measured, and ways to spoil it."""

from osteomet.checkup import BodyMeasures, HUMeasures, LesionMeasures, ScanMeasures, ScanRecord

LESION = LesionMeasures(
    label=1, voxels=500, volume_ml=1.5, diameter_mm=14.2, shortest_side_vox=7, parts=1,
    largest_part_share=1.0, touches=(), mean_hu=400.0, body_share=1.0, bone_share=1.0,
    at_border=False,
)  # fmt: skip
HU = HUMeasures(
    low=-1024, high=1500, step_hu=1.0, at_high_share=1e-7, air_hu=-1000.0, fat_hu=-100.0,
    soft_tissue_hu=45.0, noise_hu=15.0, noise_grain=0.5,
)  # fmt: skip
BODY = BodyMeasures(
    region="chest", body_ml=20000.0, lung_share=0.2, bone_ml=900.0, air_at_sides=0.97
)
SCAN = ScanMeasures(
    format="nifti", shape_zyx=(300, 512, 512), spacing_zyx_mm=(1.25, 0.8, 0.8), orientation="LPS",
    tilt_deg=0.0, slice_thickness_mm=None, manufacturer=None, kernel=None, study_uid=None,
    digest="d", mask_digest="m", hu=HU, body=BODY, annotation="mask", lesions=(LESION,),
    boxes_mm=(), boxes_outside=0, warnings=(),
)  # fmt: skip


def record(scan_id: str = "s1", patient_id: str | None = None, **changed: object) -> ScanRecord:
    """A scan; fields of the row, of the scan, of its HU or of its body may be changed by name."""
    row = {name: changed.pop(name) for name in list(changed) if name in ScanRecord.model_fields}
    hu = {name: changed.pop(name) for name in list(changed) if name in HUMeasures.model_fields}
    body = {name: changed.pop(name) for name in list(changed) if name in BodyMeasures.model_fields}
    changed.setdefault("digest", f"image of {scan_id}")
    changed.setdefault("mask_digest", f"mask of {scan_id}")
    measures = SCAN.model_copy(
        update={
            "hu": HU.model_copy(update=hu),
            "body": BODY.model_copy(update=body),
            **changed,
        }
    )
    plain = ScanRecord(
        scan_id=scan_id, patient_id=patient_id or scan_id, centre="A", primary="lung",
        measures=measures,
    )  # fmt: skip
    return plain.model_copy(update=row)


def lesion(**changed: object) -> LesionMeasures:
    return LESION.model_copy(update=changed)
