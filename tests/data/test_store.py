"""The store: what it keeps, that it never mixes settings, and that a stopped build goes on."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from phantom_scans import LESIONS, SHAPE, lesion_map, scan_volume, write_case

from osteomet.data import store as store_module
from osteomet.data.manifest import Case, MaskKind
from osteomet.data.preprocess import AIR_HU
from osteomet.data.store import Store, build_store, hu_statistics
from osteomet.errors import AnnotationError, InputError
from osteomet.findings import PrimaryTumour
from osteomet.io.scan import read_scan
from osteomet.io.volumes import write_labels


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return write_case(tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the images read, as they are read."""
    names = []

    def record(path: Path) -> object:
        names.append(path.name)
        return read_scan(path)

    monkeypatch.setattr(store_module, "read_scan", record)
    return names


def test_image_and_lesions_come_back(case: Case, folder: Path) -> None:
    (scan,) = build_store([case], folder, 1.0).scans
    assert np.array_equal(scan.image, scan_volume(lesion_map()).voxels)
    assert [lesion.corner for lesion in scan.lesions] == [low for low, _ in LESIONS]
    assert [lesion.instance_id for lesion in scan.lesions] == [1, 2, 3]
    assert [scan.mask(lesion).sum() for lesion in scan.lesions] == [120, 1512, 60]
    block, visible = scan.read_instances((0, 0, 0), SHAPE)
    assert np.array_equal(block, lesion_map())
    assert visible == {1: 120, 2: 1512, 3: 60}
    assert scan.grid.shape == SHAPE


@pytest.mark.parametrize(
    "corner", [(0, 0, 0), (-5, 3, 2), (40, 40, 30), (-20, -20, -20), (-300, 0, 0), (9, 11, 300)]
)
def test_blocks_reach_beyond_the_scan_into_air(
    case: Case, folder: Path, corner: tuple[int, int, int]
) -> None:
    (scan,) = build_store([case], folder, 1.0).scans
    size = (24, 20, 22)
    index = tuple(np.arange(c, c + n) for c, n in zip(corner, size, strict=True))
    within = [(i >= 0) & (i < side) for i, side in zip(index, SHAPE, strict=True)]
    inside = np.ix_(*within)
    source = np.ix_(*(i[w] for i, w in zip(index, within, strict=True)))
    hu, instances = np.full(size, AIR_HU), np.zeros(size)
    hu[inside], instances[inside] = scan.image[source], lesion_map()[source]
    assert np.array_equal(scan.read_hu(corner, size), hu)
    block, visible = scan.read_instances(corner, size)
    assert np.array_equal(block, instances)
    assert visible == {int(i): int((instances == i).sum()) for i in np.unique(instances) if i}


def test_bone_is_found_where_it_is(case: Case, folder: Path) -> None:
    (scan,) = build_store([case], folder, 1.0).scans
    assert len(scan.bone) == 7 * 6 * 5
    assert (scan.bone > 0).all()
    assert (scan.bone < np.array(SHAPE)).all()


def test_a_scan_without_lesions(tmp_path: Path, folder: Path) -> None:
    case = write_case(tmp_path, lesions=())
    (scan,) = build_store([case], folder, 1.0).scans
    assert scan.lesions == ()
    block, visible = scan.read_instances((0, 0, 0), (8, 8, 8))
    assert not block.any()
    assert visible == {}


def test_a_second_build_reads_nothing(case: Case, folder: Path, reads: list[str]) -> None:
    first = build_store([case], folder, 1.0)
    again = build_store([case], folder, 1.0)
    assert reads == ["a.nii"]
    assert again.scans[0].folder == first.scans[0].folder


