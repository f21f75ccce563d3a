"""Small CT series for tests: a patient of air, fat, muscle and bone, and ways to damage it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import gdcm
import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import UID, EnhancedCTImageStorage, generate_uid

from osteomet.errors import InputError
from osteomet.io.dicom_writer import write_ct_series
from osteomet.io.scan import Scan, read_scan
from osteomet.volume import Volume

PATIENT = "Doe^Jane"


def body(shape: tuple[int, int, int] = (8, 22, 18), seed: int = 0) -> Volume:
    """An axial patient: air around an ellipse of fat and muscle with a bone inside."""
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    radius = np.hypot(y / 0.9, x / 0.9)
    hounsfield = np.select(
        [np.hypot(y - 0.3, x) < 0.3, radius < 0.8, radius < 1], [700.0, 50, -100], -1000
    )
    noise = np.random.default_rng(seed).normal(0, 10, shape) + 20 * z
    voxels = np.clip(np.rint(hounsfield + noise), -1024, 3071).astype(np.int16)
    return Volume.from_spacing(voxels, (2.5, 0.75, 0.8), (-10.0, 20.0, -300.5))


def rotated(volume: Volume, degrees: tuple[float, float]) -> Volume:
    """The same voxels on a grid that is turned about z, then about x."""
    a, b = np.radians(degrees)
    about_z = [[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]]
    about_x = [[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]]
    affine = volume.affine.copy()
    affine[:3] = np.array(about_x) @ np.array(about_z) @ affine[:3]
    return Volume(volume.voxels, affine)


def transposed(volume: Volume, order: tuple[int, int, int]) -> Volume:
    """The same scan with its array axes in another order: sagittal or coronal slices."""
    affine = volume.affine.copy()
    affine[:3, :3] = volume.affine[:3, list(order)]
    return Volume(np.ascontiguousarray(volume.voxels.transpose(order)), affine)


def reversed_slices(volume: Volume) -> Volume:
    """The same scan, stacked from the other end."""
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, 0] * (volume.shape[0] - 1)
    affine[:3, 0] *= -1
    return Volume(volume.voxels[::-1].copy(), affine)


def linear_field(shape: tuple[int, int, int] = (9, 20, 16)) -> Volume:
    """HU that rise linearly in the world, so that linear interpolation is exact."""
    volume = Volume.from_spacing(np.zeros(shape), (2.0, 0.75, 0.8), (5.0, -4.0, 30.0))
    return volume.with_voxels(field_at(volume))


def field_at(volume: Volume) -> np.ndarray:
    """The values of the linear field at a volume's own voxel centres."""
    index = np.stack(np.meshgrid(*map(np.arange, volume.shape), indexing="ij"), axis=-1)
    world = volume.index_to_world(index.reshape(-1, 3).astype(float))
    return (world @ np.array([20.0, -10.0, 7.0]) - 300).reshape(volume.shape)


def write(folder: Path, volume: Volume | None = None, **options: str | UID) -> Path:
    """Write a series of a patient whose name must never show up in a message."""
    options = {"patient_id": PATIENT, **options}
    write_ct_series(body() if volume is None else volume, folder, **options)  # type: ignore[arg-type]
    return folder


def files_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.dcm"))


def edit(folder: Path, change: Callable[[Dataset, int], None], only: slice = slice(None)) -> Path:
    """Change the datasets of a series in place; ``change`` also gets the number of the slice."""
    for index, file in list(enumerate(files_of(folder)))[only]:
        dataset = dcmread(file)
        change(dataset, index)
        dataset.save_as(file)
    return folder


def set_stored(dataset: Dataset, stored: np.ndarray) -> None:
    """Replace the pixels of an uncompressed image by 16-bit stored values."""
    dataset.PixelData = stored.astype("<u2").tobytes()


def stored(dataset: Dataset) -> np.ndarray:
    kind = "<i2" if dataset.PixelRepresentation else "<u2"
    return np.frombuffer(dataset.PixelData, kind).reshape(dataset.Rows, dataset.Columns).copy()


def copy_series(folder: Path, target: Path, change: Callable[[Dataset, int], None]) -> Path:
    """Copy a series' files, as other images of the same series unless ``change`` says more."""
    target.mkdir(parents=True)
    for file in files_of(folder):
        shutil.copy(file, target)

    def renew(dataset: Dataset, index: int) -> None:
        uid = generate_uid(entropy_srcs=[target.name, str(index)])
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid
        change(dataset, index)

    return edit(target, renew)


