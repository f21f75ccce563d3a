"""From stored pixels to Hounsfield units, one plane at a time.

Decoders: pydicom for uncompressed, deflated and RLE, GDCM for JPEG, JPEG-LS and JPEG 2000.
"""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from io import BufferedIOBase
from itertools import groupby
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Integer, Num
from pydicom import dcmread
from pydicom.pixels.utils import iter_pixels
from scipy import ndimage

from osteomet.ahead import map_ahead
from osteomet.errors import InputError
from osteomet.io.dicom_files import DicomFile
from osteomet.io.dicom_headers import Frame, read_dataset
from osteomet.io.hounsfield import AIR_HU
from osteomet.io.slice_geometry import StackGeometry

Plane = Num[np.ndarray, "y x"]
Stored = Integer[np.ndarray, "y x"]

READERS = 4
"""Threads that read and decode; most of the gain is in waiting for disks and networks."""

TISSUE_FROM_HU = -900
"""Padding above this looks like tissue, and counts as padding only at the image's border."""


def hounsfield_planes(frames: list[Frame]) -> Iterator[Plane]:
    """Yield the images in HU, in order, as ``to_hounsfield`` makes them.

    Raises:
        InputError: an image is truncated, damaged or in a compression that is not supported.
    """
    yield from _planes(frames, to_hounsfield)


def stored_planes(frames: list[Frame]) -> Iterator[Stored]:
    """Yield the images as they are stored, in order.

    Raises:
        InputError: as ``hounsfield_planes``.
    """
    yield from _planes(frames, lambda stored, _: stored)


def to_hounsfield(stored: Stored, frame: Frame) -> Plane:
    """Apply slope and intercept (PS3.3 C.11.1.1.2) and turn padding into air.

    Returns:
        Where slope and intercept are whole int16, or int32 where that cannot hold a value; else
        float32.
    """
    slope = 1.0 if frame.slope is None else frame.slope
    intercept = 0.0 if frame.intercept is None else frame.intercept
    hounsfield: Plane
    if slope.is_integer() and intercept.is_integer():
        hounsfield = whole_hounsfield(stored, int(slope), int(intercept))
    else:
        hounsfield = (stored * slope + intercept).astype(np.float32)
    if frame.padding is not None:
        low, high = frame.padding
        padding = (stored >= low) & (stored <= high)
        if high * slope + intercept > TISSUE_FROM_HU:
            # A padding value of 0 HU, say, is also water: only what touches the border is padding.
            padding = ndimage.binary_propagation(_border(padding), mask=padding)
        hounsfield[padding] = AIR_HU
    return hounsfield


def whole_hounsfield(stored: Stored, slope: int, intercept: int) -> Plane:
    """Return ``stored * slope + intercept``."""
    limits = np.iinfo(np.int16)
    ends = [int(end) * slope + intercept for end in (stored.min(), stored.max())]
    kind = np.int16 if limits.min <= min(ends) and max(ends) <= limits.max else np.int32
    # What overflows on the way comes back: these are sums modulo a power of 2, and the last fits.
    hounsfield: Plane = stored.astype(kind)
    if slope != 1:
        hounsfield *= np.array(slope).astype(kind)
    hounsfield += np.array(intercept).astype(kind)
    return hounsfield


def fill_grid(planes: Iterator[Plane], geometry: StackGeometry) -> Num[np.ndarray, "z y x"]:
    """Return the planes on their grid; holds few planes besides the result.

    The result is int16, or float32 from the first plane on that int16 cannot hold.
    """
    if geometry.shift is not None:
        planes = _moved(planes, geometry.shift, geometry.shape_zyx[1:])
    voxels: Num[np.ndarray, "z y x"] = np.empty(geometry.shape_zyx, np.int16)
    for k, plane in enumerate(_between(planes, geometry.source)):
        if voxels.dtype == np.int16 and not _fits_int16(plane):
            voxels = voxels.astype(np.float32)
        voxels[k] = plane
    return voxels


