"""Weights on disk: safetensors with the config, the metrics and their provenance inside.

Loading runs no code: there is no pickle. The training state, which only a resumed training
reads, is another file (``training/state.py``).
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from osteomet.config import Config, parse_kept_config
from osteomet.errors import CheckpointError, ConfigError

FORMAT_VERSION = 1
DEFAULT_WEIGHTS = "simulated-v7"

State = dict[str, Tensor]

_MODEL, _PRIMARY = "model.", "primary."
_VERSION_KEY = "osteomet_format"


@dataclass(frozen=True, eq=False)
class LoadedWeights:
    """What a weights file holds, in float32 on the CPU.

    Attributes:
        config: with which the weights were trained; preprocessing and model follow it.
        model_state: of ``MaskRCNN``.
        primary_state: of the second stage; None where it was not trained.
        metrics: figures measured with these weights, as plain values.
        provenance: which command, data and version made them, as plain values.
        name: of the bundled weights, or of the file.
        sha256: of the file's bytes.
    """

    config: Config
    model_state: State
    primary_state: State | None
    metrics: dict[str, Any]
    provenance: dict[str, Any]
    name: str
    sha256: str


def save_weights(
    path: Path,
    model_state: Mapping[str, Tensor],
    primary_state: Mapping[str, Tensor] | None,
    config: Config,
    metrics: Mapping[str, Any],
    provenance: Mapping[str, Any],
    *,
    half: bool = False,
) -> None:
    """Write weights; an existing file is replaced only when the new one is complete.

    With ``half`` the weights take float16, half the size, except tensors that float16 cannot
    hold, and are read back as float32.

    Raises:
        CheckpointError: the file cannot be written.
    """
    tensors = {_MODEL + name: _stored(value, half) for name, value in model_state.items()}
    for name, value in (primary_state or {}).items():
        tensors[_PRIMARY + name] = _stored(value, half)
    metadata = {
        _VERSION_KEY: str(FORMAT_VERSION),
        "config": config.model_dump_json(),
        "metrics": json.dumps(dict(metrics)),
        "provenance": json.dumps(dict(provenance)),
    }
    replace_file(path, lambda temporary: save_file(tensors, temporary, metadata))


def load_weights(name_or_path: str | Path = DEFAULT_WEIGHTS) -> LoadedWeights:
    """Read weights by the name of a bundled file or by path.

    Raises:
        CheckpointError: no such weights, not safetensors, or of another format version.
    """
    path = _find(name_or_path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: _float32(file.get_tensor(key)) for key in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path}: not a readable safetensors file ({error}); expected weights that "
            "`osteomet train` wrote"
        ) from error
    config, metrics, provenance = _parse_metadata(path, metadata)
    primary = _with_prefix(tensors, _PRIMARY)
    return LoadedWeights(
        config=config,
        model_state=_with_prefix(tensors, _MODEL),
        primary_state=primary or None,
        metrics=metrics,
        provenance=provenance,
        name=path.stem,
        sha256=file_sha256(path),
    )


def is_osteomet_file(path: Path) -> bool:
    """Return whether a file is safetensors with the metadata that ``save_weights`` writes."""
    try:
        with safe_open(path, framework="pt") as file:
            return _VERSION_KEY in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False


def load_foreign_tensors(path: Path) -> State:
    """Read another program's weights: safetensors, or a state dict that torch saved.

    A torch file may keep the state dict below ``state_dict`` or ``model``. No code in it runs.

    Raises:
        CheckpointError: the file is neither.
    """
    try:
        content: Any = load_file(path)
    except (OSError, SafetensorError):
        content = _load_torch_file(path)
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds {type(content).__name__}; expected a state dict")
    tensors = {str(key): _float32(v) for key, v in content.items() if isinstance(v, Tensor)}
    if not tensors:
        raise CheckpointError(f"{path}: holds no tensor; expected a state dict")
    return tensors


def _load_torch_file(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises six kinds for one damaged file
        raise CheckpointError(
            f"{path}: neither safetensors nor a state dict that torch saved "
            f"({type(error).__name__}); expected weights of osteomet, or of a 2D network"
        ) from error


def bundled_weights() -> list[str]:
    """Return the names of the weights that come with the package; empty if there are none."""
    folder = _bundled_folder()
    return sorted(path.stem for path in folder.glob("*.safetensors")) if folder.is_dir() else []


def load_into(module: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Copy ``state`` into ``module``, whose every parameter and buffer must be there.

    Raises:
        CheckpointError: names the first missing, unexpected or differently shaped entry.
    """
    own = module.state_dict()
    for name, value in own.items():
        if name not in state:
            raise CheckpointError(f"{where}: {name!r} is missing; {_OTHER_CONFIG}")
        if state[name].shape != value.shape:
            raise CheckpointError(
                f"{where}: {name!r} has shape {tuple(state[name].shape)}, expected "
                f"{tuple(value.shape)}; {_OTHER_CONFIG}"
            )
    for name in state:
        if name not in own:
            raise CheckpointError(f"{where}: {name!r} is unexpected; {_OTHER_CONFIG}")
    module.load_state_dict(dict(state))


