"""The second stage: from the lesions of one patient to the primary tumour.

Each lesion gives evidence, a linear function of its embedding, of what it looks like, of its own
p(lung) and of its size.
If lesions were independent given the primary, their evidence would add up; if they all told
the same, it would average. A learned exponent lies between: the patient's logit is
``bias + weight ** gamma * mean(evidence)``, where mean and weight count each lesion by the
detector's score. An ensemble fitted to resampled patients carries the uncertainty.

Attention-based pooling (Ilse et al., arXiv:1802.04712) is the general form; with a few
hundred patients these few parameters are what can be fitted.
"""

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from osteomet.structures import Detections

PENALTIES = (1.0, 3.0, 10.0, 30.0)
"""Of the weights of what a lesion's head says in plain numbers, to choose from."""

EMBEDDING_PENALTIES = (3.0, 10.0, 30.0, 100.0, 1e5)
"""Of the embedding's weights, to choose from; the last ignores the embedding."""

FOLDS = 5
FOLD_DRAWS = 3
"""The choice is made over so many ways of dealing the patients over the folds."""

Penalty = tuple[float, float]
"""Of the embedding's weights, and of the others."""


@dataclass(frozen=True, eq=False)
class LesionBags:
    """The lesions of many patients, padded to the longest.

    Attributes:
        features: ``(patients, lesions, d)``; 0 where there is no lesion.
        scores: ``(patients, lesions)`` of the detector; 0 where there is no lesion.
        embedding: how many of the ``d``, the first ones, are the embedding.
    """

    features: Float[Tensor, "patients lesions d"]
    scores: Float[Tensor, "patients lesions"]
    embedding: int = 0

    @classmethod
    def from_detections(cls, patients: "list[Detections]") -> "LesionBags":
        """Pad the lesions of each patient; a patient without a lesion is a row of zeros."""
        features = [lesion_features(lesions) for lesions in patients]
        longest = max(1, *(len(f) for f in features)) if features else 1
        width = features[0].shape[1] if features else 0
        embedding = patients[0].embeddings.shape[1] if patients else 0
        padded = torch.zeros(len(features), longest, width)
        scores = torch.zeros(len(features), longest)
        for i, (f, lesions) in enumerate(zip(features, patients, strict=True)):
            padded[i, : len(f)] = f
            scores[i, : len(f)] = lesions.scores
        return cls(padded, scores, embedding)

    def of(self, chosen: Bool[Tensor, " patients"]) -> "LesionBags":
        """Return the bags of the chosen patients."""
        return LesionBags(self.features[chosen], self.scores[chosen], self.embedding)


def lesion_features(lesions: Detections) -> Float[Tensor, "n d"]:
    """Return what the second stage reads: embedding, logits of p(lung) and looks, log size."""
    said = torch.cat([lesions.p_lung[:, None], lesions.attributes], dim=1)
    side = (lesions.boxes[:, 3:] - lesions.boxes[:, :3]).clamp(min=1).log().mean(dim=1)
    logits = said.clamp(1e-4, 1 - 1e-4).logit()
    return torch.cat([lesions.embeddings, logits, side[:, None]], dim=1).float()


class PrimaryModel(nn.Module):
    """An ensemble of evidence pooling models.

    Args:
        features: width of a lesion's features.
        members: models in the ensemble.
    """

    mean: Tensor
    std: Tensor
    prior: Tensor

    def __init__(self, features: int, members: int = 20) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(members, features))
        self.offset = nn.Parameter(torch.zeros(members))
        self.bias = nn.Parameter(torch.zeros(members))
        self.gamma_logit = nn.Parameter(torch.zeros(members))
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))
        self.register_buffer("prior", torch.tensor(0.5))

    def forward(self, bags: LesionBags) -> Float[Tensor, "members patients"]:
        """Return the logit of p(lung) of each patient by each member; 0 lesions give the bias."""
        x = (bags.features - self.mean) / self.std
        evidence = torch.einsum("pld,md->mpl", x, self.weight) + self.offset[:, None, None]
        weight = bags.scores.sum(dim=1)
        mean = (evidence * bags.scores).sum(dim=2) / weight.clamp(min=1e-6)
        exponent = self.gamma_logit.sigmoid()[:, None]
        return self.bias[:, None] + weight.clamp(min=1e-6)[None] ** exponent * mean

    @torch.no_grad()
    def predict(
        self, bags: LesionBags, prior_lung: float | None = None
    ) -> tuple[Float[Tensor, " patients"], Float[Tensor, "patients 2"]]:
        """Return p(lung) and the central 90 % of the ensemble for each patient.

        Args:
            bags: patients, each with at least one lesion to be meaningful.
            prior_lung: share of lung patients where it is used; None keeps the training's.
        """
        logits = self(bags)
        if prior_lung is not None:
            wanted = torch.tensor(prior_lung).clamp(1e-3, 1 - 1e-3).logit()
            logits = logits + wanted - self.prior.clamp(1e-3, 1 - 1e-3).logit()
        p = logits.sigmoid()
        bounds = torch.quantile(p, torch.tensor([0.05, 0.95]), dim=0).T
        return p.mean(dim=0), bounds


