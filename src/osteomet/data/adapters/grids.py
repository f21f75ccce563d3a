"""Does a mask lie on its scan's grid? Told from headers, without reading voxels."""

from pathlib import Path

from osteomet.data.annotations import check_on_grid
from osteomet.io.volumes import read_grid


def check_same_grid(image: Path, mask: Path) -> None:
    """Check that a mask lies on the grid of its scan, whatever the order of their axes.

    Raises:
        AnnotationError: it does not.
        InputError: a header cannot be read.
    """
    scan, labels = read_grid(image).closest_lps(), read_grid(mask).closest_lps()
    check_on_grid(mask, labels, scan, image.name)
