"""Stored pixels become the HU that were meant, in every compression and every odd header."""

from pathlib import Path

import numpy as np
import pytest
from ct_series import (
    body,
    edit,
    files_of,
    recompress,
    refused,
    set_stored,
    stored,
    warned,
    write,
)
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    MPEG2MPML,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from osteomet.errors import InputError, NotCTError
from osteomet.io.pixels import whole_hounsfield
from osteomet.io.scan import read_scan


@pytest.mark.parametrize(
    "syntax",
    [RLELossless, JPEGLSLossless, DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian],
)
def test_lossless_syntaxes_of_the_writer(tmp_path: Path, syntax: UID) -> None:
    folder = write(tmp_path / "ct", transfer_syntax=syntax)
    assert dcmread(files_of(folder)[0]).file_meta.TransferSyntaxUID == syntax
    np.testing.assert_array_equal(read_scan(folder).volume.voxels, body().voxels)


@pytest.mark.parametrize("syntax", [JPEGLosslessSV1, JPEGLossless, JPEG2000Lossless])
@pytest.mark.parametrize("is_signed", [False, True])
def test_lossless_syntaxes_of_gdcm(tmp_path: Path, syntax: UID, is_signed: bool) -> None:
    folder = write(tmp_path / "ct")
    if is_signed:
        edit(folder, make_signed)
    recompress(folder, syntax)
    assert dcmread(files_of(folder)[0]).file_meta.TransferSyntaxUID == syntax
    np.testing.assert_array_equal(read_scan(folder).volume.voxels, body().voxels)


def make_signed(dataset: Dataset, index: int) -> None:
    values = stored(dataset).astype(int) + int(dataset.RescaleIntercept)
    dataset.PixelRepresentation, dataset.RescaleIntercept = 1, 0
    set_stored(dataset, values.astype("<i2").view("<u2"))


def test_lossy_jpeg_2000_is_close(tmp_path: Path) -> None:
    folder = recompress(write(tmp_path / "ct", body((4, 64, 64))), JPEG2000, lossy=True)
    assert (
        dcmread(files_of(folder)[0]).file_meta.TransferSyntaxUID.name
        == "JPEG 2000 Image Compression"
    )
    difference = read_scan(folder).volume.voxels - body((4, 64, 64)).voxels
    assert 0 < np.abs(difference).mean() < 20


def test_near_lossless_jpeg_ls_is_close(tmp_path: Path) -> None:
    folder = write(tmp_path / "ct")

    def compress(dataset: Dataset, index: int) -> None:
        dataset.compress(JPEGLSNearLossless, jls_error=3, generate_instance_uid=False)

    difference = read_scan(edit(folder, compress)).volume.voxels - body().voxels
    assert 0 < np.abs(difference).max() <= 3


def test_big_endian(tmp_path: Path) -> None:
    folder = write(tmp_path / "ct")
    for file in files_of(folder):
        dataset = dcmread(file)
        dataset.PixelData = stored(dataset).astype(">u2").tobytes()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
        list(dataset.iterall())  # parsed now, or little-endian bytes are written as they are
        dcmwrite(file, dataset, implicit_vr=False, little_endian=False)
    np.testing.assert_array_equal(read_scan(folder).volume.voxels, body().voxels)


@pytest.mark.parametrize("syntax", [MPEG2MPML, HTJ2KLossless])
def test_unsupported_compression_is_named(tmp_path: Path, syntax: UID) -> None:
    def pretend(dataset: Dataset, index: int) -> None:
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.PixelData = encapsulate([bytes(64)])

    refused(edit(write(tmp_path / "ct"), pretend), InputError, "0001.dcm", "not supported", "RLE")


