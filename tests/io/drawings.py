"""DICOM SEG and RTSTRUCT files for tests, drawn on a series of ``ct_series``."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import highdicom as hd
import numpy as np
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid

from osteomet.volume import Volume


def write_seg(
    path: Path,
    series: Path,
    segments: Mapping[str, np.ndarray],
    *,
    lesions: bool = True,
    kind: str = "BINARY",
    grid: Volume | None = None,
) -> Path:
    """Write segments, named and ``(z, y, x)``, on the slices of a series or on another grid.

    Values are 0 and 1, or fractions where ``kind`` is FRACTIONAL.
    """
    images = [dcmread(file) for file in sorted(series.glob("*.dcm"))]
    for image in images:
        image.PatientName = ""  # highdicom warns of names of one part
    category = (
        codes.SCT.MorphologicallyAbnormalStructure if lesions else codes.SCT.AnatomicalStructure
    )
    descriptions = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=label,
            segmented_property_category=category,
            segmented_property_type=codes.SCT.Lesion if lesions else codes.SCT.Bone,
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for number, label in enumerate(segments, start=1)
    ]
    pixels = np.stack(list(segments.values()), axis=-1)
    if kind == "BINARY":
        pixels = pixels.astype(np.uint8)
    array: np.ndarray | hd.Volume = pixels
    if grid is not None:
        array = hd.Volume(
            pixels,
            grid.affine,
            coordinate_system="PATIENT",
            frame_of_reference_uid=images[0].FrameOfReferenceUID,
            channels={hd.ChannelDescriptor("SegmentNumber"): list(range(1, len(segments) + 1))},
        )
    segmentation = hd.seg.Segmentation(
        source_images=images,
        pixel_array=array,
        segmentation_type=kind,
        segment_descriptions=descriptions,
        series_instance_uid=generate_uid(),
        series_number=2,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="test",
        manufacturer_model_name="test",
        software_versions="1",
        device_serial_number="1",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    segmentation.save_as(path)
    return path


def write_rtstruct(
    path: Path,
    series: Path,
    regions: Mapping[str, Sequence[np.ndarray]],
    *,
    series_uid: str | None = None,
    kind: str = "CLOSED_PLANAR",
) -> Path:
    """Write regions, each a name and its contours: ``(points, 3)`` in LPS mm.

    ``series_uid`` replaces the series that the structure set names.
    """
    image = dcmread(next(iter(sorted(series.glob("*.dcm")))), stop_before_pixels=True)
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = RTStructureSetStorage, generate_uid()
    dataset.Modality = "RTSTRUCT"
    for keyword in ("PatientID", "PatientName", "StudyInstanceUID"):
        setattr(dataset, keyword, image[keyword].value)
    dataset.SeriesInstanceUID = generate_uid()
    dataset.StructureSetLabel = "test"
    frame, study, referred = Dataset(), Dataset(), Dataset()
    referred.SeriesInstanceUID = series_uid or image.SeriesInstanceUID
    study.RTReferencedSeriesSequence = [referred]
    frame.RTReferencedStudySequence = [study]
    frame.FrameOfReferenceUID = image.FrameOfReferenceUID
    dataset.ReferencedFrameOfReferenceSequence = [frame]
    dataset.StructureSetROISequence, dataset.ROIContourSequence = [], []
    dataset.RTROIObservationsSequence = []
    for number, (name, contours) in enumerate(regions.items(), start=1):
        roi, drawn, observed = Dataset(), Dataset(), Dataset()
        roi.ROINumber = drawn.ReferencedROINumber = observed.ReferencedROINumber = number
        roi.ROIName, observed.RTROIInterpretedType = name, ""
        drawn.ContourSequence = [_contour(points, kind) for points in contours]
        dataset.StructureSetROISequence.append(roi)
        dataset.ROIContourSequence.append(drawn)
        dataset.RTROIObservationsSequence.append(observed)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def _contour(points: np.ndarray, kind: str) -> Dataset:
    contour = Dataset()
    contour.ContourGeometricType = kind
    contour.NumberOfContourPoints = len(points)
    contour.ContourData = [f"{value:.10g}" for value in points.ravel()]
    return contour


def ring(volume: Volume, k: float, centre_yx: tuple[float, float], radius: float) -> np.ndarray:
    """Return a circle in slice ``k``, in LPS mm; centre and radius in pixels."""
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    y = centre_yx[0] + radius * np.sin(angle)
    x = centre_yx[1] + radius * np.cos(angle)
    return volume.index_to_world(np.stack([np.full(60, float(k)), y, x], axis=1))


def disc(volume: Volume, centre_yx: tuple[float, float], radius: float) -> np.ndarray:
    """Return the pixels ``(y, x)`` of a circle by their distance from its centre."""
    y, x = np.mgrid[: volume.shape[1], : volume.shape[2]]
    inside: np.ndarray = np.hypot(y - centre_yx[0], x - centre_yx[1]) < radius
    return inside
