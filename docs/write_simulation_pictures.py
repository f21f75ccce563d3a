"""Draw simulated patients of every region: `python docs/write_simulation_pictures.py`.

Writes one PNG per region into `docs/pictures/`: axial, coronal and sagittal plane through the
middle, above in a bone window (level 400, width 1800 HU), below in a soft-tissue window (40,
400). The whole trunk is drawn at 2 mm, for a small file.
"""

import dataclasses
from pathlib import Path

import numpy as np
from PIL import Image

from osteomet.simulate.anatomy import Region
from osteomet.simulate.patient import simulate_patient
from osteomet.simulate.phantom import draw_phantom
from osteomet.simulate.scanner import draw_protocol, scan
from osteomet.simulate.settings import SimulationConfig

FOLDER = Path(__file__).parent / "pictures"
WINDOWS_HU = ((400, 1800), (40, 400))
GREYS = 32
"""Few enough for small files, more than noise lets an eye tell apart."""

SEEDS = {
    Region.THORACIC: 23, Region.LUMBAR: 24, Region.PELVIS: 22, Region.SHOULDER: 23,
    Region.FEMUR: 26,
}  # fmt: skip
GAP = 3


def planes(voxels: np.ndarray, spacing: np.ndarray, pixel_mm: float) -> list[np.ndarray]:
    """Return axial, coronal and sagittal plane with square pixels, head up."""
    z, y, x = (n // 2 for n in voxels.shape)
    dz, dy, dx = spacing
    cuts = ((voxels[z], dy, dx), (voxels[::-1, y], dz, dx), (voxels[::-1, :, x], dz, dy))
    images = []
    for cut, height, width in cuts:
        size = (round(cut.shape[1] * width / pixel_mm), round(cut.shape[0] * height / pixel_mm))
        image = Image.fromarray(cut.astype(np.float32))
        images.append(np.asarray(image.resize(size, Image.Resampling.BICUBIC)))
    return images


def write(name: str, images: list[np.ndarray]) -> None:
    """Write planes side by side, one row for each window."""
    rows, tallest = [], max(len(image) for image in images)
    for level, width in WINDOWS_HU:
        grey = [np.clip((image - level) / width + 0.5, 0, 1) for image in images]
        padded = [np.pad(one, ((0, tallest - len(one)), (0, GAP))) for one in grey]
        rows.append(np.pad(np.concatenate(padded, axis=1), ((0, GAP), (0, 0))))
    levels = np.rint(np.concatenate(rows) * (GREYS - 1)).astype(np.uint8)
    picture = Image.fromarray(levels, mode="P")
    ramp = np.rint(np.linspace(0, 255, GREYS)).astype(int)
    picture.putpalette(np.repeat(ramp, 3).tolist())
    path = FOLDER / f"{name}.png"
    picture.save(path, optimize=True)


def trunk() -> None:
    """Draw the whole trunk, coronal through two depths and sagittal."""
    rng = np.random.default_rng(6)
    config = SimulationConfig()
    thin = dataclasses.replace(
        draw_protocol(rng, config, "A"), spacing_zyx_mm=(2.0, 2.0, 2.0), substeps=1,
        shape_zyx=(350, 198, 204), contrast_hu=110.0, thickness_mm=2.0,
    )  # fmt: skip
    phantom = draw_phantom(rng, config, thin, 62, Region.TRUNK)
    voxels = scan(rng, thin, phantom.hu, 1.0)
    lumbar, thoracic = voxels[::-1, 105], voxels[::-1, 115]
    images = [np.asarray(cut, np.float32) for cut in (lumbar, thoracic, voxels[::-1, :, 102])]
    write("trunk", images)


def main() -> None:
    """Draw all regions."""
    FOLDER.mkdir(exist_ok=True)
    for region, seed in SEEDS.items():
        patient = simulate_patient(seed, SimulationConfig(region=region.value))
        spacing = np.array(patient.volume.spacing_zyx_mm)
        write(region.value, planes(patient.volume.voxels, spacing, 0.7))
    trunk()


if __name__ == "__main__":
    main()
