"""A prediction holds the scan, and little more however long it is."""

import tracemalloc
from pathlib import Path

import numpy as np
from blobs import BONE_HU, LESION_HU, TISSUE_HU, BlobFinder, blob_weights, scan_of

from osteomet.inference.outputs import write_results
from osteomet.inference.pipeline import Predictor
from osteomet.io.scan_record import Scan
from osteomet.volume import Volume

SIDE, SPACING_MM = 96, 1.5


def long_scan(slices: int) -> Scan:
    """Return tissue with a rod of bone along z and five lesions in it."""
    hu = np.full((slices, SIDE, SIDE), TISSUE_HU, np.int16)
    hu[:, 40:56, 40:56] = BONE_HU
    for z in range(30, 300, 60):
        hu[z - 4 : z + 4, 44:52, 44:52] = LESION_HU
    return scan_of(Volume.from_spacing(hu, (SPACING_MM,) * 3))


def peak_beyond_the_scan(slices: int, out: Path) -> tuple[int, int]:
    """Return the bytes that NumPy and Python held at most, without the scan, and the lesions."""
    predictor = Predictor(blob_weights(), device="cpu", detector=BlobFinder())
    scan = long_scan(slices)
    tracemalloc.start()
    try:
        prediction = predictor.predict(scan, scan_id=str(slices))
        write_results(prediction, out)
        return tracemalloc.get_traced_memory()[1], len(prediction.findings.lesions)
    finally:
        tracemalloc.stop()


def test_memory_beyond_the_scan_stays(tmp_path: Path) -> None:
    peak_beyond_the_scan(120, tmp_path)  # imports and compiles
    short, few = peak_beyond_the_scan(300, tmp_path)
    long, many = peak_beyond_the_scan(1200, tmp_path)
    assert (few, many) == (5, 5)
    more = 900 * SIDE**2 * np.dtype(np.int16).itemsize
    # On the model's grid it would be 3.4 times as much, and a label map half of it.
    assert long - short < 0.15 * more
