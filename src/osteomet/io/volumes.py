"""NIfTI, NRRD and MetaImage files, read and written through SimpleITK.

SimpleITK turns NIfTI's RAS into LPS, reads qform and sform, and undoes ``scl_slope``.
"""

import os
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from jaxtyping import Num

from osteomet.errors import AnnotationError, GeometryError, InputError, ReportError
from osteomet.io.scan_record import Scan, describe
from osteomet.volume import Volume

FORMATS = {
    ".nii": "nifti",
    ".nii.gz": "nifti",
    ".nrrd": "nrrd",
    ".nhdr": "nrrd",
    ".mha": "metaimage",
    ".mhd": "metaimage",
}


def volume_format(path: Path) -> str | None:
    """Return the format that a file name stands for; None for any other file."""
    name = path.name.lower()
    return next((kind for suffix, kind in FORMATS.items() if name.endswith(suffix)), None)


def read_volume(path: Path) -> Scan:
    """Read one CT volume."""
    volume = _read(path)
    voxels = volume.voxels
    if (
        np.issubdtype(voxels.dtype, np.floating)
        or voxels.dtype.itemsize > 2
        or voxels.dtype.kind == "u"
    ):
        whole = bool((np.rint(voxels) == voxels).all())
        inside = voxels.min() >= -32768 and voxels.max() <= 32767
        voxels = voxels.astype(np.int16 if whole and inside else np.float32)
    volume = volume.with_voxels(voxels.astype(np.int16) if voxels.dtype == np.int8 else voxels)
    info = describe(volume, source=path.name, file_format=volume_format(path) or "unknown")
    return Scan(volume, info)


def read_labels(path: Path) -> Volume:
    """Read a label map: int16, or int32 where a label needs it.

    Raises:
        AnnotationError: a value is not a whole number.
    """
    volume = _read(path)
    voxels = volume.voxels
    if np.issubdtype(voxels.dtype, np.floating) and not (np.rint(voxels) == voxels).all():
        raise AnnotationError(
            f"{path}: holds fractions; expected whole-number labels: give a label map, not a "
            "probability map"
        )
    small = voxels.min(initial=0) >= -32768 and voxels.max(initial=0) <= 32767
    return volume.with_voxels(voxels.astype(np.int16 if small else np.int32))


def write_labels(path: Path, labels: Volume) -> None:
    """Write a label map in the narrowest unsigned or signed integers that hold it."""
    voxels = labels.voxels
    low, high = int(voxels.min(initial=0)), int(voxels.max(initial=0))
    kinds = (np.uint8, np.int16, np.uint16, np.int32)
    fits = [k for k in kinds if np.iinfo(k).min <= low and high <= np.iinfo(k).max]
    write_volume(path, labels.with_voxels(voxels.astype(fits[0])))


def write_volume(path: Path, volume: Volume) -> None:
    """Write a volume, replacing ``path`` only when the whole file is on disk.

    Raises:
        ReportError: the folder is missing, full or not writable.
    """
    suffix = next(s for s in sorted(FORMATS, key=len, reverse=True) if path.name.endswith(s))
    partial = path.with_name(f".{path.name}.{os.getpid()}{suffix}")
    try:
        sitk.WriteImage(_to_image(volume), str(partial), useCompression=suffix != ".nii")
        partial.replace(path)
    except (OSError, RuntimeError) as error:
        raise ReportError(f"{path}: cannot be written; expected a writable folder") from error
    finally:
        partial.unlink(missing_ok=True)


def _to_image(volume: Volume) -> sitk.Image:
    voxels: Num[np.ndarray, "z y x"] = volume.voxels
    if voxels.dtype in (np.float64, np.float16):
        voxels = voxels.astype(np.float32)
    image = sitk.GetImageFromArray(np.ascontiguousarray(voxels))
    spacing = np.array(volume.spacing_zyx_mm[::-1])
    axes = volume.affine[:3, 2::-1]
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(volume.affine[:3, 3].tolist())
    image.SetDirection((axes / spacing).ravel().tolist())
    return image


def _read(path: Path) -> Volume:
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a NIfTI, NRRD or MetaImage volume")
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise InputError(f"{path}: cannot be read; the file may be damaged") from error
    while image.GetDimension() > 3 and image.GetSize()[-1] == 1:
        size = [*image.GetSize()[:-1], 0]
        image = sitk.Extract(image, size)
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise GeometryError(f"{path}: has shape {image.GetSize()}; expected one 3D volume")
    direction = np.array(image.GetDirection()).reshape(3, 3)
    affine = np.eye(4)
    affine[:3, :3] = (direction * np.array(image.GetSpacing()))[:, ::-1]
    affine[:3, 3] = image.GetOrigin()
    return Volume(sitk.GetArrayFromImage(image), affine)