def undo_inversion(frames: list[Frame]) -> tuple[list[Frame], tuple[str, ...]]:
    """Return images whose rescale gives HU although their display is inverted, and warnings.

    MONOCHROME1 says how to display stored values, not what they mean (PS3.3 C.7.6.3.1.2), so
    slope and intercept hold as they are. Some exporters invert the stored values too. Then
    air is bright, which shows.
    """
    if not any(frame.inverted_display for frame in frames):
        return frames, ()
    inverted = [_inverted(frame) for frame in frames]
    probes = range(len(frames) // 4, len(frames), max(len(frames) // 4, 1))
    straight_share = inverted_share = 0.0
    stored = stored_planes([frames[k] for k in probes])
    for k, plane in zip(probes, stored, strict=True):
        straight_share += _share_like_tissue(to_hounsfield(plane, frames[k]))
        inverted_share += _share_like_tissue(to_hounsfield(plane, inverted[k]))
    if inverted_share <= straight_share:
        return frames, (
            "the display is inverted (MONOCHROME1): HU follow from the rescale as usual",
        )
    return inverted, ("the stored values are inverted (MONOCHROME1): turned back before rescaling",)


def _inverted(frame: Frame) -> Frame:
    """Return the same image with a rescale that first mirrors the range of stored values."""
    slope = 1.0 if frame.slope is None else frame.slope
    intercept = 0.0 if frame.intercept is None else frame.intercept
    mirror = -1 if frame.is_signed else 2**frame.bits_stored - 1
    return replace(frame, slope=-slope, intercept=intercept + slope * mirror)


def _share_like_tissue(plane: Plane) -> float:
    air = (plane > -1100) & (plane < -850)
    soft = (plane > -200) & (plane < 200)
    return float(air.mean() + soft.mean())


def _planes(frames: list[Frame], turn: Callable[[Stored, Frame], Plane]) -> Iterator[Plane]:
    if all(frame.index == 0 for frame in frames):
        yield from map_ahead(partial(_plane, turn), frames, READERS)
        return
    for _, run in groupby(frames, key=lambda frame: frame.file.name):
        same_file = list(run)
        for frame, stored in zip(same_file, _decode_frames(same_file), strict=True):
            yield turn(stored, frame)


def _plane(turn: Callable[[Stored, Frame], Plane], frame: Frame) -> Plane:
    return turn(next(_decode_frames([frame])), frame)


def _decode_frames(frames: list[Frame]) -> Iterator[Stored]:
    """Yield frames of one file; of a multi-frame file one frame at a time is in memory."""
    file, indices = frames[0].file, [frame.index for frame in frames]
    try:
        with file.open() as stream:
            source = _pixel_source(file, stream, is_multiframe=indices != [0])
            planes: Any = iter_pixels(source, indices=indices, raw=True)
            with closing(planes):
                for frame, plane in zip(frames, planes, strict=True):
                    if plane.shape != frame.shape:
                        raise ValueError(f"shape {plane.shape} instead of {frame.shape}")
                    yield plane
    except Exception as error:  # decoders raise what they like on damaged data
        raise _undecodable(frames[0], error) from error


def _undecodable(frame: Frame, error: Exception) -> InputError:
    if isinstance(error, NotImplementedError) or "missing dependencies" in str(error):
        return InputError(
            f"{frame.file.name}: is compressed in a way that is not supported; expected JPEG, "
            "JPEG-LS, JPEG 2000, RLE or no compression: convert the series"
        )
    rows, columns = frame.shape
    return InputError(
        f"{frame.file.name}: its pixels cannot be decoded; expected {rows} x {columns} pixels: the "
        "file is truncated or damaged, send it again"
    )


def _pixel_source(file: DicomFile, stream: BufferedIOBase, *, is_multiframe: bool) -> Any:
    """Return what pydicom should decode: of a large file the stream itself, not its content."""
    if is_multiframe and file.is_on_disk:
        header = dcmread(stream, stop_before_pixels=True, specific_tags=[])
        if not header.file_meta.TransferSyntaxUID.is_deflated:
            return stream
        stream.seek(0)
    return read_dataset(stream)


def _between(planes: Iterator[Plane], source: Float[np.ndarray, " z"]) -> Iterator[Plane]:
    """Yield planes at rising fractional slice numbers, interpolated linearly."""
    k, lower = 0, next(planes)
    upper = next(planes, lower)
    for position in source.tolist():
        while position > k + 1:
            k, lower, upper = k + 1, upper, next(planes, upper)
        fraction = position - k
        if fraction == 0:
            yield lower
        elif fraction == 1:
            yield upper
        else:
            yield _like(lower, (1 - fraction) * lower + fraction * upper)


def _moved(
    planes: Iterator[Plane], shift: Float[np.ndarray, "n 2"], shape: tuple[int, int]
) -> Iterator[Plane]:
    """Yield planes moved within themselves; linear, so that no value leaves the HU range."""
    rows, columns = shape
    for plane, (down, right) in zip(planes, shift.tolist(), strict=True):
        canvas = np.full((rows + 1, columns + 1), AIR_HU, np.float32)
        top, left = int(down), int(right)
        canvas[top : top + plane.shape[0], left : left + plane.shape[1]] = plane
        moved = ndimage.shift(canvas, (down - top, right - left), order=1, cval=AIR_HU)
        yield _like(plane, moved[:rows, :columns])


def _like(plane: Plane, values: Num[np.ndarray, "rows columns"]) -> Num[np.ndarray, "rows columns"]:
    return np.rint(values).astype(plane.dtype) if plane.dtype.kind == "i" else values


def _fits_int16(plane: Plane) -> bool:
    limits = np.iinfo(np.int16)
    return plane.dtype == np.int16 or (
        plane.dtype.kind == "i" and bool(plane.min() >= limits.min and plane.max() <= limits.max)
    )


def _border(mask: Bool[np.ndarray, "y x"]) -> Bool[np.ndarray, "y x"]:
    border = np.zeros_like(mask)
    border[[0, -1]], border[:, [0, -1]] = mask[[0, -1]], mask[:, [0, -1]]
    return border
