"""Everything that `make bench` measures: operators, and a whole scan by stage.

`python benchmarks/run.py` writes `operators.md` and `prediction.md` beside this file.
"""

import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from osteomet.inference.outputs import write_results
from osteomet.inference.pipeline import Predictor
from osteomet.io.dicom_writer import write_ct_series
from osteomet.simulate.patient import simulate_patient

HERE = Path(__file__).parent
RUNS = 5


def measure_prediction() -> str:
    """Return a Markdown table of seconds by stage, medians over simulated patients."""
    predictor = Predictor(device="cpu")
    rows: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(RUNS + 1):
            series = Path(folder) / f"ct-{seed}"
            patient = simulate_patient(seed)
            write_ct_series(patient.volume, series, patient_id=f"bench-{seed}")
            prediction = predictor.predict(series)
            write_results(prediction, Path(folder))
            if seed == 0:  # compiles the kernels
                continue
            for stage, seconds in prediction.findings.provenance.seconds.items():
                rows.setdefault(stage, []).append(seconds)
    lines = ["| stage | median s | fastest | slowest |", "| --- | --- | --- | --- |"]
    for stage, seconds in rows.items():
        middle = sorted(seconds)[len(seconds) // 2]
        lines.append(f"| {stage} | {middle:.2f} | {min(seconds):.2f} | {max(seconds):.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Run all benchmarks and write their tables."""
    operators = [sys.executable, str(HERE / "operators.py"), "--output", str(HERE / "operators.md")]
    subprocess.run(operators, check=True)
    text = (
        "# Prediction of a simulated patient, by stage\n\n"
        "Repeat with `make bench`. About 130 mm cubed, DICOM to report, "
        f"{RUNS} patients after one that compiles. {platform.processor() or platform.machine()}, "
        f"{torch.get_num_threads()} threads, Python {platform.python_version()}, "
        f"torch {torch.__version__}.\n\n{measure_prediction()}\n"
    )
    (HERE / "prediction.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