def test_slope_and_intercept_of_each_slice(tmp_path: Path) -> None:
    def rescale(dataset: Dataset, index: int) -> None:
        values = stored(dataset).astype(int) + int(dataset.RescaleIntercept)
        intercept = -1024 - 100 * index
        dataset.RescaleIntercept = intercept
        dataset.RescaleSlope = 1 + index % 2
        set_stored(dataset, (values - intercept) // (1 + index % 2))

    scan = read_scan(edit(write(tmp_path / "ct"), rescale))
    assert scan.volume.voxels.dtype == np.int16
    difference = body().voxels - scan.volume.voxels
    assert (difference[::2] == 0).all()
    assert set(np.unique(difference[1::2])) == {0, 1}


def test_fractional_slope_gives_float_hu(tmp_path: Path) -> None:
    def rescale(dataset: Dataset, index: int) -> None:
        dataset.RescaleSlope = "0.5"
        dataset.RescaleIntercept = "-1023.75"

    scan = read_scan(edit(write(tmp_path / "ct"), rescale))
    assert scan.volume.voxels.dtype == np.float32
    np.testing.assert_array_equal(scan.volume.voxels, (body().voxels + 1024.0) / 2 - 1023.75)


def test_one_fractional_slice_promotes_the_volume(tmp_path: Path) -> None:
    def rescale(dataset: Dataset, index: int) -> None:
        dataset.RescaleIntercept = "-1023.5"

    scan = read_scan(edit(write(tmp_path / "ct"), rescale, slice(3, 4)))
    assert scan.volume.voxels.dtype == np.float32
    np.testing.assert_array_equal(scan.volume.voxels[3], body().voxels[3] + 0.5)
    np.testing.assert_array_equal(scan.volume.voxels[2], body().voxels[2])


def test_float_rescale_to_whole_hu_gives_int16(tmp_path: Path) -> None:
    def rescale(dataset: Dataset, index: int) -> None:
        values = stored(dataset)
        dataset.RescaleSlope = "0.5"
        set_stored(dataset, values * 2)

    scan = read_scan(edit(write(tmp_path / "ct"), rescale))
    assert scan.volume.voxels.dtype == np.int16
    np.testing.assert_array_equal(scan.volume.voxels, body().voxels)


def test_values_beyond_16_bits_do_not_wrap(tmp_path: Path) -> None:
    def brighten(dataset: Dataset, index: int) -> None:
        values = stored(dataset)
        values[5, 5] = 65535
        set_stored(dataset, values)

    scan = read_scan(edit(write(tmp_path / "ct"), brighten, slice(2, 3)))
    assert scan.volume.voxels.dtype == np.float32
    assert scan.volume.voxels[2, 5, 5] == 64511
    warned(scan, "64511 HU", "wrapped")
    np.testing.assert_array_equal(scan.volume.voxels[3], body().voxels[3])


def test_garbage_above_the_stored_bits_is_ignored(tmp_path: Path) -> None:
    def dirty(dataset: Dataset, index: int) -> None:
        dataset.BitsStored, dataset.HighBit = 12, 11
        set_stored(dataset, stored(dataset) | np.uint16(0xA000))

    scan = read_scan(edit(write(tmp_path / "ct"), dirty))
    np.testing.assert_array_equal(scan.volume.voxels, body().voxels)


def test_signed_12_bits(tmp_path: Path) -> None:
    def narrow(dataset: Dataset, index: int) -> None:
        make_signed(dataset, index)
        dataset.BitsStored, dataset.HighBit = 12, 11
        set_stored(dataset, stored(dataset).view(np.uint16) & np.uint16(0x0FFF))

    scan = read_scan(edit(write(tmp_path / "ct"), narrow))
    np.testing.assert_array_equal(scan.volume.voxels, body().voxels)


@pytest.mark.parametrize("written", [-2000, 63536])
def test_padding_becomes_air_whatever_sign_its_value_has(tmp_path: Path, written: int) -> None:
    def pad(dataset: Dataset, index: int) -> None:
        make_signed(dataset, index)
        values = stored(dataset)
        values[:3], values[10, 9] = -2000, -2000
        set_stored(dataset, values.view(np.uint16))
        dataset.add_new("PixelPaddingValue", "SS" if written < 0 else "US", written)

    scan = read_scan(edit(write(tmp_path / "ct", body((12, 22, 18))), pad))
    expected = body((12, 22, 18)).voxels.copy()
    expected[:, :3], expected[:, 10, 9] = -1024, -1024
    np.testing.assert_array_equal(scan.volume.voxels, expected)
    assert scan.warnings == ()


def test_a_range_of_padding(tmp_path: Path) -> None:
    def pad(dataset: Dataset, index: int) -> None:
        values = stored(dataset)
        values[:, 0], values[:, 1], values[:, 2] = 0, 7, 11
        set_stored(dataset, values)
        dataset.RescaleIntercept = -1000
        dataset.add_new("PixelPaddingValue", "US", 10)
        dataset.add_new("PixelPaddingRangeLimit", "US", 0)

    voxels = read_scan(edit(write(tmp_path / "ct"), pad)).volume.voxels
    assert (voxels[:, :, :2] == -1024).all()
    assert (voxels[:, :, 2] == -989).all()


def test_padding_that_is_also_tissue_counts_at_the_border_only(tmp_path: Path) -> None:
    def pad(dataset: Dataset, index: int) -> None:
        make_signed(dataset, index)
        values = stored(dataset)
        values[:2], values[11, 9] = 0, 0
        set_stored(dataset, values.view(np.uint16))
        dataset.add_new("PixelPaddingValue", "SS", 0)

    voxels = read_scan(edit(write(tmp_path / "ct"), pad)).volume.voxels
    assert (voxels[:, :2] == -1024).all()
    assert (voxels[:, 11, 9] == 0).all()


def test_low_values_without_a_padding_tag_are_padding_too(tmp_path: Path) -> None:
    def pad(dataset: Dataset, index: int) -> None:
        make_signed(dataset, index)
        values = stored(dataset)
        values[:11] = -3024
        set_stored(dataset, values.view(np.uint16))

    scan = read_scan(edit(write(tmp_path / "ct"), pad))
    assert (scan.volume.voxels[:, :11] == -1024).all()
    warned(scan, "50 %", "-1500", "padding")


def test_an_inverted_display_changes_nothing(tmp_path: Path) -> None:
    def invert(dataset: Dataset, index: int) -> None:
        dataset.PhotometricInterpretation = "MONOCHROME1"

    scan = read_scan(edit(write(tmp_path / "ct"), invert))
    np.testing.assert_array_equal(scan.volume.voxels, body().voxels)
    warned(scan, "MONOCHROME1", "as usual")


@pytest.mark.parametrize("is_signed", [False, True])
def test_inverted_values_are_turned_back(tmp_path: Path, is_signed: bool) -> None:
    def invert(dataset: Dataset, index: int) -> None:
        if is_signed:
            make_signed(dataset, index)
        else:
            dataset.BitsStored, dataset.HighBit = 12, 11
        dataset.PhotometricInterpretation = "MONOCHROME1"
        mirrored = -1 - stored(dataset) if is_signed else 4095 - stored(dataset)
        set_stored(dataset, mirrored.view(np.uint16))

    scan = read_scan(edit(write(tmp_path / "ct"), invert))
    np.testing.assert_array_equal(scan.volume.voxels, body().voxels)
    warned(scan, "MONOCHROME1", "turned back")


def test_missing_rescale_of_signed_hu_is_a_warning(tmp_path: Path) -> None:
    def strip(dataset: Dataset, index: int) -> None:
        make_signed(dataset, index)
        del dataset.RescaleSlope, dataset.RescaleIntercept

    scan = read_scan(edit(write(tmp_path / "ct"), strip))
    np.testing.assert_array_equal(scan.volume.voxels, body().voxels)
    warned(scan, "8 of 8 images lack RescaleSlope")


def test_missing_rescale_that_leaves_no_hu_is_refused(tmp_path: Path) -> None:
    def strip(dataset: Dataset, index: int) -> None:
        del dataset.RescaleSlope, dataset.RescaleIntercept

    refused(edit(write(tmp_path / "ct"), strip), NotCTError, "intercept", "Hounsfield")


def test_pixels_of_another_size_are_refused(tmp_path: Path) -> None:
    def grow(dataset: Dataset, index: int) -> None:
        dataset.Rows = 23

    refused(edit(write(tmp_path / "ct"), grow), InputError, "0001.dcm", "23 x 18")


@pytest.mark.parametrize(
    ("kind", "low", "high"), [(np.uint16, 0, 65535), (np.int16, -32768, 32767)]
)
@pytest.mark.parametrize("slope", [1, 2, -1])
@pytest.mark.parametrize("intercept", [0, -1024, -32768, 40000])
@pytest.mark.parametrize("share", [1.0, 0.3])
def test_whole_hu_are_exact_in_the_narrower_type_that_holds_them(
    kind: type, low: int, high: int, slope: int, intercept: int, share: float
) -> None:
    middle, half = (low + high) // 2, (high - low) // 2
    values = np.linspace(middle - share * half, middle + share * half, 900).round()
    pixels = values.astype(kind).reshape(30, 30)
    expected = pixels.astype(np.int64) * slope + intercept
    found = whole_hounsfield(pixels, slope, intercept)
    assert np.array_equal(found, expected)
    narrow = expected.min() >= -32768 and expected.max() <= 32767
    assert found.dtype == (np.int16 if narrow else np.int32)
