"""The folder of one run: everything to look into it, repeat it, resume it and use it."""

import csv
import io
import json
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from osteomet.checkpoint import replace_file
from osteomet.config import Config
from osteomet.data.manifest import OPTIONAL, REQUIRED, Cohort
from osteomet.errors import CheckpointError


@dataclass(frozen=True)
class RunFolder:
    """Where the files of a run are.

    ``config.toml`` (with the measured HU constants), ``cohort.csv`` (with the split used),
    ``warnings.txt`` (what was odd about the scans), ``log.csv``, ``validation.csv``,
    ``tensorboard/``, ``last.ckpt`` (to resume), ``weights.safetensors`` (lowest validation
    loss) and ``last.safetensors`` (newest).
    """

    path: Path

    @property
    def state(self) -> Path:
        return self.path / "last.ckpt"

    @property
    def weights(self) -> Path:
        return self.path / "weights.safetensors"

    @property
    def last_weights(self) -> Path:
        return self.path / "last.safetensors"

    @property
    def cohort(self) -> Path:
        return self.path / "cohort.csv"

    def open(self, resume: bool) -> None:
        """Make the folder, or make sure that it holds a run to resume.

        Raises:
            CheckpointError: a run would be overwritten, or there is none to resume.
        """
        if resume and not self.state.is_file():
            raise CheckpointError(
                f"{self.path}: no {self.state.name} to resume; start without --resume"
            )
        if not resume and self.state.exists():
            raise CheckpointError(
                f"{self.path}: already holds a run; add --resume to go on with it, or choose "
                "another folder"
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(f"{self.path}: cannot be made: {error.strerror}") from error

    def write_cohort(self, cohort: Cohort) -> None:
        """Write the scans and their split with full paths, so that the file can be used here."""
        columns = [*REQUIRED, *OPTIONAL]
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns)
        writer.writeheader()
        for case in cohort.cases:
            values = {name: _plain(getattr(case, name)) for name in columns}
            writer.writerow(values)
        content = text.getvalue().encode()
        replace_file(self.cohort, lambda file: file.write_bytes(content))

    def write_warnings(self, warnings: list[str]) -> None:
        """Write what was odd about the scans."""
        content = "".join(f"{warning}\n" for warning in warnings).encode()
        replace_file(self.path / "warnings.txt", lambda file: file.write_bytes(content))

    def write_config(self, config: Config) -> None:
        """Write the settings so that they can be given to another run."""
        text = _toml(config.model_dump(mode="json"))
        replace_file(
            self.path / "config.toml", lambda file: file.write_text(text, encoding="utf-8")
        )


def _plain(value: object) -> object:
    """Return what a cell of a CSV file shows of a field."""
    if isinstance(value, Path):
        return str(value.resolve())
    return value.value if isinstance(value, Enum) else value


def _toml(section: dict[str, Any], prefix: str = "") -> str:
    """Write nested settings as TOML; None, which TOML lacks, is left to the default."""
    values, tables = [], []
    for key, value in section.items():
        if isinstance(value, dict):
            tables.append(f"\n[{prefix}{key}]\n{_toml(value, f'{prefix}{key}.')}")
        elif value is not None:
            values.append(f"{key} = {json.dumps(value)}\n")
    return "".join(values + tables)
