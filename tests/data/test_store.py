"""The store: what it keeps, and what its patches hold."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from phantom_scans import LESIONS, SHAPE, lesion_map, scan_volume, write_case

from osteomet.data.manifest import Case
from osteomet.data.preprocess import AIR_HU
from osteomet.data.store import Store, build_store, hu_statistics
from osteomet.errors import InputError, StoreError


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return write_case(tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


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


@pytest.mark.parametrize("name", ["scan.json", "image.b2nd", "bone.npy"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_folder_says_what_to_do(case: Case, folder: Path, name: str, damage: str) -> None:
    (scan,) = build_store([case], folder, 1.0).scans
    path = scan.folder / name
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        path.unlink()
    with pytest.raises(StoreError, match=r"damaged.*delete this folder"):
        build_store([case], folder, 1.0)


def test_many_threads_read_one_scan(case: Case, folder: Path) -> None:
    (scan,) = build_store([case], folder, 1.0).scans
    whole = scan.image

    def differs(seed: int) -> bool:
        rng = np.random.default_rng(seed)
        z, y, x = (int(rng.integers(0, n - 16)) for n in SHAPE)
        block = scan.read_hu((z, y, x), (16, 15, 14))
        return not np.array_equal(block, whole[z : z + 16, y : y + 15, x : x + 14])

    with ThreadPoolExecutor(8) as pool:
        assert not any(pool.map(differs, range(400)))


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
