"""What a run tells while it learns: CSV for scripts, TensorBoard for eyes, a bar for waiting."""

import csv
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch.utils.tensorboard import SummaryWriter

from osteomet.checkpoint import replace_file
from osteomet.errors import CheckpointError

Row = Mapping[str, float]


class CSVLog:
    """One row per step; floats keep all their digits, so that runs can be compared exactly.

    Args:
        path: of the file.
        start_step: rows after it, which a killed run wrote after its checkpoint, are dropped.
    """

    def __init__(self, path: Path, start_step: int) -> None:
        self.path = path
        self._columns: list[str] | None = None
        if start_step > 0 and path.is_file():
            self._drop_rows_after(start_step)
        else:
            path.unlink(missing_ok=True)
        # unbuffered: a row is on its way before the step counts as done
        self._file = path.open("ab", buffering=0)

    def write(self, step: int, row: Row) -> None:
        """Append the row; the first one names the columns.

        Raises:
            CheckpointError: the disk is full.
        """
        columns = self._columns or ["step", *row]
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns)
        if self._columns is None:
            writer.writeheader()
        writer.writerow({"step": step, **row})
        with _disk_errors(self.path):
            self._file.write(text.getvalue().encode())
        self._columns = columns

    def close(self) -> None:
        self._file.close()

    def _drop_rows_after(self, step: int) -> None:
        with self.path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
        if not rows:
            return
        self._columns = rows[0]
        # a killed run may have left half a row
        kept = [row for row in rows[1:] if len(row) == len(rows[0]) and int(row[0]) <= step]
        text = io.StringIO(newline="")
        csv.writer(text).writerows([rows[0], *kept])
        content = text.getvalue().encode()
        replace_file(self.path, lambda temporary: temporary.write_bytes(content))


class TrainingLogs:
    """All logs of one run, opened together and closed together.

    Args:
        folder: of the run: ``log.csv``, ``validation.csv`` and ``tensorboard/``.
        step: steps already done.
        total_steps: of the run; None if not known yet.
        console: for the bar; None stays silent, as all processes but the first do.
    """

    def __init__(
        self, folder: Path, step: int, total_steps: int | None, console: Console | None
    ) -> None:
        self._folder = folder
        self._steps = CSVLog(folder / "log.csv", step)
        self._validations = CSVLog(folder / "validation.csv", step)
        self._board = SummaryWriter(folder / "tensorboard", purge_step=step + 1 if step else None)
        self._console = console or Console(quiet=True)
        self._bar = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=20),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("", total=total_steps, completed=step)

    def __enter__(self) -> "TrainingLogs":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        self._steps.close()
        self._validations.close()
        with _disk_errors(self._folder):
            self._board.close()

    def step(self, step: int, total_steps: int | None, row: Row) -> None:
        """Log one training step."""
        self._steps.write(step, row)
        self._scalars("train", step, row)
        terms = " ".join(f"{name} {value:.3g}" for name, value in row.items() if name in _SHOWN)
        self._bar.update(self._task, completed=step, total=total_steps, description=terms)

    def validation(self, step: int, row: Row) -> None:
        """Log one validation; it also gets a line of its own on the console."""
        self._validations.write(step, row)
        self._scalars("validation", step, row)
        with _disk_errors(self._folder):
            self._board.flush()
        shown = ", ".join(f"{name} {value:.4g}" for name, value in row.items())
        self.say(f"step {step}: validation {shown}")

    def say(self, message: str) -> None:
        """Print one line above the bar."""
        self._console.print(message, highlight=False, markup=False, soft_wrap=True)

    def _scalars(self, group: str, step: int, row: Row) -> None:
        with _disk_errors(self._folder):
            for name, value in row.items():
                self._board.add_scalar(f"{group}/{name}", value, step)


class NoLogs(TrainingLogs):
    """Takes what is logged and keeps nothing: for all processes of a run but the first."""

    def __init__(self) -> None:
        pass

    def __enter__(self) -> "NoLogs":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def step(self, step: int, total_steps: int | None, row: Row) -> None:
        pass

    def validation(self, step: int, row: Row) -> None:
        pass

    def say(self, message: str) -> None:
        pass


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be written ({error.strerror}); free space on the disk and resume "
            "from the last checkpoint"
        ) from error


_SHOWN = ("loss", "learning_rate", "rpn_objectness", "rpn_box", "classes", "box", "mask")