@pytest.mark.parametrize("change", ["spacing", "mask", "image", "mask_kind", "format"])
def test_what_was_made_otherwise_is_never_read(
    case: Case, folder: Path, reads: list[str], change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_store([case], folder, 1.0)
    spacing_mm = 1.0
    if change == "spacing":
        spacing_mm = 2.0
    elif change == "mask":
        labels = lesion_map(LESIONS[:1])
        write_labels(case.mask or Path(), scan_volume(labels).with_voxels(labels))
    elif change == "image":
        os.utime(case.image, ns=(0, 12345))
    elif change == "mask_kind":
        case = replace(case, mask_kind=MaskKind.INSTANCE)
    else:
        monkeypatch.setattr(store_module, "FORMAT", 999)
    (scan,) = build_store([case], folder, spacing_mm).scans
    assert reads == ["a.nii", "a.nii"]
    assert len(scan.lesions) == (1 if change == "mask" else 3)
    assert scan.shape == ((28, 24, 20) if change == "spacing" else SHAPE)


def test_what_is_known_of_a_patient_may_change_without_another_build(
    case: Case, folder: Path, reads: list[str]
) -> None:
    build_store([case], folder, 1.0)
    other = replace(case, primary=PrimaryTumour.OTHER, split="val")
    assert build_store([other], folder, 1.0).scans[0].case.primary is PrimaryTumour.OTHER
    assert reads == ["a.nii"]


def test_a_build_that_is_stopped_goes_on_where_it_was(
    tmp_path: Path, folder: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = [write_case(tmp_path, name) for name in "abc"]
    with monkeypatch.context() as patch:
        write = store_module._write_annotations

        def stop_at_second(*arguments: object) -> None:
            if len(reads) == 2:
                raise KeyboardInterrupt
            write(*arguments)  # type: ignore[arg-type]

        patch.setattr(store_module, "_write_annotations", stop_at_second)
        with pytest.raises(KeyboardInterrupt):
            build_store(cases, folder, 1.0)
    done = {path.name[0] for path in folder.iterdir()}
    assert "a" in done
    assert not done & {"b", "."}  # a thread may have gone on to c before it heard of the stop
    reads.clear()
    store = build_store(cases, folder, 1.0)
    assert set(reads) == {f"{name}.nii" for name in "abc" if name not in done}
    assert [scan.case.scan_id for scan in store.scans] == ["a", "b", "c"]


def test_what_a_killed_build_left_is_removed_once_it_is_old(case: Case, folder: Path) -> None:
    for name, age_s in ((".partial-old", 2 * 24 * 3600), (".partial-new", 60)):
        (folder / name).mkdir(parents=True)
        os.utime(folder / name, (time.time() - age_s,) * 2)
    build_store([case], folder, 1.0)
    assert [p.name for p in folder.glob(".partial-*")] == [".partial-new"]


def test_two_builds_at_once_agree(case: Case, folder: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        stores = list(pool.map(lambda _: build_store([case], folder, 1.0), range(4)))
    assert len({store.scans[0].folder for store in stores}) == 1
    assert len(list(folder.iterdir())) == 1


def test_any_number_of_workers_keeps_the_order_and_reports_progress(
    tmp_path: Path, folder: Path
) -> None:
    cases = [write_case(tmp_path, name) for name in "edcba"]
    seen = []
    store = build_store(
        cases, folder, 1.0, workers=3, progress=lambda done, total: seen.append((done, total))
    )
    assert [scan.case.scan_id for scan in store.scans] == list("edcba")
    assert seen == [(done, 5) for done in range(1, 6)]


def test_a_fault_names_its_scan(tmp_path: Path, folder: Path) -> None:
    good, bad = write_case(tmp_path, "good"), write_case(tmp_path, "bad")
    assert bad.mask is not None
    bad.image.write_bytes(b"not an image")
    with pytest.raises(InputError, match="scan 'bad': "):
        build_store([good, bad], folder, 1.0)
    bad.image.unlink()
    with pytest.raises(InputError, match=r"scan 'bad': .*cannot be read"):
        build_store([bad], folder, 1.0)
    labels = lesion_map(shape=(5, 48, 40))
    write_labels(bad.mask, scan_volume(labels).with_voxels(labels))
    bad = replace(bad, image=good.image)
    with pytest.raises(AnnotationError, match=r"scan 'bad': .*scan's own grid"):
        build_store([bad], folder, 1.0)


def test_a_damaged_folder_says_what_to_do(case: Case, folder: Path) -> None:
    (scan,) = build_store([case], folder, 1.0).scans
    (scan.folder / "scan.json").write_text("{")
    with pytest.raises(InputError, match=r"damaged.*delete this folder"):
        build_store([case], folder, 1.0)


def test_names_that_no_folder_can_have(case: Case, folder: Path) -> None:
    awkward = replace(case, scan_id="../a/b: c")
    (scan,) = build_store([awkward], folder, 1.0).scans
    assert scan.folder.parent == folder


def test_mean_and_deviation_of_the_body(tmp_path: Path, folder: Path) -> None:
    cases = [write_case(tmp_path, "a"), write_case(tmp_path, "b", lesions=())]
    store = build_store(cases, folder, 1.0)
    hu = np.concatenate([scan.image.ravel() for scan in store.scans])
    body = hu[hu >= -200].clip(-300, 900)
    mean, deviation = hu_statistics(store, (-300.0, 900.0))
    assert mean == pytest.approx(body.mean())
    assert deviation == pytest.approx(body.std())


def test_constants_that_cannot_be_measured(case: Case, folder: Path) -> None:
    with pytest.raises(InputError, match="is it CT"):
        hu_statistics(Store((), 1.0), (-300.0, 900.0))
    with pytest.raises(InputError, match="all body voxels of the training scans are 2000 HU"):
        hu_statistics(build_store([case], folder, 1.0), (2000.0, 3000.0))
