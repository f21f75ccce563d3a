"""The main job on a patient whose truth is known: CT in, lesions, masks, primary, report out."""

from dataclasses import dataclass
from pathlib import Path

from osteomet.evaluation.scan import EvaluationCase, ScanResult, score_scan
from osteomet.findings import Findings, PrimaryTumour
from osteomet.inference.outputs import REPORT, write_results
from osteomet.inference.pipeline import Predictor
from osteomet.io.dicom_writer import write_ct_series
from osteomet.io.scan import read_scan
from osteomet.io.volumes import write_labels
from osteomet.simulate.patient import SimulatedPatient, simulate_patient

DEMO_SEED = 20
"""Any seed gives another patient; no weights are trained on the demo's."""


@dataclass(frozen=True, eq=False)
class DemoResult:
    """What was written, found and true.

    Attributes:
        series: folder of the simulated DICOM series.
        report: the HTML report.
        findings: what was found.
        patient: the truth.
        score: findings against the truth.
    """

    series: Path
    report: Path
    findings: Findings
    patient: SimulatedPatient
    score: ScanResult

    def summary(self) -> list[str]:
        """Return sentences that compare what was found with what is there."""
        hit, dice = self.score.hit, self.score.dice[self.score.hit]
        overlap = f", with a mean Dice of {dice.mean():.2f}" if len(dice) else ""
        false = len(self.findings.lesions) - int(hit.sum())
        p_lung = self.findings.primary.p_lung
        predicted = "no lesion was found, so none" if p_lung is None else f"{p_lung:.2f}"
        truth = "is" if self.patient.primary is PrimaryTumour.LUNG else "is not"
        return [
            f"{len(hit)} metastases are there; {int(hit.sum())} were found{overlap}; "
            f"{false} reported where there is none.",
            f"Probability that the primary is lung cancer: {predicted}; in truth it {truth} "
            f"({self.patient.tumour}).",
        ]


def run_demo(folder: Path, predictor: Predictor | None = None, seed: int = DEMO_SEED) -> DemoResult:
    """Simulate a patient, write a DICOM series, predict it, write the results.

    Args:
        folder: where ``ct/``, ``truth.nii.gz`` and the result's folder are written.
        predictor: None takes the bundled weights.
        seed: of the patient.

    Raises:
        OsteometError: the folder cannot be written.
    """
    patient = simulate_patient(seed)
    series = folder / "ct"
    write_ct_series(patient.volume, series, patient_id=patient.patient_id)
    write_labels(folder / "truth.nii.gz", patient.volume.with_voxels(patient.instances))
    scan = read_scan(series)
    prediction = (predictor or Predictor()).predict(scan, scan_id="demo-patient")
    result = write_results(prediction, folder)
    score = score_scan(
        EvaluationCase(
            "demo-patient",
            patient.patient_id,
            prediction.findings,
            patient.instances,
            patient.primary,
        )
    )
    return DemoResult(series, result / REPORT, prediction.findings, patient, score)
