from dataclasses import replace

import pytest
import torch

from osteomet.models.primary import EMBEDDING_PENALTIES, LesionBags, Penalty, fit_primary
from osteomet.structures import Detections


def patient(
    lung: bool,
    lesions: int,
    generator: torch.Generator,
    noise_features: int = 3,
    strength: float = 0.8,
) -> Detections:
    signal = torch.randn(lesions, 1, generator=generator) + (strength if lung else -strength)
    noise = torch.randn(lesions, noise_features, generator=generator)
    return Detections(
        boxes=torch.tensor([[0.0, 0, 0, 9, 9, 9]]).repeat(lesions, 1),
        scores=torch.full((lesions,), 0.9),
        p_lung=torch.full((lesions,), 0.5),
        embeddings=torch.cat([signal, noise], dim=1),
        attributes=torch.zeros(lesions, 0),
        mask_boxes=torch.zeros(lesions, 6),
        masks=torch.zeros(lesions, 2, 2, 2),
    )


def cohort(
    n: int, seed: int, noise_features: int = 3, strength: float = 0.8
) -> tuple[LesionBags, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    lung = torch.arange(n) % 2 == 0
    counts = torch.randint(1, 8, (n,), generator=generator).tolist()
    patients = [
        patient(bool(y), k, generator, noise_features, strength)
        for y, k in zip(lung, counts, strict=True)
    ]
    return LesionBags.from_detections(patients), lung


def test_it_learns_from_many_lesions_more_than_from_one() -> None:
    model = fit_primary(*cohort(200, 0), members=5)
    bags, lung = cohort(200, 1)
    p, interval = model.predict(bags)
    right = ((p > 0.5) == lung).float()
    many = (bags.scores > 0).sum(dim=1) >= 4
    assert right[many].mean() > right[~many].mean()
    assert right[many].mean() > 0.9
    assert ((interval[:, 0] <= p) & (p <= interval[:, 1])).float().mean() > 0.9


def test_the_penalties_fit_the_noise_in_the_features() -> None:
    bags, lung = cohort(60, 0, noise_features=40, strength=0.3)
    unseen, truth = cohort(400, 1, noise_features=40, strength=0.3)

    def loss(penalty: Penalty | None) -> float:
        p, _ = fit_primary(bags, lung, members=5, penalty=penalty).predict(unseen)
        return float(torch.nn.functional.binary_cross_entropy(p, truth.float()))

    chosen, others = loss(None), [loss((e, 3.0)) for e in EMBEDDING_PENALTIES]
    assert chosen < min(others) + 0.05
    assert chosen < max(others) - 0.05


def test_an_embedding_of_noise_does_not_drown_what_the_head_says() -> None:
    def looks(n: int, seed: int) -> tuple[LesionBags, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        lung = torch.arange(n) % 2 == 0
        patients = []
        for y in lung:
            plain = patient(bool(y), 3, generator, 30, strength=0.0)
            said = torch.randn(3, 4, generator=generator) + (0.5 if y else -0.5)
            patients.append(replace(plain, attributes=said.sigmoid()))
        return LesionBags.from_detections(patients), lung

    bags, lung = looks(80, 0)
    unseen, truth = looks(400, 1)
    p, _ = fit_primary(bags, lung, members=5).predict(unseen)
    q, _ = fit_primary(bags, lung, members=5, penalty=(3.0, 3.0)).predict(unseen)
    log_loss = torch.nn.functional.binary_cross_entropy
    assert log_loss(p, truth.float()) < log_loss(q, truth.float())
    assert ((p > 0.5) == truth).float().mean() > 0.85


def test_few_patients_of_a_kind_can_be_fitted() -> None:
    bags, _ = cohort(7, 0)
    lung = torch.tensor([True] + [False] * 6)
    p, _ = fit_primary(bags, lung, members=3).predict(bags)
    assert p.isfinite().all()


def test_another_prior_moves_the_probability_by_its_odds() -> None:
    model = fit_primary(*cohort(60, 0), members=1)
    bags, _ = cohort(4, 1)
    p, _ = model.predict(bags)
    moved, _ = model.predict(bags, prior_lung=0.8)
    torch.testing.assert_close(
        moved.logit() - p.logit(), torch.full((4,), 4.0).log(), atol=1e-3, rtol=0
    )


def test_patients_without_lesions_are_padded_and_not_fitted() -> None:
    generator = torch.Generator().manual_seed(0)
    bags = LesionBags.from_detections([patient(True, 0, generator), patient(False, 3, generator)])
    assert bags.scores.tolist()[0] == [0, 0, 0]
    with pytest.raises(ValueError, match="both kinds"):
        fit_primary(bags, torch.tensor([True, False]))
