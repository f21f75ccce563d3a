"""Batches: any number of threads, resuming and processes give the same, and errors arrive."""

import threading

import pytest
import torch
from phantom_scans import CONFIG, LESIONS, write_case

from osteomet.data import render
from osteomet.data.loader import PatchLoader
from osteomet.data.patches import Draft, Patch, PatchSampler
from osteomet.data.store import Store, build_store
from osteomet.errors import ConfigError, InputError
from osteomet.findings import PrimaryTumour
from osteomet.structures import Targets

FULL = CONFIG.updated(
    {
        "augment.intensity_probability": 0.5,
        "augment.thick_slices_probability": 0.5,
        "augment.translate_mm": 8.0,
    }
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("scans")
    cases = [
        write_case(folder, "a"),
        write_case(folder, "b1", LESIONS[1:], primary=PrimaryTumour.OTHER, patient_id="b"),
        write_case(folder, "b2", LESIONS[:1], primary=PrimaryTumour.OTHER, patient_id="b"),
    ]
    return build_store(cases, folder / "store", 1.0)


def alike(a: Targets, b: Targets) -> bool:
    names = ("boxes", "labels", "instances", "instance_ids", "ignore_boxes", "attributes")
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in names)


@pytest.mark.parametrize("workers", [0, 1, 2, 4])
def test_workers_and_resuming_change_nothing(store: Store, workers: int) -> None:
    sampler = PatchSampler(store, FULL, seed=0)
    expected = [sampler.sample(index) for index in range(10)]
    for start in (0, 3):
        with PatchLoader(sampler, batch_size=2, start_step=start, workers=workers) as loader:
            for step in range(start, 5):
                batch = next(loader)
                assert batch.step == step
                assert batch.images.shape == (2, 1, 32, 32, 32)
                for k in range(2):
                    assert torch.equal(batch.images[k], expected[2 * step + k].image)
                    assert alike(batch.targets[k], expected[2 * step + k].targets)


def test_processes_share_each_batch(store: Store) -> None:
    sampler = PatchSampler(store, FULL, seed=0)
    for rank in range(2):
        with PatchLoader(sampler, 4, start_step=1, rank=rank, processes=2) as loader:
            images = [next(loader).images for _ in range(2)]
        for step, of_rank in enumerate(images, start=1):
            assert len(of_rank) == 2
            for k in range(2):
                assert torch.equal(of_rank[k], sampler.sample(4 * step + rank + 2 * k).image)


def test_a_batch_that_processes_cannot_share_is_refused(store: Store) -> None:
    with pytest.raises(
        ConfigError, match="batch_size is 3; expected a multiple of the 2 processes"
    ):
        PatchLoader(PatchSampler(store, FULL, seed=0), 3, processes=2)


def patch_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("osteomet-patches")]


def test_threads_end_when_the_loop_does(store: Store) -> None:
    sampler = PatchSampler(store, FULL, seed=0)
    with PatchLoader(sampler, batch_size=2, workers=2) as loader:
        next(loader)
        assert patch_threads()
    assert patch_threads() == []


def test_an_error_in_a_thread_arrives_in_order(store: Store) -> None:
    class Failing(PatchSampler):
        def sample(self, index: int) -> Patch:
            if index == 3:
                raise InputError("the disk is gone")
            return super().sample(index)

    with PatchLoader(Failing(store, FULL, seed=0), batch_size=2, workers=2) as loader:
        next(loader)
        with pytest.raises(InputError, match="the disk is gone"):
            next(loader)
    assert patch_threads() == []


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_batches_of_another_device_are_the_same_to_rounding(
    store: Store, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without numba the CPU takes the path of a GPU."""
    sampler = PatchSampler(store, FULL, seed=0)
    expected = [sampler.sample(index) for index in range(12)]
    monkeypatch.setattr(render, "NUMBA_ENABLED", False)
    with PatchLoader(sampler, 4, workers=workers, device=torch.device("cpu")) as loader:
        batches = [next(loader) for _ in range(3)]
    for k, one in enumerate(expected):
        batch = batches[k // 4]
        assert alike(batch.targets[k % 4], one.targets)
        # HU, since these settings normalise by 1; a window's value times a rounded place
        assert float((batch.images[k % 4] - one.image).abs().max()) < 0.3


def test_threads_of_another_device_only_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = PatchSampler(store, FULL, seed=0)
    monkeypatch.setattr(render, "NUMBA_ENABLED", False)
    with PatchLoader(sampler, 2, workers=0) as loader:
        draft = loader._prepare(0)
    assert isinstance(draft, Draft)
    assert draft.window.hu.dtype == torch.int16
    assert tuple(draft.window.hu.shape) == draft.window.placement.source_box()[1]


def test_the_loader_never_holds_more_than_it_may(store: Store) -> None:
    drawn: list[int] = []

    class Counting(PatchSampler):
        def sample(self, index: int) -> Patch:
            drawn.append(index)
            return super().sample(index)

    with PatchLoader(Counting(store, FULL, seed=0), batch_size=2, workers=2) as loader:
        for step in range(4):
            next(loader)
            assert len(drawn) <= 2 * (step + 1) + 4
    assert sorted(drawn) == list(range(len(drawn)))
