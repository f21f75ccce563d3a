"""Measurements are kept: a stopped run goes on, and only what changed is measured again."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trunk_phantom as phantom

from osteomet.data import examination_store as store
from osteomet.data.examination import examine
from osteomet.data.examination_store import examine_cohort, read_record, read_views
from osteomet.data.manifest import Case
from osteomet.errors import InputError


@pytest.fixture
def cases(tmp_path: Path) -> list[Case]:
    return [phantom.write_trunk(tmp_path, name) for name in ("a", "b", "c")]


@pytest.fixture
def examined(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Scans examined, as they are; scan ``bad`` surprises."""
    names = []

    def record(case: Case) -> object:
        names.append(case.scan_id)
        if case.scan_id == "bad":
            raise RuntimeError("a surprise")
        return examine(case)

    monkeypatch.setattr(store, "examine", record)
    return names


def test_what_was_measured_comes_back(cases: list[Case], tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    paths = examine_cohort(
        cases, tmp_path / "kept", progress=lambda done, count: told.append((done, count))
    )
    assert told == [(1, 3), (2, 3), (3, 3)]
    for case, path in zip(cases, paths, strict=True):
        record, views = examine(case)
        assert read_record(path) == record
        back = read_views(path)
        assert back.front is not None
        assert views.front is not None
        assert np.array_equal(back.front.values, views.front.values)
        assert back.front.spacing_mm == views.front.spacing_mm
        assert np.array_equal(back.thumbnail, views.thumbnail)  # type: ignore[arg-type] # both there
        assert list(back.lesions) == [1]
        assert np.array_equal(back.lesions[1].values, views.lesions[1].values)
        assert np.array_equal(back.lesions[1].labels, views.lesions[1].labels)  # type: ignore[arg-type] # both there


def test_a_stopped_run_goes_on(cases: list[Case], tmp_path: Path, examined: list[str]) -> None:
    def stop(done: int, count: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        examine_cohort(cases, tmp_path / "kept", progress=stop)
    assert examined == ["a", "b"]
    examine_cohort(cases, tmp_path / "kept")
    assert examined == ["a", "b", "c"]
    assert len(list((tmp_path / "kept").iterdir())) == 3


def test_only_what_changed_is_measured_again(
    cases: list[Case], tmp_path: Path, examined: list[str]
) -> None:
    examine_cohort(cases, tmp_path / "kept")
    examined.clear()
    assert cases[1].mask is not None
    os.utime(cases[1].mask, (1, 1))
    cases[2] = replace(cases[2], age=50.0)
    paths = examine_cohort(cases, tmp_path / "kept")
    assert examined == ["b", "c"]
    assert read_record(paths[2]).age == 50


def test_a_surprise_does_not_hide_the_others(
    cases: list[Case], tmp_path: Path, examined: list[str]
) -> None:
    paths = examine_cohort([replace(cases[0], scan_id="bad"), *cases], tmp_path / "kept")
    assert "a surprise" in (read_record(paths[0]).image_fault or "")
    assert [read_record(path).image_fault for path in paths[1:]] == [None] * 3
    assert read_views(paths[0]).front is None


def test_processes_measure_the_same(cases: list[Case], tmp_path: Path) -> None:
    alone = examine_cohort(cases[:2], tmp_path / "alone")
    together = examine_cohort(cases[:2], tmp_path / "together", workers=2)
    assert [path.name for path in alone] == [path.name for path in together]
    assert [read_record(path) for path in alone] == [read_record(path) for path in together]


def test_a_damaged_record_is_named(cases: list[Case], tmp_path: Path) -> None:
    (path,) = examine_cohort(cases[:1], tmp_path / "kept")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=r"kept.a-.*damaged; delete"):
        read_record(path)


def test_a_folder_that_cannot_be_made(cases: list[Case], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be made"):
        examine_cohort(cases, tmp_path / "file" / "kept")
