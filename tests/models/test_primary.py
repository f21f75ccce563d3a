import pytest
import torch

from osteomet.models.primary import LesionBags, fit_primary
from osteomet.structures import Detections


def patient(lung: bool, lesions: int, generator: torch.Generator) -> Detections:
    signal = torch.randn(lesions, 1, generator=generator) + (0.8 if lung else -0.8)
    noise = torch.randn(lesions, 3, generator=generator)
    return Detections(
        boxes=torch.tensor([[0.0, 0, 0, 9, 9, 9]]).repeat(lesions, 1),
        scores=torch.full((lesions,), 0.9),
        p_lung=torch.full((lesions,), 0.5),
        embeddings=torch.cat([signal, noise], dim=1),
        mask_boxes=torch.zeros(lesions, 6),
        masks=torch.zeros(lesions, 2, 2, 2),
    )


def cohort(n: int, seed: int) -> tuple[LesionBags, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    lung = torch.arange(n) % 2 == 0
    counts = torch.randint(1, 8, (n,), generator=generator).tolist()
    patients = [patient(bool(y), k, generator) for y, k in zip(lung, counts, strict=True)]
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
