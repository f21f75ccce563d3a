from pathlib import Path

import pytest

from osteomet.training.logs import CSVLog, TrainingLogs


def test_floats_keep_all_their_digits(tmp_path: Path) -> None:
    log = CSVLog(tmp_path / "log.csv", start_step=0)
    log.write(1, {"loss": 0.1 + 0.2, "rate": 1e-9})
    log.close()
    assert (tmp_path / "log.csv").read_text().split() == [
        "step,loss,rate",
        "1,0.30000000000000004,1e-09",
    ]


def test_resuming_drops_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("step,loss\n1,0.5\n2,0.25\n3,0.12\n4,0.")
    log = CSVLog(path, start_step=2)
    log.write(3, {"loss": 0.125})
    log.close()
    assert path.read_text().split() == ["step,loss", "1,0.5", "2,0.25", "3,0.125"]


def test_a_new_run_starts_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("step,loss\n1,0.5\n")
    CSVLog(path, start_step=0).close()
    assert path.read_text() == ""


def test_a_loss_without_a_column_is_refused(tmp_path: Path) -> None:
    log = CSVLog(tmp_path / "log.csv", start_step=0)
    log.write(1, {"loss": 0.5})
    with pytest.raises(ValueError, match="fields not in fieldnames: 'box'"):
        log.write(2, {"loss": 0.5, "box": 1.0})
    log.close()


def test_tensorboard_files_are_written(tmp_path: Path) -> None:
    with TrainingLogs(tmp_path, 0, 10, console=None) as logs:
        logs.step(1, 10, {"loss": 0.5})
        logs.validation(1, {"loss": 0.5})
    assert list((tmp_path / "tensorboard").glob("events*"))
