"""Read a CT scan, whatever it is stored in."""

from pathlib import Path

from osteomet.io.dicom import read_dicom
from osteomet.io.scan_record import Scan
from osteomet.io.volumes import read_volume, volume_format

__all__ = ["Scan", "read_scan"]


def read_scan(path: Path, series_uid: str | None = None) -> Scan:
    """Read the CT scan in a folder, a zip, one DICOM file, NIfTI, NRRD or MetaImage.

    Args:
        path: the file or folder; folders are searched recursively.
        series_uid: DICOM series to read; None takes the thinnest axial CT.
    """
    if volume_format(path) is not None:
        return read_volume(path)
    return read_dicom(path, series_uid)
