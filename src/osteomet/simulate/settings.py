"""What a simulated cohort is drawn from."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

SIMULATION_VERSION = 5
"""Raised whenever the same seed would give other voxels."""

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]


class SimulationConfig(BaseModel):
    """Priors of a simulated cohort.

    Attributes:
        lung_share: probability that a patient's primary is lung cancer.
        lesion_free_share: probability that a patient has no metastasis in the field of view.
        median_lesions: median number of metastases of the others.
        max_lesions: most metastases in one field of view.
        median_diameter_mm: median equivalent sphere diameter of a metastasis.
        diameter_spread: standard deviation of the logarithm of the diameter. With the
            median it gives percentiles 5/25/75/95 of 5.8/10.1/21.7/37.5 mm before
            clipping to the bone; ULS23's bone lesions have 5.8/10.2/21.9/34.7 mm.
        benign_findings: mean number of unlabelled mimics per patient.
        thoracic_share: probability of a field of view around the thoracic spine and ribs.
        lumbar_share: the same for the lumbar spine; the rest show the pelvis.
        field_mm: range of the side of the field of view.
        noise_scale: factor on the noise of every scanner.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    lung_share: Share = 0.4
    lesion_free_share: Share = 0.15
    median_lesions: Positive = 3.0
    max_lesions: Annotated[int, Field(ge=1, le=100)] = 12
    median_diameter_mm: Positive = 14.8
    diameter_spread: Annotated[float, Field(ge=0.0)] = 0.566
    benign_findings: Annotated[float, Field(ge=0.0)] = 4.0
    thoracic_share: Share = 0.35
    lumbar_share: Share = 0.3
    field_mm: tuple[Positive, Positive] = (120.0, 150.0)
    noise_scale: Annotated[float, Field(ge=0.0)] = 1.0

    @model_validator(mode="after")
    def _regions_and_field_are_possible(self) -> "SimulationConfig":
        if self.thoracic_share + self.lumbar_share > 1.0:
            raise ValueError("thoracic_share and lumbar_share sum to more than 1")
        if not 30.0 <= self.field_mm[0] <= self.field_mm[1] <= 400.0:
            raise ValueError("field_mm must be (low, high) with 30 <= low <= high <= 400")
        return self
