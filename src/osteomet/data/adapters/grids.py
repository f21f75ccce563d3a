"""Does a mask lie on its scan's grid? Told from headers, without reading voxels."""

from pathlib import Path

import numpy as np

from osteomet.data.annotations import SAME_GRID_VOX
from osteomet.errors import AnnotationError
from osteomet.io.volumes import read_grid


def check_same_grid(image: Path, mask: Path) -> None:
    """Check that a mask lies on the grid of its scan, whatever the order of their axes.

    Raises:
        AnnotationError: it does not.
        InputError: a header cannot be read.
    """
    scan, labels = read_grid(image).closest_lps(), read_grid(mask).closest_lps()
    corners = np.array([[0.0, 0, 0], scan.shape])
    apart_mm = np.abs(labels.edge_to_world(corners) - scan.edge_to_world(corners)).max()
    if labels.shape != scan.shape or apart_mm > SAME_GRID_VOX * min(scan.spacing_zyx_mm):
        raise AnnotationError(
            f"{mask}: has shape {labels.shape} along S, P, L and its corners lie up to "
            f"{apart_mm:.2f} mm from those of {image.name} of shape {scan.shape}; expected a mask "
            "on the scan's own grid: resample it"
        )