def fit_primary(
    bags: LesionBags,
    is_lung: Bool[Tensor, " patients"],
    members: int = 20,
    penalty: Penalty | None = None,
    seed: int = 0,
) -> PrimaryModel:
    """Fit the ensemble, each member to patients drawn with replacement.

    Args:
        bags: lesions as the detector finds them in patients it was not trained on.
        is_lung: truth of each patient.
        members: models in the ensemble.
        penalty: of the squared weights, in units of one patient's loss; None chooses among
            ``EMBEDDING_PENALTIES`` and ``PENALTIES`` by cross-validation.
        seed: of the resampling and of the folds.

    Raises:
        ValueError: only one class of patients has lesions.
    """
    has_lesion = bags.scores.sum(dim=1) > 0
    bags, truth = bags.of(has_lesion), is_lung[has_lesion].float()
    if not 0 < truth.sum() < len(truth):
        raise ValueError(
            f"{int(truth.sum())} of {len(truth)} patients with lesions have lung cancer; "
            "expected both kinds"
        )
    if penalty is None:
        penalty = _choose_penalty(bags, truth, seed)
    draws = torch.from_numpy(_bootstrap_counts(members, len(truth), seed))
    return _fit(bags, truth, draws, penalty)


def _choose_penalty(bags: LesionBags, truth: Float[Tensor, " patients"], seed: int) -> Penalty:
    """Return the penalties with the lowest loss on patients left out of the fit.

    Tens of numbers of an embedding against a hundred patients drown the few that the head says
    outright, so each kind has its own penalty: how far they can be trusted depends on the
    detector, and must be measured.
    """
    folds = [deal_over_folds(truth, seed + draw) for draw in range(FOLD_DRAWS)]
    choices = list(itertools.product(EMBEDDING_PENALTIES, PENALTIES))
    losses = [_left_out_loss(bags, truth, folds, penalty) for penalty in choices]
    return choices[int(np.argmin(losses))]


def _left_out_loss(
    bags: LesionBags,
    truth: Float[Tensor, " patients"],
    folds: "list[Int[Tensor, ' patients']]",
    penalty: Penalty,
) -> float:
    total = 0.0
    for fold, k in itertools.product(folds, range(FOLDS)):
        kept, held_out = fold != k, fold == k
        if not held_out.any() or truth[kept].unique().numel() < 2:
            continue  # fewer patients of a kind than folds
        model = _fit(bags.of(kept), truth[kept], torch.ones(1, int(kept.sum())), penalty)
        with torch.no_grad():
            logits = model(bags.of(held_out))[0]
        total += float(
            nn.functional.binary_cross_entropy_with_logits(logits, truth[held_out], reduction="sum")
        )
    return total


def deal_over_folds(truth: Float[Tensor, " patients"], seed: int) -> Int[Tensor, " patients"]:
    """Deal the patients of each kind over ``FOLDS`` folds, as evenly as they go."""
    fold = torch.zeros(len(truth), dtype=torch.int64)
    generator = np.random.default_rng(seed)
    for kind in (0, 1):
        rows = np.flatnonzero(truth.numpy() == kind)
        fold[torch.from_numpy(generator.permutation(rows))] = torch.arange(len(rows)) % FOLDS
    return fold


def _fit(
    bags: LesionBags,
    truth: Float[Tensor, " patients"],
    draws: Float[Tensor, "members patients"],
    penalty: Penalty,
) -> PrimaryModel:
    """Fit one model to each row of ``draws``, which says how often each patient counts."""
    model = PrimaryModel(bags.features.shape[2], len(draws))
    lesions = bags.features[bags.scores > 0]
    model.mean.copy_(lesions.mean(dim=0))
    model.std.copy_(lesions.std(dim=0, correction=0).clamp(min=1e-3))
    model.prior.copy_(truth.mean())
    penalties = torch.full_like(model.mean, penalty[1])
    penalties[: bags.embedding] = penalty[0]
    optimiser = torch.optim.LBFGS(model.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        optimiser.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(
            model(bags), truth.expand(len(draws), -1), weight=draws, reduction="sum"
        )
        loss = (
            loss
            + (penalties * model.weight.square()).sum()
            + 0.1 * model.gamma_logit.square().sum()
        )
        loss.backward()
        return loss

    optimiser.step(objective)
    return model.eval()


def _bootstrap_counts(members: int, patients: int, seed: int) -> Float[np.ndarray, "m p"]:
    generator = np.random.default_rng(seed)
    counts = generator.multinomial(patients, np.full(patients, 1 / patients), size=members)
    return counts.astype(np.float32)
