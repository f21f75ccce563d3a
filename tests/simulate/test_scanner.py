import dataclasses

import numpy as np
import pytest

from osteomet.simulate.artefacts import Rays, hardened, noise_strength, upsampled
from osteomet.simulate.quantum_noise import NoiseTexture
from osteomet.simulate.scanner import (
    CENTRES,
    HABITS,
    Protocol,
    average_slices,
    draw_protocol,
    scan,
    slice_profile,
)
from osteomet.simulate.settings import SimulationConfig

SHAPE, SPACING = (6, 96, 96), (2.0, 1.0, 1.0)
RAYS = Rays.through(SHAPE, SPACING)


def protocol(**changes: object) -> Protocol:
    drawn = draw_protocol(np.random.default_rng(0), SimulationConfig(), "A")
    plain = dataclasses.replace(
        drawn, spacing_zyx_mm=SPACING, shape_zyx=SHAPE, substeps=2, thickness_mm=2.0,
        kilovolts=120, sharpening=0.0, hardening=0.0, offset_hu=0.0, noise_hu=10.0,
        body_mm=(48.0, 48.0),
    )  # fmt: skip
    return dataclasses.replace(plain, **changes)


def disc(radius, hu=0.0):
    """Return a cylinder of water in air, drawn at two slices a slice."""
    y, x = np.mgrid[:96, :96] - 47.5
    plane = np.where(np.hypot(y, x) < radius, hu, -1000.0).astype(np.float32)
    return np.repeat(plane[None], 12, axis=0)


def test_rays_keep_the_mass_of_a_slice():
    cells = np.random.default_rng(0).random(RAYS.shape).astype(np.float32)

    sinogram = RAYS.project(cells)

    expected = np.broadcast_to(cells.sum(axis=(1, 2)) * RAYS.size_mm, sinogram.shape[::2])
    np.testing.assert_allclose(sinogram.sum(axis=1), expected, rtol=1e-4)


def test_path_through_a_cylinder_is_its_chord():
    water = average_slices(disc(30.0), 2) / 1000 + 1
    sinogram = RAYS.project(RAYS.cells(iter(water)))

    np.testing.assert_allclose(sinogram[:, RAYS.bins // 2], 60.0, rtol=0.06)


def test_noise_is_stronger_in_the_middle_and_along_long_paths():
    # A wide body: rays from left to right are weakened most, so views of them are noisiest.
    y, x = np.mgrid[:96, :96] - 47.5
    wide = np.where((x / 46) ** 2 + (y / 20) ** 2 < 1, 0.0, -1000.0).astype(np.float32)
    cells = RAYS.cells(iter(np.repeat(wide[None], 6, axis=0)))

    strength = noise_strength(RAYS, cells, (46.0, 20.0))

    middle = strength[:, 1, RAYS.shape[1] // 2, RAYS.shape[2] // 2]
    # Rays along x are the views whose frequencies lie along y: the sectors around 90 degrees.
    assert middle[2:4].min() > 1.15 * max(middle[0], middle[-1])
    assert middle.mean() > strength[:, 1, RAYS.shape[1] // 2, 1].mean()


def test_noise_has_the_deviation_and_the_spectrum_asked_for():
    texture = NoiseTexture.of((128, 128), (0.8, 0.8), 0.5, 6)
    rng = np.random.default_rng(0)
    even = np.ones((6, 128, 128), np.float32)

    field = np.stack([texture.draw(rng, even) for _ in range(12)])

    assert field.std() == pytest.approx(1.0, rel=0.05)
    # Reconstruction takes low frequencies away; blurred white noise has most there.
    power = (np.abs(np.fft.fft2(field)) ** 2).mean(axis=0)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(128, 0.8), np.fft.fftfreq(128, 0.8)))
    low = power[(frequency > 0) & (frequency < 0.05)].mean()
    assert low < 0.6 * power[(frequency > 0.2) & (frequency < 0.35)].mean()
    neighbours = (field[1:] * field[:-1]).mean() / field.var()
    assert neighbours == pytest.approx(0.3, abs=0.1)


def test_scan_of_water_has_the_noise_of_its_protocol():
    recorded = scan(np.random.default_rng(0), protocol(), disc(44.0), 1.0)

    inner = recorded[:, 28:68, 28:68]
    assert inner.mean() == pytest.approx(0.0, abs=1.5)
    assert inner.std() == pytest.approx(10.0, rel=0.25)


def test_without_noise_water_is_zero():
    recorded = scan(np.random.default_rng(0), protocol(offset_hu=-7.0), disc(44.0), 0.0)

    np.testing.assert_array_equal(recorded[:, 40:56, 40:56], -7)


def test_metal_leaves_dark_streaks_between_its_pieces():
    water = average_slices(disc(44.0), 2)
    water[:, 44:52, 24:30] = 9000.0
    water[:, 44:52, 66:72] = 9000.0
    cells = RAYS.cells(iter(water))

    streaks = hardened(RAYS, cells, 0.03)

    between = upsampled(RAYS, streaks, 3)[46:50, 44:52].mean()
    beside = upsampled(RAYS, streaks, 3)[20:24, 44:52].mean()
    assert between < -60
    assert abs(beside) < 0.5 * abs(between)


def test_without_dense_matter_nothing_hardens():
    cells = RAYS.cells(iter(average_slices(disc(44.0), 2)))

    assert not hardened(RAYS, cells, 0.05).any()


@pytest.mark.parametrize("overlap", [1.0, 1.3, 1.7])
def test_slices_average_what_their_thickness_covers(overlap):
    weights = slice_profile(protocol(thickness_mm=2.0 * overlap))

    # Many points across the slice, each in one of the drawn slices of 1 mm around it.
    points = np.linspace(-overlap, overlap, 100_001) * 0.999999
    found = np.bincount(np.floor(points + len(weights) / 2).astype(int), minlength=len(weights))
    np.testing.assert_allclose(weights, found / len(points), atol=1e-4)


def test_protocol_of_a_given_size_has_thin_slices():
    config = SimulationConfig().showing("lumbar", "standard")

    drawn = [draw_protocol(np.random.default_rng(k), config) for k in range(30)]

    assert {one.shape_zyx for one in drawn} == {(160, 256, 256)}
    assert max(one.spacing_zyx_mm[0] for one in drawn) <= 1.5


@pytest.mark.parametrize("centre", CENTRES)
def test_protocol_keeps_to_the_habits_of_its_centre(centre):
    habits, rng = HABITS[centre], np.random.default_rng(0)

    drawn = [draw_protocol(rng, SimulationConfig(), centre) for _ in range(300)]

    assert {one.centre for one in drawn} == {centre}
    assert all(habits.noise_hu[0] <= one.noise_hu <= habits.noise_hu[1] for one in drawn)
    assert {one.spacing_zyx_mm[0] for one in drawn} == set(habits.steps_mm)
    plain = np.mean([one.contrast_hu == 0 for one in drawn])
    assert plain == pytest.approx(habits.phases[0], abs=0.08)
