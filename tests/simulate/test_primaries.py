import numpy as np
import pytest

from osteomet.errors import ConfigError
from osteomet.findings import PrimaryTumour
from osteomet.simulate.primaries import (
    APPEARANCES,
    LUNG,
    OTHERS,
    LesionType,
    draw_age_and_sex,
    draw_appearances,
    draw_count,
    draw_tumour,
)
from osteomet.simulate.settings import SimulationConfig


def share_of(kind, tumour, patients=400):
    rng = np.random.default_rng(0)
    drawn = np.concatenate([draw_appearances(rng, tumour, 4) for _ in range(patients)])
    return np.mean([APPEARANCES[k].type is kind for k in drawn])


@pytest.mark.parametrize("tumour", [LUNG, *[t for _, t in OTHERS]], ids=lambda t: t.name)
def test_shares_of_a_tumour_sum_to_one(tumour):
    assert tumour.shares().sum() == pytest.approx(1.0)


def test_shares_of_the_other_tumours_sum_to_one():
    assert sum(share for share, _ in OTHERS) == pytest.approx(1.0)


def test_types_depend_on_the_primary():
    prostate = next(t for _, t in OTHERS if t.name == "prostate")

    assert share_of(LesionType.LYTIC, LUNG) > 0.55
    assert share_of(LesionType.SCLEROTIC, LUNG) < 0.2
    assert share_of(LesionType.SCLEROTIC, prostate) > 0.75


def test_sex_follows_the_primary():
    rng = np.random.default_rng(0)
    prostate = next(t for _, t in OTHERS if t.name == "prostate")

    assert {draw_age_and_sex(rng, prostate)[1] for _ in range(50)} == {"M"}


def test_share_of_lung_is_the_one_asked_for():
    rng = np.random.default_rng(0)

    drawn = [draw_tumour(rng, 0.4)[0] for _ in range(2000)]

    assert np.mean([p is PrimaryTumour.LUNG for p in drawn]) == pytest.approx(0.4, abs=0.04)


def test_counts_of_lesions():
    rng = np.random.default_rng(0)

    counts = np.array([draw_count(rng, SimulationConfig()) for _ in range(2000)])

    assert np.mean(counts == 0) == pytest.approx(0.15, abs=0.03)
    assert np.median(counts[counts > 0]) == 3
    assert counts.max() == 12


def test_presets_choose_region_and_field():
    config = SimulationConfig(lung_share=0.2)

    assert config.showing(None, "small") == config
    assert config.showing("pelvis", "standard").shape_zyx == (160, 256, 256)
    assert config.showing("pelvis", "standard").region == "pelvis"
    trunk = config.showing(None, "trunk")
    assert (trunk.region, trunk.shape_zyx, trunk.max_lesions) == ("trunk", (700, 512, 512), 21)
    assert trunk.lung_share == 0.2


@pytest.mark.parametrize(("region", "field"), [("skull", "small"), ("pelvis", "huge")])
def test_unknown_presets_are_refused(region, field):
    with pytest.raises(ConfigError, match="expected one of"):
        SimulationConfig().showing(region, field)
