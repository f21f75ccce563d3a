"""What a simulated cohort is drawn from."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from osteomet.errors import ConfigError

SIMULATION_VERSION = 5
"""Raised whenever the same seed would give other voxels."""

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Side = Annotated[int, Field(ge=16, le=2048)]
Voxels = tuple[Side, Side, Side]

TRUNK = "trunk"
REGIONS = ("thoracic", "lumbar", "pelvis", "shoulder", "femur", TRUNK)
FIELDS: dict[str, Voxels | None] = {
    "small": None,
    "standard": (160, 256, 256),
    TRUNK: (700, 512, 512),
}
"""Fields of view by name: a quick one, that of a usual crop, and the whole trunk."""

IN_A_TRUNK = {"max_lesions": 21, "benign_findings": 10.0, "fractures": 1.0}
"""A whole trunk has room for more; 21 lesions are the most in a case of the ULS23 set."""


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
        benign_findings: mean number of small unlabelled mimics per patient.
        fractures: mean number of benign fractures, acute and healed, at the age of 70.
        implant_share: probability of metal in the field of view.
        cement_share: probability of a vertebra filled with cement.
        thoracic_share: probability of a field of view around the thoracic spine and ribs.
        lumbar_share: the same for the lumbar spine; the rest show the pelvis.
        region: shown by every patient, one of ``REGIONS``; None draws it by these shares.
        field_mm: range of the side of the field of view.
        shape_zyx: voxels of every scan, in thin slices; None draws the field in mm instead.
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
    fractures: Annotated[float, Field(ge=0.0)] = 0.4
    implant_share: Share = 0.06
    cement_share: Share = 0.04
    thoracic_share: Share = 0.35
    lumbar_share: Share = 0.3
    region: str | None = None
    field_mm: tuple[Positive, Positive] = (120.0, 150.0)
    shape_zyx: Voxels | None = None
    noise_scale: Annotated[float, Field(ge=0.0)] = 1.0

    @model_validator(mode="after")
    def _regions_and_field_are_possible(self) -> "SimulationConfig":
        if self.thoracic_share + self.lumbar_share > 1.0:
            raise ValueError("thoracic_share and lumbar_share sum to more than 1")
        if self.region is not None and self.region not in REGIONS:
            raise ValueError(f"region {self.region!r}; expected one of {', '.join(REGIONS)}")
        if not 30.0 <= self.field_mm[0] <= self.field_mm[1] <= 400.0:
            raise ValueError("field_mm must be (low, high) with 30 <= low <= high <= 400")
        return self

    def showing(self, region: str | None, field: str) -> "SimulationConfig":
        """Return the same priors for one region and one of ``FIELDS``.

        Args:
            region: one of ``REGIONS``; None keeps the shares, and a trunk for its field.
            field: one of ``FIELDS``.

        Raises:
            ConfigError: there is no such region or field.
        """
        if field not in FIELDS:
            raise ConfigError(f"field {field!r}; expected one of {', '.join(FIELDS)}")
        if region is None and field == TRUNK:
            region = TRUNK
        if region is not None and region not in REGIONS:
            raise ConfigError(f"region {region!r}; expected one of {', '.join(REGIONS)}")
        more = IN_A_TRUNK if region == TRUNK else {}
        return self.model_copy(update={**more, "region": region, "shape_zyx": FIELDS[field]})