def recompress(folder: Path, syntax: UID, *, lossy: bool = False) -> Path:
    """Encode a series with GDCM, for syntaxes that pydicom cannot write."""
    for file in files_of(folder):
        reader, changer, writer = (
            gdcm.ImageReader(),
            gdcm.ImageChangeTransferSyntax(),
            gdcm.ImageWriter(),
        )
        reader.SetFileName(str(file))
        assert reader.Read()
        changer.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(syntax)))
        changer.SetInput(reader.GetImage())
        if lossy:
            codec = gdcm.JPEG2000Codec()
            codec.SetRate(0, 4)
            codec.SetReversible(False)
            changer.SetUserCodec(codec)
        assert changer.Change()
        writer.SetFileName(str(file))
        writer.SetFile(reader.GetFile())
        writer.SetImage(changer.GetOutput())
        assert writer.Write()
    return folder


def enhanced(folder: Path, target: Path, *, share: tuple[str, ...] = ("orientation",)) -> Path:
    """Join the files of a classic series into one Enhanced CT file, in their order.

    ``share`` names the functional groups that move to the shared ones: orientation, rescale.
    """
    datasets = [dcmread(file) for file in files_of(folder)]
    joined = dcmread(files_of(folder)[0])
    joined.SOPClassUID = joined.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    joined.NumberOfFrames = len(datasets)
    joined.PixelData = b"".join(dataset.PixelData for dataset in datasets)
    for keyword in (*MEASURES, *ORIENTATION, *RESCALE, "ImagePositionPatient", "AcquisitionNumber"):
        delattr(joined, keyword)
    shared = Dataset()
    frames = []
    for dataset in datasets:
        frame = Dataset()
        frame.PlanePositionSequence = [_subset(dataset, ("ImagePositionPatient",))]
        frame.FrameContentSequence = [Dataset()]
        frame.FrameContentSequence[0].FrameAcquisitionNumber = dataset.AcquisitionNumber
        frame.CTImageFrameTypeSequence = [Dataset()]
        frame.CTImageFrameTypeSequence[0].FrameType = dataset.ImageType
        item = shared if "orientation" in share else frame
        item.PlaneOrientationSequence = [_subset(dataset, ORIENTATION)]
        item.PixelMeasuresSequence = [_subset(dataset, MEASURES)]
        item = shared if "rescale" in share else frame
        item.PixelValueTransformationSequence = [_subset(dataset, RESCALE)]
        frames.append(frame)
    joined.SharedFunctionalGroupsSequence = [shared]
    joined.PerFrameFunctionalGroupsSequence = frames
    target.mkdir(parents=True, exist_ok=True)
    joined.save_as(target / "enhanced.dcm")
    return target / "enhanced.dcm"


MEASURES = ("PixelSpacing", "SliceThickness")
ORIENTATION = ("ImageOrientationPatient",)
RESCALE = ("RescaleSlope", "RescaleIntercept", "RescaleType")


def _subset(dataset: Dataset, keywords: tuple[str, ...]) -> Dataset:
    subset = Dataset()
    for keyword in keywords:
        setattr(subset, keyword, dataset[keyword].value)
    return subset


def assert_same_scan(one: Volume, other: Volume) -> None:
    """The same voxels at the same places, whatever the order of the axes."""
    one, other = one.closest_lps(), other.closest_lps()
    assert one.voxels.dtype == other.voxels.dtype
    np.testing.assert_array_equal(one.voxels, other.voxels)
    np.testing.assert_allclose(one.affine, other.affine, atol=2e-4)


def refused(path: Path, kind: type[InputError], *words: str, uid: str | None = None) -> str:
    """Assert that reading fails with one line that has these words and not the patient's name."""
    with pytest.raises(kind) as caught:
        read_scan(path, uid)
    message = str(caught.value)
    assert type(caught.value) is kind
    for word in words:
        assert word in message, message
    assert message.startswith(str(path)), message
    assert "\n" not in message
    assert not any(part in message for part in PATIENT.split("^")), message
    return message


def warned(scan: Scan, *words: str) -> None:
    """Assert that one of the warnings has all these words, and none the patient's name."""
    assert any(all(word in text for word in words) for text in scan.warnings), scan.warnings
    assert not any(part in str(scan.warnings) for part in PATIENT.split("^"))
