"""Draw simulated metastases and mimics: `python docs/write_simulated_findings.py`.

Writes `simulated_findings.jpg` beside it: each finding in three planes, in a bone window. The
upper rows are metastases, outlined; the lower rows are what must not be called.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from osteomet.simulate.anatomy import Region
from osteomet.simulate.benign import PAINTERS
from osteomet.simulate.bones import Part
from osteomet.simulate.fractures import collapse_body
from osteomet.simulate.implants import add_cement, add_implant
from osteomet.simulate.lesions import grow_blob
from osteomet.simulate.metastases import add_metastasis
from osteomet.simulate.phantom import Phantom, draw_phantom
from osteomet.simulate.primaries import Appearance, LesionType
from osteomet.simulate.scanner import Protocol, draw_protocol, scan
from osteomet.simulate.settings import SimulationConfig

HALF_MM, PIXELS, COLUMNS = 42.0, 150, 6
WINDOW_HU = (-250.0, 1050.0)
CONFIG = SimulationConfig(field_mm=(112.0, 118.0))
AGE = 66
THIN_MM = 1.25


@dataclass(frozen=True, eq=False)
class Picture:
    """A scan, a point in it, and the finding's outline (none for a mimic)."""

    title: str
    voxels: np.ndarray
    mask: np.ndarray
    middle: np.ndarray
    spacing: tuple[float, float, float]

    def tiles(self) -> list[Image.Image]:
        """Return the axial, coronal and sagittal plane through the point."""
        centre, reach = self.middle.astype(float), HALF_MM / np.array(self.spacing)
        images = []
        for axis in range(3):
            rows, columns = (k for k in range(3) if k != axis)
            grid = np.empty((3, PIXELS, PIXELS))
            steps = np.linspace(-1, 1, PIXELS)
            grid[axis] = centre[axis]
            up = -steps if rows == 0 else steps
            grid[rows] = (centre[rows] + up * reach[rows])[:, None]
            grid[columns] = (centre[columns] + steps * reach[columns])[None]
            hu = ndimage.map_coordinates(self.voxels, grid, order=1, cval=-1024.0)
            inside = ndimage.map_coordinates(self.mask.astype(float), grid, order=1) > 0.5
            low, high = WINDOW_HU
            grey = np.clip((hu - low) / (high - low) * 255, 0, 255).astype(np.uint8)
            colour = np.repeat(grey[..., None], 3, axis=2)
            colour[inside & ~ndimage.binary_erosion(inside)] = (230, 200, 40)
            images.append(Image.fromarray(colour))
        ImageDraw.Draw(images[0]).text((4, 2), self.title, fill=(120, 220, 240))
        return images


def patient(seed: int, region: Region) -> tuple[np.random.Generator, Protocol, Phantom]:
    """Return a patient without findings, and the stream that goes on."""
    rng = np.random.default_rng(seed)
    protocols = (draw_protocol(rng, CONFIG, "A") for _ in range(100))
    protocol = next(one for one in protocols if one.spacing_zyx_mm[0] <= THIN_MM)
    return rng, protocol, draw_phantom(rng, CONFIG, protocol, AGE, region)


def metastases() -> Iterator[Picture]:
    """Yield one picture for each kind of metastasis."""
    wanted = [
        ("lytic", Region.LUMBAR, Part.BODY, LesionType.LYTIC, "", 17.0, 10.0),
        ("lytic, expansile", Region.THORACIC, Part.RIB, LesionType.LYTIC, "expansile", 24.0, 0.6),
        ("lytic, cortical", Region.PELVIS, Part.ILIUM, LesionType.LYTIC, "cortical", 18.0, 3.0),
        ("mixed", Region.THORACIC, Part.BODY, LesionType.MIXED, "", 19.0, 10.0),
        ("sclerotic", Region.PELVIS, Part.SACRUM, LesionType.SCLEROTIC, "", 22.0, 12.0),
        ("lytic, collapsed", Region.LUMBAR, Part.BODY, LesionType.LYTIC, "", 24.0, 6.0),
    ]
    for seed, (title, region, part, kind, sign, diameter, stiffness) in enumerate(wanted):
        rng, protocol, phantom = patient(100 + seed, region)
        depth = (-0.5, 2.0) if sign == "cortical" else (1.2, 99.0)
        blob = grow_blob(
            rng, phantom, diameter, stiffness=stiffness, depth_mm=depth,
            places={**dict.fromkeys(Part, 0.0), part: 1.0},
        )  # fmt: skip
        if blob is None:
            continue
        look = Appearance(kind, expansile=sign == "expansile", cortical=sign == "cortical")
        add_metastasis(rng, phantom, blob, look)
        if "collapsed" in title:
            collapse_body(rng, phantom, blob.centre, 0.35, [blob], fresh=True)
        mask = np.zeros(phantom.hu.shape, bool)
        mask[blob.window] = blob.inward > 0
        yield _picture(title, rng, protocol, phantom, mask, outlined=True)


def mimics() -> Iterator[Picture]:
    """Yield one picture for each of some mimics."""
    wanted: list[tuple[str, Region, Callable[[np.random.Generator, Phantom], object]]] = [
        ("bone island", Region.PELVIS, PAINTERS["bone island"]),
        ("Schmorl node", Region.LUMBAR, PAINTERS["Schmorl node"]),
        ("screws", Region.LUMBAR, lambda rng, phantom: add_implant(rng, phantom, AGE)),
        ("osteoporotic collapse", Region.THORACIC, _collapse),
        ("cement", Region.LUMBAR, add_cement),
        ("haemangioma", Region.LUMBAR, PAINTERS["haemangioma"]),
    ]
    for seed, (title, region, add) in enumerate(wanted):
        rng, protocol, phantom = patient(300 + seed, region)
        before = phantom.hu.copy()
        add(rng, phantom)
        changed = np.abs(phantom.hu - before) > 60
        if changed.any():
            yield _picture(title, rng, protocol, phantom, changed, outlined=False)


def _collapse(rng: np.random.Generator, phantom: Phantom) -> None:
    bodies = np.argwhere((phantom.part == Part.BODY) & (phantom.bone < -6))
    for centre in rng.permutation(bodies)[:200]:
        if collapse_body(rng, phantom, centre, 0.4, [], fresh=True):
            return


def _picture(
    title: str,
    rng: np.random.Generator,
    protocol: Protocol,
    phantom: Phantom,
    mask: np.ndarray,
    *,
    outlined: bool,
) -> Picture:
    voxels = scan(rng, protocol, phantom.hu, CONFIG.noise_scale)
    own = mask.reshape(-1, protocol.substeps, *mask.shape[1:]).mean(axis=1) > 0.5
    own = own if own.any() else mask[:: protocol.substeps]
    places = np.argwhere(own)
    middle = places[((places - places.mean(axis=0)) ** 2).sum(axis=1).argmin()]
    shown = own if outlined else np.zeros_like(own)
    return Picture(title, voxels, shown, middle, protocol.spacing_zyx_mm)


def main() -> None:
    """Draw all findings into one picture."""
    pictures = [*metastases(), *mimics()]
    blocks = -(-len(pictures) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * PIXELS, blocks * 3 * PIXELS))
    for number, picture in enumerate(pictures):
        block, column = divmod(number, COLUMNS)
        for row, tile in enumerate(picture.tiles()):
            sheet.paste(tile, (column * PIXELS, (3 * block + row) * PIXELS))
    sheet.save(Path(__file__).with_name("simulated_findings.jpg"), quality=82)


if __name__ == "__main__":
    main()
