"""Write a volume as a DICOM series of CT Image Storage (PS3.3 A.3)."""

import os
import shutil
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, generate_uid

from osteomet.errors import ReportError
from osteomet.io.hounsfield import AIR_HU
from osteomet.volume import Volume

LARGEST_STORED = 2**16 - 2
"""Highest stored value above the intercept, with room for rounding the intercept down."""

DATE, TIME = "20000101", "120000"
"""Fixed, so that writing the same volume twice gives the same bytes."""


def write_ct_series(
    volume: Volume,
    folder: Path,
    *,
    patient_id: str,
    description: str = "CT",
    seed: str = "",
    transfer_syntax: UID = ExplicitVRLittleEndian,
) -> str:
    """Write one file a slice along the volume's first axis, rounded to whole HU.

    All UIDs follow from patient, description and ``seed``; the study's from patient and
    ``seed`` alone, so that several series can share a study.

    Args:
        volume: HU on any grid: transposed axes give a sagittal or coronal series.
        folder: made anew, or empty; the slices appear in it all at once.
        patient_id: goes into PatientID and PatientName.
        description: SeriesDescription.
        seed: tells series of the same patient and description apart.
        transfer_syntax: how pixels are encoded: uncompressed, deflated, RLE, JPEG 2000
            lossless or JPEG-LS lossless.

    Returns:
        The SeriesInstanceUID.

    Raises:
        ReportError: the folder exists and holds something, or cannot be written.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ReportError(
            f"{folder}: is not empty or no folder; expected a new one: choose another"
        )
    low, high = float(volume.voxels.min(initial=AIR_HU)), float(volume.voxels.max(initial=AIR_HU))
    if not high - low <= LARGEST_STORED:
        raise ReportError(f"HU from {low:g} to {high:g}; expected a range that 16 bits can hold")
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    series = _series(volume, patient_id, description, seed)
    try:
        partial.mkdir(parents=True)
        for index in range(volume.shape[0]):
            dataset = _slice(volume, series, index)
            _encode(dataset, transfer_syntax)
            dataset.save_as(partial / f"{index + 1:04d}.dcm", enforce_file_format=True)
        partial.replace(folder)
    except OSError as error:
        raise ReportError(f"{folder}: cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return str(series.SeriesInstanceUID)


def _series(volume: Volume, patient_id: str, description: str, seed: str) -> Dataset:
    """Return the attributes that all slices share."""
    dataset = Dataset()
    dataset.SOPClassUID = CTImageStorage
    dataset.Modality = "CT"
    dataset.PatientID = dataset.PatientName = patient_id
    dataset.PatientBirthDate = dataset.PatientSex = ""
    dataset.StudyInstanceUID = generate_uid(entropy_srcs=["study", patient_id, seed])
    dataset.SeriesInstanceUID = generate_uid(entropy_srcs=["series", patient_id, description, seed])
    dataset.FrameOfReferenceUID = generate_uid(entropy_srcs=["frame", patient_id, seed])
    dataset.StudyDate = dataset.SeriesDate = dataset.AcquisitionDate = dataset.ContentDate = DATE
    dataset.StudyTime = dataset.SeriesTime = dataset.AcquisitionTime = dataset.ContentTime = TIME
    dataset.AccessionNumber = dataset.ReferringPhysicianName = dataset.StudyID = ""
    dataset.PositionReferenceIndicator = dataset.KVP = dataset.PatientPosition = ""
    dataset.Manufacturer = "osteomet"
    dataset.SeriesDescription = description
    dataset.SeriesNumber = dataset.AcquisitionNumber = 1
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    axes = volume.affine[:3, :3] / np.array(volume.spacing_zyx_mm)
    dataset.ImageOrientationPatient = _decimals(np.concatenate([axes[:, 2], axes[:, 1]]))
    thickness, row_spacing, column_spacing = volume.spacing_zyx_mm
    dataset.PixelSpacing = _decimals(np.array([row_spacing, column_spacing]))
    dataset.SliceThickness = _decimals(np.array([thickness]))[0]
    dataset.Rows, dataset.Columns = volume.shape[1:]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = 0
    low = int(np.floor(volume.voxels.min(initial=AIR_HU)))
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = low, 1, "HU"
    return dataset


def _slice(volume: Volume, series: Dataset, index: int) -> Dataset:
    dataset = Dataset()
    dataset.update(series)
    uid = generate_uid(entropy_srcs=[str(series.SeriesInstanceUID), str(index)])
    dataset.SOPInstanceUID = uid
    dataset.InstanceNumber = index + 1
    dataset.ImagePositionPatient = _decimals(
        volume.index_to_world(np.array([[float(index), 0.0, 0.0]]))[0]
    )
    stored = np.rint(volume.voxels[index]).astype(np.int32) - int(series.RescaleIntercept)
    dataset.PixelData = stored.astype("<u2").tobytes()
    dataset["PixelData"].VR = "OW"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = uid
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset


def _encode(dataset: Dataset, transfer_syntax: UID) -> None:
    if transfer_syntax.is_compressed and transfer_syntax.is_encapsulated:
        dataset.compress(transfer_syntax, generate_instance_uid=False)
    else:
        dataset.file_meta.TransferSyntaxUID = transfer_syntax


def _decimals(values: np.ndarray) -> list[str]:
    """Return decimal strings of at most 16 characters (PS3.5 section 6.2), all they can hold."""
    return [f"{value:.16g}" if len(f"{value:.16g}") <= 16 else f"{value:.9g}" for value in values]
