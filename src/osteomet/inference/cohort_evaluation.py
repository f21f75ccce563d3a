"""Compare what was predicted for a cohort with what is annotated.

Apart from prediction, which need not wait for statistics to be imported.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from osteomet.data.annotations import instances_on_scan
from osteomet.data.attributes import read_attributes
from osteomet.data.manifest import Case
from osteomet.errors import InputError
from osteomet.evaluation.cohort import DEFAULTS, Evaluation, Options, evaluate_predictions
from osteomet.evaluation.scan import EvaluationCase
from osteomet.findings import Findings
from osteomet.inference.outputs import FINDINGS
from osteomet.volume import Volume


def evaluate_cohort(
    predictions: Path,
    cases: Sequence[Case],
    *,
    resamples: int = 2000,
    seed: int = 0,
    options: Options = DEFAULTS,
) -> Evaluation:
    """Compare the findings in ``predictions/<scan_id>`` with the cohort's masks.

    The images are not read again: the findings say on which grid they lie.

    Raises:
        InputError: a scan was not predicted, has no masks, or there is no scan at all.
        AnnotationError: a mask or a ``lesions`` file cannot be used.
    """
    if not cases:
        raise InputError("no scan to evaluate; choose a split that the cohort has")
    return evaluate_predictions(
        _pairs(predictions, cases), resamples=resamples, seed=seed, options=options
    )


def _pairs(predictions: Path, cases: Sequence[Case]) -> Iterator[EvaluationCase]:
    for case in cases:
        found = predictions / case.scan_id / FINDINGS
        if not found.is_file():
            raise InputError(
                f"{found}: is missing; expected the findings of scan {case.scan_id}: run "
                "osteomet predict --cohort with the same split first"
            )
        findings = Findings.read(found)
        instances, ignore = instances_on_scan(case, _grid(findings))
        yield EvaluationCase(
            case.scan_id,
            case.patient_id,
            findings,
            instances,
            case.primary,
            ignore,
            read_attributes(case.lesions),
        )


def _grid(findings: Findings) -> Volume:
    """Return the grid of the scan that was predicted, with zeros that take no memory."""
    voxels = np.broadcast_to(np.int16(0), findings.series.shape_zyx)
    return Volume(voxels, np.array(findings.series.affine_lps, dtype=np.float64))
