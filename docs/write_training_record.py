"""Print what a weights file says of its making, as Markdown for the model card.

`python docs/write_training_record.py NAME_OR_PATH > record.md`, then
`python docs/write_metrics.py training record.md MODEL_CARD.md`.
"""

import sys
from collections.abc import Mapping
from typing import Any

from osteomet.checkpoint import load_weights


def record(name_or_path: str) -> str:
    """Return command, data, steps and calibration of the weights."""
    weights = load_weights(name_or_path)
    made, chosen = weights.provenance, weights.provenance.get("calibration", {})
    parameters = sum(value.numel() for value in weights.model_state.values())
    lines = _runs(made)
    lines.append(
        f"- Network: {weights.config.model.backbone.name}, {parameters / 1e6:.1f} million "
        f"parameters, voxels of {weights.config.preprocess.spacing_mm:g} mm."
    )
    if mixed := made.get("averaged_with"):
        lines.append(
            f"- Averaged (`osteomet average`): {1 - mixed['share']:g} of this run's weights "
            f"and {mixed['share']:g} of `{mixed['name']}`, `{mixed['sha256']}`."
        )
    if chosen:
        lines.append(
            f"- Calibration, on {chosen['scans']} other simulated scans with {chosen['lesions']} "
            f"lesions: operating threshold {chosen['operating_threshold']:.3f} "
            f"(sensitivity {chosen['sensitivity']:.2f} at {chosen['false_positives']:.2f} "
            "false positives a scan there); second stage fitted on "
            f"{chosen['primary_patients']} patients."
        )
    lines.append(f"- SHA-256 of the file: `{weights.sha256}`")
    return "\n".join(lines)


def _runs(made: Mapping[str, Any]) -> list[str]:
    """Return a run, and below it those that its weights came from."""
    lines = _run(made)
    if before := made.get("init"):
        lines.append(f"- It started from the weights of an earlier run, `{before['sha256']}`:")
        lines += [f"  {line}" for line in _runs(before)]
    return lines


def _run(made: Mapping[str, Any]) -> list[str]:
    processes = made.get("processes", 1)
    return [
        f"- Command: `{made.get('command', 'not recorded')}`",
        f"- Data: {made.get('training_scans')} simulated scans to train, "
        f"{made.get('validation_scans')} to validate.",
        f"- Steps: weights of step {made.get('step')} of {made.get('total_steps')}, "
        f"{made.get('seconds', 0) / 60:.0f} minutes on {made.get('device')}"
        f"{f' in {processes} processes' if processes > 1 else ''}, torch {made.get('torch')}.",
    ]


if __name__ == "__main__":
    sys.stdout.write(record(sys.argv[1]) + "\n")
