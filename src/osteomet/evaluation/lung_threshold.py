"""From which ``p_lung`` up a patient is called lung, and where that threshold comes from.

A threshold chosen on the patients it is then reported on flatters. So it is given, or read from
an evaluation of other patients: validation data.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from osteomet.errors import InputError
from osteomet.evaluation.roc import ROC

KEY = "lung_threshold_for_others"


@dataclass(frozen=True)
class LungThreshold:
    """A threshold of ``p_lung``.

    Attributes:
        value: from this up a patient is called lung.
        source: where it comes from, in words.
    """

    value: float = 0.5
    source: str = "the default, chosen on no data"


UNCHOSEN = LungThreshold()


def youden_threshold(curve: ROC) -> float | None:
    """Return the threshold with the largest Youden index.

    None where there is none to choose: without a lung or another patient with a prediction, or
    where no threshold is better than chance.
    """
    best, index = curve.youden()
    return best if math.isfinite(best) and math.isfinite(index) else None


def read_lung_threshold(evaluation: Path, patients: Iterable[str]) -> LungThreshold:
    """Return the threshold that an evaluation of validation patients found best.

    Args:
        evaluation: an ``evaluation.json`` of ``osteomet evaluate``.
        patients: who is to be evaluated with it.

    Raises:
        InputError: the file is not one, has no threshold, or was made of some of the patients.
    """
    try:
        content = json.loads(evaluation.read_text(encoding="utf-8"))
        chosen = cast("float | None", content[KEY]["value"])
        used = {scan["patient_id"] for scan in content["by_scan"]}
    except OSError as error:
        raise InputError(f"{evaluation}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{evaluation}: is not an evaluation.json with a threshold; expected one of osteomet "
            "evaluate on validation patients"
        ) from error
    if not isinstance(chosen, int | float) or not 0 <= chosen <= 1:
        raise InputError(
            f"{evaluation}: holds no threshold of p_lung, as there was no lung or no other patient "
            "with a prediction; expected validation patients of both kinds"
        )
    shared = sorted(used & set(patients))
    if shared:
        raise InputError(
            f"{evaluation}: was made of patient {shared[0]} and {len(shared) - 1} more of those to "
            "be evaluated; expected other patients: choose the threshold on validation data"
        )
    return LungThreshold(
        float(chosen), f"largest Youden index of {len(used)} other patients in {evaluation.name}"
    )