def load_fitting(module: nn.Module, state: Mapping[str, Tensor], where: str) -> list[str]:
    """Copy what of ``state`` has the name and shape of an entry of ``module``.

    Returns:
        The entries of ``module`` that keep their values.

    Raises:
        CheckpointError: nothing fits.
    """
    own = module.state_dict()
    fitting = {
        name: value
        for name, value in state.items()
        if name in own and own[name].shape == value.shape
    }
    if not fitting:
        raise CheckpointError(
            f"{where}: none of its {len(state)} tensors has the name and shape of one of the "
            f"model's {len(own)}; {_OTHER_CONFIG}"
        )
    module.load_state_dict(fitting, strict=False)
    return [name for name in own if name not in fitting]


_OTHER_CONFIG = "the weights belong to another model: build it from the config in their file"


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then put it in its place at once.

    A crash, a kill or a full disk at any moment leaves either the old file or the new one.

    Raises:
        CheckpointError: the file cannot be written; the old one is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode
        write(temporary)
        temporary.chmod(mode)  # safetensors makes files that only their owner can read
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())  # the name must not move before the bytes are on the disk
        temporary.replace(path)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch reports a full disk so
        kept = "; the previous file is kept" if path.exists() else ""
        raise CheckpointError(
            f"{path}: cannot be written ({_first_line(error)}){kept}: free space on the disk or "
            "choose another folder"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _find(name_or_path: str | Path) -> Path:
    path = Path(name_or_path)
    if path.is_file():
        return path
    bundled = _bundled_folder() / f"{name_or_path}.safetensors"
    if bundled.is_file():
        return bundled
    known = ", ".join(bundled_weights()) or "none"
    raise CheckpointError(
        f"no weights {str(name_or_path)!r}: neither a file nor bundled (bundled: {known})"
    )


def _bundled_folder() -> Path:
    return Path(str(resources.files("osteomet"))) / "weights"


def _parse_metadata(
    path: Path, metadata: dict[str, str]
) -> tuple[Config, dict[str, Any], dict[str, Any]]:
    version = metadata.get(_VERSION_KEY)
    if version is None:
        raise CheckpointError(
            f"{path}: has no {_VERSION_KEY} entry; expected weights that `osteomet train` wrote"
        )
    if version != str(FORMAT_VERSION):
        raise CheckpointError(
            f"{path}: format version {version}, this osteomet reads {FORMAT_VERSION}; "
            "use the osteomet that wrote it"
        )
    try:
        config = parse_kept_config(json.loads(metadata["config"]), str(path))
        return config, json.loads(metadata["metrics"]), json.loads(metadata["provenance"])
    except (KeyError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path}: damaged metadata: {error}") from error
    except ConfigError as error:
        raise CheckpointError(f"{error}; use the osteomet that wrote the weights") from error


def _stored(value: Tensor, half: bool) -> Tensor:
    # safetensors wants each tensor dense in its own memory; channels-last weights are not
    value = value.detach().cpu().contiguous().clone()
    if half and value.is_floating_point():
        halved = value.to(torch.float16)
        if torch.isfinite(halved).all():
            return halved
    return value


def _float32(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value


def _with_prefix(tensors: State, prefix: str) -> State:
    return {
        key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)
    }


def file_sha256(path: Path) -> str:
    """Return the digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
