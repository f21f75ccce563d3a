"""Read a CT series from DICOM files."""

from pathlib import Path

import numpy as np
import pydicom

from osteomet.errors import InputError
from osteomet.io.scan_record import Scan, describe
from osteomet.volume import Volume


def read_dicom(path: Path, series_uid: str | None = None) -> Scan:
    """Read the CT series in a folder."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    datasets = []
    for file in files:
        try:
            dataset = pydicom.dcmread(file)
        except pydicom.errors.InvalidDicomError:
            continue
        if dataset.get("Modality") == "CT" and series_uid in (None, dataset.SeriesInstanceUID):
            datasets.append(dataset)
    if len(datasets) < 2:
        raise InputError(f"{path}: holds no CT series")
    first = datasets[0]
    row, column = np.array(first.ImageOrientationPatient, float).reshape(2, 3)
    normal = np.cross(row, column)
    datasets.sort(key=lambda d: float(normal @ np.array(d.ImagePositionPatient, float)))
    positions = np.array([d.ImagePositionPatient for d in datasets], float)
    affine = np.eye(4)
    affine[:3, 0] = normal * (normal @ (positions[-1] - positions[0])) / (len(datasets) - 1)
    affine[:3, 1] = column * float(first.PixelSpacing[0])
    affine[:3, 2] = row * float(first.PixelSpacing[1])
    affine[:3, 3] = positions[0]
    voxels = np.empty((len(datasets), first.Rows, first.Columns), np.int16)
    for k, dataset in enumerate(datasets):
        slope = float(dataset.get("RescaleSlope", 1))
        voxels[k] = np.rint(dataset.pixel_array * slope + float(dataset.get("RescaleIntercept", 0)))
    volume = Volume(voxels, affine)
    info = describe(
        volume, source=path.name, file_format="dicom", series_uid=str(first.SeriesInstanceUID)
    )
    return Scan(volume, info)
