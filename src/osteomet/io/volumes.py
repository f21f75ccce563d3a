"""NIfTI, NRRD and MetaImage files, read and written through SimpleITK.

SimpleITK turns NIfTI's RAS into LPS, reads qform and sform, and undoes ``scl_slope``.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from jaxtyping import Int

from osteomet.errors import AnnotationError, GeometryError, InputError, NotCTError, ReportError
from osteomet.io.hounsfield import settle
from osteomet.io.nifti import NiftiHeader, check_nifti, permissive_axes
from osteomet.io.scan_record import Scan, blaming, describe
from osteomet.io.series_choice import MIN_SLICES
from osteomet.label_map import LABEL_TYPES
from osteomet.volume import Affine, Volume

FORMATS = {
    ".nii.gz": "nifti",
    ".nii": "nifti",
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
    """Read one CT volume.

    Raises:
        NotCTError: the values are not HU, or there are several a voxel.
        GeometryError: the image is not 3D, or its axes are not orthogonal.
        InputError: the file is missing, damaged or truncated.
    """
    with blaming(path):
        image, absent, repairs = _load(path)
        if min(image.GetSize()) < MIN_SLICES:
            raise GeometryError(
                f"the image has {' x '.join(map(str, image.GetSize()))} voxels; expected at least "
                f"{MIN_SLICES} along each axis"
            )
        # A view spares a copy; it lives no longer than the image.
        voxels = sitk.GetArrayViewFromImage(image)
        if len(absent) > 0:
            voxels = np.array(voxels, float)
            voxels.reshape(-1)[absent] = np.nan
        voxels, oddities = settle(voxels)
        volume = Volume(voxels, _affine(image))
        info = describe(volume, source=path.name, file_format=volume_format(path) or "unknown")
        return Scan(volume, info, (*repairs, *oddities))


def read_labels(path: Path) -> Volume:
    """Read a label map: int16, or int32 where a label needs it.

    Raises:
        AnnotationError: a value is not a whole number.
        GeometryError: the image is not 3D, or its axes are not orthogonal.
        InputError: the file is missing, damaged or truncated.
    """
    with blaming(path):
        image, _, _ = _load(path)
        voxels = sitk.GetArrayViewFromImage(image)
        if voxels.dtype.kind == "f" and not all(bool((np.rint(z) == z).all()) for z in voxels):
            raise AnnotationError(
                "the file holds fractions; expected whole-number labels: give a label map, not "
                "probabilities"
            )
        low, high = voxels.min(initial=0), voxels.max(initial=0)
        if low < np.iinfo(np.int32).min or high > np.iinfo(np.int32).max:
            raise AnnotationError(f"labels reach from {low} to {high}; expected 32-bit integers")
        kind = np.int16 if np.iinfo(np.int16).min <= low and high <= 32767 else np.int32
        return Volume(voxels.astype(kind), _affine(image))


def read_grid(path: Path) -> Volume:
    """Read only the header of a volume: its grid, with zeros for values, which take no memory.

    Raises:
        GeometryError: the image is not 3D, or its axes are not orthogonal.
        InputError: the file is missing, or its header is damaged.
    """
    with blaming(path):
        if not path.is_file():
            raise InputError("no such file; expected a NIfTI, NRRD or MetaImage volume")
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
        try:
            with _quiet(), permissive_axes():
                reader.ReadImageInformation()
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise InputError(f"the file is damaged or not what its name says ({reason})") from error
        size, spacing = list(reader.GetSize()), list(reader.GetSpacing())
        while len(size) > 3 and size[-1] == 1:
            size.pop()
        if len(size) != 3:
            raise GeometryError(
                f"the image has {' x '.join(map(str, size))} voxels; expected one 3D volume"
            )
        count = reader.GetDimension()
        direction = np.array(reader.GetDirection()).reshape(count, count)[:3, :3]
        affine = np.eye(4)
        affine[:3, :3] = (direction * np.array(spacing[:3]))[:, ::-1]
        affine[:3, 3] = reader.GetOrigin()[:3]
        return Volume(np.broadcast_to(np.zeros((), np.int8), tuple(size[::-1])), affine)


def write_labels(path: Path, labels: Volume) -> None:
    """Write a label map in the narrowest integers that hold it; see ``write_volume``."""
    voxels = labels.voxels
    low, high = int(voxels.min(initial=0)), int(voxels.max(initial=0))
    kind = next(k for k in LABEL_TYPES if np.iinfo(k).min <= low and high <= np.iinfo(k).max)
    write_volume(path, labels.with_voxels(voxels.astype(kind, copy=False)))


def write_volume(path: Path, volume: Volume) -> None:
    """Write a volume, replacing ``path`` only when the whole file is on disk.

    Args:
        path: its suffix names the format: .nii.gz, .nii, .nrrd or .mha.
        volume: float64 is written as float32.

    Raises:
        ReportError: the folder is missing or not writable, the disk full, the suffix unknown.
    """
    suffix = next((s for s in FORMATS if path.name.lower().endswith(s)), None)
    if suffix is None or suffix in (".nhdr", ".mhd"):
        raise ReportError(f"{path}: cannot be written; expected a name that ends in .nii.gz")
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial{suffix}")
    try:
        with _quiet():
            sitk.WriteImage(_to_image(volume), str(partial), useCompression=suffix != ".nii")
        partial.replace(path)
    except (OSError, RuntimeError) as error:
        raise ReportError(f"{path}: cannot be written; expected a writable folder") from error
    finally:
        partial.unlink(missing_ok=True)


def _to_image(volume: Volume) -> sitk.Image:
    voxels = volume.voxels
    if voxels.dtype in (np.float64, np.float16):
        voxels = voxels.astype(np.float32)
    image = sitk.GetImageFromArray(voxels.astype(np.uint8) if voxels.dtype == bool else voxels)
    spacing = np.array(volume.spacing_zyx_mm[::-1])
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(volume.affine[:3, 3].tolist())
    image.SetDirection((volume.affine[:3, 2::-1] / spacing).ravel().tolist())
    return image


def _affine(image: sitk.Image) -> Affine:
    affine = np.eye(4)
    direction = np.array(image.GetDirection()).reshape(3, 3)
    affine[:3, :3] = (direction * np.array(image.GetSpacing()))[:, ::-1]
    affine[:3, 3] = image.GetOrigin()
    return affine


def _load(path: Path) -> tuple[sitk.Image, Int[np.ndarray, " n"], tuple[str, ...]]:
    """Return a scalar 3D image, the flat positions of voxels without a value, and warnings."""
    if not path.is_file():
        raise InputError("no such file; expected a NIfTI, NRRD or MetaImage volume")
    header, absent = None, np.zeros(0, np.int64)
    if volume_format(path) == "nifti":
        header, absent = check_nifti(path)
    image = _read_image(path)
    while image.GetDimension() > 3 and image.GetSize()[-1] == 1:
        image = sitk.Extract(image, [*image.GetSize()[:-1], 0])
    size = " x ".join(map(str, image.GetSize()))
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise NotCTError(
            f"the image has {image.GetNumberOfComponentsPerPixel()} values a voxel; expected one"
        )
    if image.GetDimension() != 3:
        raise GeometryError(
            f"the image has {size} voxels; expected one 3D volume: split a series over time into "
            "files"
        )
    return image, absent, _doubts(image, header)


def _read_image(path: Path) -> sitk.Image:
    try:
        with _quiet(), permissive_axes():
            return sitk.ReadImage(str(path))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise InputError(f"the file is damaged or not what its name says ({reason})") from error


def _doubts(image: sitk.Image, header: NiftiHeader | None) -> tuple[str, ...]:
    if header is None:
        return ()
    if not header.has_orientation:
        return (
            "the header does not say how the axes lie in the patient: they were taken as left, "
            "posterior and superior",
        )
    if header.sform is None:
        return ()
    affine = _affine(image)
    sform = np.diag([-1.0, -1.0, 1.0]) @ header.sform
    corner = np.array([[0.0, 0, 0], [*image.GetSize()]])
    places = corner @ affine[:3, 2::-1].T + affine[:3, 3]
    apart = np.abs(places - (corner @ sform[:, :3].T + sform[:, 3])).max()
    if apart > min(image.GetSpacing()) / 2:
        return (f"qform and sform differ by up to {apart:.1f} mm: the qform was used",)
    return ()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep ITK from printing; what matters in its warnings is checked here."""
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)
