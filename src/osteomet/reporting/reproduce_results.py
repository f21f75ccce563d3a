"""What a reproduction has measured so far, read back from its evaluations on disk."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from osteomet.errors import InputError
from osteomet.evaluation.primary import UNDECIDED
from osteomet.evaluation.roc import ROC, roc_curve
from osteomet.evaluation.statistics import Estimate
from osteomet.findings import PrimaryTumour


@dataclass(frozen=True, eq=False)
class SideResult:
    """One architecture on the training or the test patients.

    Attributes:
        figures: every figure of the evaluation, by name.
        names: of the patients of known primary.
        is_lung: ``(n,)`` their truth.
        p_lung: ``(n,)`` predictions; a patient without a report counts as undecided.
        scans: evaluated.
        threshold: from which ``p_lung`` a patient was called lung, and where that comes from.
    """

    figures: Mapping[str, Estimate]
    names: tuple[str, ...]
    is_lung: Bool[np.ndarray, " n"]
    p_lung: Float[np.ndarray, " n"]
    scans: int
    threshold: str

    @property
    def lung(self) -> int:
        return int(self.is_lung.sum())

    @property
    def other(self) -> int:
        return len(self.names) - self.lung

    def roc(self, *, lung: bool) -> ROC:
        """Return the curve with lung as what is to be found, or with the other primaries."""
        ones = np.ones(len(self.names))
        if lung:
            return roc_curve(self.is_lung, self.p_lung, ones)
        return roc_curve(~self.is_lung, 1 - self.p_lung, ones)


@dataclass(frozen=True, eq=False)
class ArchitectureResult:
    """One architecture.

    Attributes:
        name: of its backbone.
        sides: by ``train`` and ``test``.
        seconds: that each stage took, by the stage's name.
        training: how its training ended, in words.
    """

    name: str
    sides: Mapping[str, SideResult]
    seconds: Mapping[str, float]
    training: str = ""


@dataclass(frozen=True, eq=False)
class Reproduction:
    """All that is known so far.

    Attributes:
        protocol: who trained and who tested, in words.
        patients: of each side, lung and other.
        wanted: architectures asked for.
        results: of those that are done, in that order.
    """

    protocol: str
    patients: Mapping[str, tuple[int, int]]
    wanted: tuple[str, ...]
    results: tuple[ArchitectureResult, ...]


def read_side(path: Path) -> SideResult:
    """Read an ``evaluation.json``.

    Raises:
        InputError: it is missing, or is none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        known = [one for one in content["by_patient"] if one["primary"] != PrimaryTumour.UNKNOWN]
        given = [UNDECIDED if one["p_lung"] is None else one["p_lung"] for one in known]
        threshold = content["lung_threshold"]
        return SideResult(
            figures={
                figure["name"]: Estimate(**figure)
                for figures in content["sections"].values()
                for figure in figures
            },
            names=tuple(one["patient_id"] for one in known),
            is_lung=np.array([one["primary"] == PrimaryTumour.LUNG for one in known], bool),
            p_lung=np.array(given, np.float64),
            scans=content["scans"],
            threshold=f"{threshold['value']:.4g}, {threshold['source']}",
        )
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}; expected an evaluation") from (
            error
        )
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: is no evaluation.json of this version; remove the file stages.json of its "
            "architecture and run the same command again"
        ) from error
