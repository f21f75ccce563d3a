"""Patches: determinism, where lesions fall, and targets that fit their image."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from phantom_scans import CONFIG, LESIONS, SHAPE, lesion_map, scan_volume, write_case
from scipy import ndimage

from osteomet.config import Config
from osteomet.data.manifest import MaskKind
from osteomet.data.patches import Patch, PatchSampler, validation_patches
from osteomet.data.render_batch import normalise
from osteomet.data.store import Store, build_store
from osteomet.errors import InputError
from osteomet.findings import PrimaryTumour
from osteomet.io.volumes import write_labels
from osteomet.structures import LUNG, METASTASIS, OTHER, Targets

DENSE_HU = 800
TURNED = CONFIG.updated({"augment.spatial_probability": 1.0})
FLIPPED = CONFIG.updated({"augment.spatial_probability": 0.0})
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
        write_case(folder, "healthy", (), primary=PrimaryTumour.UNKNOWN),
    ]
    return build_store(cases, folder / "store", 1.0)


def boxes_of(labels: np.ndarray) -> dict[int, list[int]]:
    return {
        index + 1: [*(s.start for s in region), *(s.stop for s in region)]
        for index, region in enumerate(ndimage.find_objects(labels))
        if region is not None
    }


def same(a: Patch, b: Patch) -> bool:
    return a.scan_id == b.scan_id and torch.equal(a.image, b.image) and alike(a.targets, b.targets)


def alike(a: Targets, b: Targets) -> bool:
    names = ("boxes", "labels", "instances", "instance_ids", "ignore_boxes", "attributes")
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in names)


def test_a_patch_depends_on_seed_and_index_alone(store: Store) -> None:
    sampler = PatchSampler(store, FULL, seed=3)
    forwards = [sampler.sample(index) for index in range(8)]
    again = PatchSampler(store, FULL, seed=3)
    assert all(same(again.sample(index), forwards[index]) for index in reversed(range(8)))
    other = PatchSampler(store, FULL, seed=4)
    assert not any(same(other.sample(index), forwards[index]) for index in range(8))
    PatchSampler(store, FULL, seed=-1).sample(0)


def test_flips_keep_image_and_targets_together(store: Store) -> None:
    """Lesions are the only dense voxels, so the image itself says where they are."""
    sampler = PatchSampler(store, FLIPPED, seed=0)
    for index in range(30):
        patch = sampler.sample(index)
        instances = patch.targets.instances.numpy()
        assert np.array_equal(patch.image[0].numpy() > DENSE_HU, instances > 0)
        seen = boxes_of(instances)
        ids = patch.targets.instance_ids.tolist()
        assert patch.targets.boxes.tolist() == [seen[i] for i in ids]
        assert len(ids) + len(patch.targets.ignore_boxes) == len(seen)


def test_each_flip_is_seen(store: Store) -> None:
    """A landmark off the middle, lesion 3 beside lesion 2, falls on all eight sides."""
    sampler = PatchSampler(store, FLIPPED.updated({"augment.flip": True}), seed=0)
    sides = set()
    for index in range(200):
        instances = sampler.sample(index).targets.instances.numpy()
        seen = boxes_of(instances)
        if len(seen) == 2 and 2 in seen and 3 in seen:
            sides.add(tuple(np.sign(np.subtract(seen[3], seen[2])[:3]).tolist()))
    assert len(sides) == 8


def test_turned_patches_keep_image_and_targets_together(store: Store) -> None:
    sampler = PatchSampler(store, TURNED, seed=0)
    overlap, union = 0, 0
    for index in range(40):
        patch = sampler.sample(index)
        dense, instances = patch.image[0].numpy() > 670, patch.targets.instances.numpy()
        overlap += (dense & (instances > 0)).sum()
        union += (dense | (instances > 0)).sum()
        seen = boxes_of(instances)
        ids = patch.targets.instance_ids.tolist()
        assert patch.targets.boxes.tolist() == [seen[i] for i in ids]
    assert overlap / union > 0.85


def test_cut_lesions_train_or_are_ignored_by_the_share_inside(store: Store) -> None:
    sampler = PatchSampler(store, CONFIG, seed=1, augment=False)
    labels = {"a": lesion_map(), "b1": lesion_map(LESIONS[1:]), "b2": lesion_map(LESIONS[:1])}
    cut, ignored = 0, 0
    for index in range(60):
        patch = sampler.sample(index)
        if patch.scan_id == "healthy":
            continue
        low = np.array(patch.center_zyx) - 16
        full = labels[patch.scan_id]
        z, y, x = (slice(int(c), int(c) + 32) for c in low)
        block = full[z, y, x]
        assert np.array_equal(patch.targets.instances.numpy(), block)
        shares = {i: (block == i).sum() / (full == i).sum() for i in np.unique(block) if i}
        trained = [i for i, share in shares.items() if share >= 0.3]
        assert patch.targets.instance_ids.tolist() == trained
        assert patch.targets.boxes.tolist() == [boxes_of(block)[i] for i in trained]
        rest = [boxes_of(block)[i] for i in shares if i not in trained]
        assert patch.targets.ignore_boxes.tolist() == rest
        cut += sum(share < 1 for share in shares.values())
        ignored += len(rest)
    assert cut > 5
    assert ignored > 2


def test_labels_follow_the_primary(store: Store) -> None:
    unknown = [replace(s, case=replace(s.case, primary=PrimaryTumour.UNKNOWN)) for s in store.scans]
    for scans, expected in (
        (store.scans[:1], LUNG), (store.scans[1:2], OTHER), (tuple(unknown[:1]), METASTASIS),
    ):  # fmt: skip
        sampler = PatchSampler(Store(scans, 1.0), CONFIG, seed=0)
        labels = [label for i in range(5) for label in sampler.sample(i).targets.labels.tolist()]
        assert set(labels) == {expected}


def test_patients_without_lesions_give_empty_targets(store: Store) -> None:
    sampler = PatchSampler(Store(store.scans[3:], 1.0), FULL, seed=0)
    for index in range(6):
        targets = sampler.sample(index).targets
        assert targets.boxes.shape == targets.ignore_boxes.shape == (0, 6)
        assert len(targets.labels) == len(targets.instance_ids) == 0
        assert not targets.instances.any()


def test_lesions_without_a_mask_have_boxes_and_no_id(tmp_path: Path) -> None:
    case = write_case(tmp_path)
    volume = scan_volume(lesion_map())
    voxels = np.array([[*low, *np.add(low, size)] for low, size in LESIONS], dtype=float)
    rows = [",".join(map(str, box)) for box in volume.boxes_to_world(voxels).tolist()]
    (tmp_path / "boxes.csv").write_text("\n".join(["x1,y1,z1,x2,y2,z2", *rows]))
    boxed = replace(case, mask=None, boxes=tmp_path / "boxes.csv")
    store = build_store([boxed], tmp_path / "store", 1.0)
    sampler = PatchSampler(store, FLIPPED, seed=0)
    near = 0
    for index in range(20):
        patch = sampler.sample(index)
        targets = patch.targets
        assert not targets.has_mask.any()
        assert not targets.instances.any()
        dense, _ = ndimage.label(patch.image[0].numpy() > DENSE_HU)
        seen = sorted(boxes_of(dense).values())
        found = torch.cat([targets.boxes, targets.ignore_boxes]).round().int().tolist()
        assert sorted(found) == seen
        near += len(targets.boxes) > 0
    assert near > 12
    turned = PatchSampler(store, TURNED, seed=0).sample(0)
    assert turned.targets.boxes.shape[1] == 6


def test_regions_to_ignore(tmp_path: Path) -> None:
    case = write_case(tmp_path)
    labels = lesion_map()
    regions = tmp_path / "ignore.nii"
    write_labels(regions, scan_volume(labels).with_voxels((labels == 2).astype(np.int16)))
    case = replace(case, mask=None, mask_kind=MaskKind.NONE, ignore=regions)
    store = build_store([case], tmp_path / "store", 1.0)
    seen = 0
    for index in range(12):
        patch = PatchSampler(store, CONFIG, seed=0, augment=False).sample(index)
        assert len(patch.targets.boxes) == 0
        low = np.array(patch.center_zyx) - 16
        z, y, x = (slice(int(c), int(c) + 32) for c in low)
        expected = list(boxes_of((labels[z, y, x] == 2).astype(np.int16)).values())
        assert patch.targets.ignore_boxes.tolist() == expected
        seen += len(expected)
    assert seen > 3


def test_a_lesion_that_falls_between_the_samples_is_ignored_not_background(tmp_path: Path) -> None:
    case = write_case(tmp_path, lesions=(((28, 24, 20), (1, 1, 1)),))
    store = build_store([case], tmp_path / "store", 1.0)
    shrunk = TURNED.updated({"augment.scale": (0.4, 0.4), "data.lesion_fraction": 1.0})
    lost = 0
    for index in range(20):
        targets = PatchSampler(store, shrunk, seed=0).sample(index).targets
        assert len(targets.boxes) + len(targets.ignore_boxes) == 1
        lost += len(targets.ignore_boxes)
    assert lost > 5


def test_a_scan_smaller_than_the_patch_lies_in_air(tmp_path: Path) -> None:
    small = FLIPPED.updated({"data.patch_size": (64, 64, 64)})
    store = build_store([write_case(tmp_path)], tmp_path / "store", 1.0)
    for index in range(5):
        patch = PatchSampler(store, small, seed=0).sample(index)
        assert len(patch.targets.boxes) == 3
        assert (patch.image == -1024).sum() >= 64**3 - np.prod(SHAPE)


def test_lesions_fall_anywhere_in_the_patch_and_patients_have_equal_shares(
    tmp_path: Path,
) -> None:
    lesion = (((30, 24, 20), (4, 4, 4)),)
    cases = [write_case(tmp_path, "a", lesion)]
    cases += [write_case(tmp_path, f"b{i}", lesion, patient_id="b") for i in range(3)]
    cases += [write_case(tmp_path, "healthy", ())]
    store = build_store(cases, tmp_path / "store", 1.0)
    config = CONFIG.updated({"data.patch_size": (16, 16, 16), "model.neck.levels": (2,),
                             "model.anchors.sizes_mm": ((8.0,),), "data.lesion_fraction": 1.0})  # fmt: skip
    sampler = PatchSampler(store, config, seed=0, augment=False)
    patches = [sampler.sample(index) for index in range(200)]
    middles = np.array([p.targets.boxes[0].reshape(2, 3).mean(dim=0).tolist() for p in patches])
    assert middles.min() <= 5.5
    assert middles.max() >= 10.5
    assert np.abs(middles.mean(axis=0) - 8).max() < 1
    share = np.mean([patch.scan_id == "a" for patch in patches])
    assert 0.4 < share < 0.6


def test_small_lesions_are_mildly_favoured(store: Store) -> None:
    config = CONFIG.updated({"data.lesion_fraction": 1.0})
    sampler = PatchSampler(Store(store.scans[:1], 1.0), config, seed=0)
    drawn = [tuple(sampler._choose(np.random.default_rng(i))[1][:3]) for i in range(300)]
    counts = [drawn.count(tuple(map(float, low))) for low, _ in LESIONS]
    assert sum(counts) == 300
    assert counts[1] < counts[0] < counts[2]
    assert counts[1] > 50


def test_patches_without_a_lesion_to_look_at_fall_on_bone(store: Store) -> None:
    config = CONFIG.updated({"data.lesion_fraction": 0.0})
    sampler = PatchSampler(store, config, seed=0)
    assert {sampler.sample(i).scan_id for i in range(30)} == {"a", "b1", "b2", "healthy"}
    assert all((sampler.sample(i).image > 200).any() for i in range(10))


def test_hard_backgrounds_have_their_share(store: Store) -> None:
    config = CONFIG.updated({"data.lesion_fraction": 0.2, "data.hard_background_fraction": 0.25})
    places = {
        "a": [[10.0, 30, 20, 16, 38, 26], [40.0, 5, 5, 44, 10, 9]],
        "b2": [[9.0] * 3 + [25.0] * 3],
    }
    boxes = {scan: np.array(of_scan) for scan, of_scan in places.items()}
    sampler = PatchSampler(store, config, seed=0, hard_places=boxes)
    drawn = [sampler._choose(np.random.default_rng(index)) for index in range(600)]
    hard = [
        (scan.case.scan_id, target.tolist())
        for scan, target in drawn
        if target.tolist() in places.get(scan.case.scan_id, [])
    ]
    assert len(hard) / 600 == pytest.approx(0.8 * 0.25, abs=0.05)
    assert sum(scan == "a" for scan, _ in hard) / len(hard) == pytest.approx(0.5, abs=0.15)
    assert {tuple(box) for _, box in hard} == {tuple(b) for of in places.values() for b in of}


def test_patches_hold_the_hard_background(store: Store) -> None:
    config = FLIPPED.updated({"data.lesion_fraction": 0.0, "data.hard_background_fraction": 1.0})
    box = np.array([10.0, 30, 20, 16, 38, 26])
    sampler = PatchSampler(store, config, seed=0, hard_places={"a": box[None]})
    for index in range(20):
        patch = sampler.sample(index)
        assert patch.scan_id == "a"
        low = np.array(patch.center_zyx) - 16
        assert (low <= box[:3]).all()
        assert (box[3:] <= low + 32).all()


def test_validation_patches_are_fixed_and_not_augmented(store: Store) -> None:
    config = FULL.updated({"data.val_patches": 4})
    first = list(validation_patches(store, config, seed=0))
    assert len(first) == 4
    assert all(same(a, b) for a, b in zip(first, validation_patches(store, config, 0), strict=True))
    assert all(float(p.image.frac().abs().max()) == 0 for p in first)
    training = PatchSampler(store, config, seed=0)
    assert not any(same(training.sample(i), first[i]) for i in range(4))


def test_images_are_normalised_as_at_inference(store: Store) -> None:
    config = FLIPPED.updated(
        {
            "preprocess.window_hu": (-100.0, 400.0),
            "preprocess.mean_hu": 90.0,
            "preprocess.std_hu": 70.0,
        }
    )
    raw = PatchSampler(store, FLIPPED, seed=0).sample(0).image
    ready = PatchSampler(store, config, seed=0).sample(0).image
    assert torch.allclose(ready, normalise(raw, config.preprocess), atol=1e-6)


def test_no_scans() -> None:
    with pytest.raises(InputError, match="no scans"):
        PatchSampler(Store((), 1.0), Config(), seed=0)
