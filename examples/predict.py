"""Find the lesions of one scan and write the result: python examples/predict.py SCAN OUT."""

import sys
from pathlib import Path

from osteomet.inference.outputs import write_results
from osteomet.inference.pipeline import Predictor


def main(scan: Path, out: Path) -> None:
    """Print what is found in ``scan`` and write it to a folder below ``out``."""
    prediction = Predictor().predict(scan)
    findings = prediction.findings
    for lesion in findings.lesions:
        x, y, z = lesion.centroid_lps_mm
        print(
            f"{lesion.id}: score {lesion.score:.2f}, {lesion.volume_ml:.1f} ml, "
            f"{lesion.longest_diameter_mm:.0f} mm, at L {x:.0f} P {y:.0f} S {z:.0f}"
        )
    print(f"p(primary is lung cancer): {findings.primary.p_lung}")
    for warning in findings.warnings:
        print(f"warning: {warning}")
    print(write_results(prediction, out))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
