"""The mean of two weights of one network, such as a run's and those that it started from.

A run from given weights moves a little way from them, and on the way between the two the loss has
no hill: weights in the middle may keep what the first knew better and have what the second learned.

Source: Wortsman et al., "Robust fine-tuning of zero-shot models", arXiv:2109.01903.
"""

from pathlib import Path

from osteomet.checkpoint import LoadedWeights, State, save_weights
from osteomet.errors import CheckpointError, ConfigError
from osteomet.training.calibrate import RECORD


def average_weights(
    first: LoadedWeights, second: LoadedWeights, share: float, output: Path
) -> None:
    """Write the mean of two weights, of which the second counts ``share``.

    Settings and provenance are the second's: that of a run, where the first is what it started
    from. The mean has no second stage, no operating threshold of its own and no figures: calibrate
    it.

    Raises:
        ConfigError: ``share`` lies outside 0 to 1, or the first is a run from the second.
        CheckpointError: the weights belong to different networks, or to other voxels or HU
            windows; or the file cannot be written.
    """
    if not 0 <= share <= 1:
        raise ConfigError(f"the share is {share:g}; expected 0 to 1")
    _check_same_network(first, second)
    if first.provenance.get("init", {}).get("sha256") == second.sha256:
        raise ConfigError(
            f"{first.name} was trained from {second.name}; expected what a run started from first, "
            "and the run second: the mean is told to be the run's"
        )
    state: State = {
        name: (1 - share) * first.model_state[name] + share * value
        if value.is_floating_point()
        else value
        for name, value in second.model_state.items()
    }
    made = {name: value for name, value in second.provenance.items() if name != RECORD}
    made["averaged_with"] = {"name": first.name, "sha256": first.sha256, "share": 1 - share}
    save_weights(output, state, None, second.config, {}, made)


def _check_same_network(first: LoadedWeights, second: LoadedWeights) -> None:
    shapes = [
        {name: tuple(value.shape) for name, value in weights.model_state.items()}
        for weights in (first, second)
    ]
    if shapes[0] != shapes[1]:
        apart = sorted({name for name, _ in shapes[0].items() ^ shapes[1].items()})
        raise CheckpointError(
            f"{first.name} and {second.name} are of different networks: {apart[0]} and "
            f"{len(apart) - 1} more tensors differ; expected weights of one model"
        )
    for name, value in first.config.preprocess.model_dump().items():
        other = getattr(second.config.preprocess, name)
        if name in ("spacing_mm", "window_hu") and value != other:
            raise CheckpointError(
                f"preprocess.{name} is {value} in {first.name} and {other} in {second.name}; "
                "expected weights that read the same images"
            )
