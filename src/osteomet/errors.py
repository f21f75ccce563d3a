"""What osteomet raises when a user's input, setting or file cannot be used.

A message says what was found, where, what was expected and what to do next, and never
holds a patient's name. The command line prints it as one line and exits with code 2.
Mistakes of a programmer stay ``ValueError`` and ``TypeError``.
"""


class OsteometError(Exception):
    """Base class: whoever embeds osteomet catches this one."""


class ConfigError(OsteometError):
    """A setting is unknown, of the wrong kind or out of range."""


class InputError(OsteometError):
    """A file or folder given as input cannot be used."""


class NotCTError(InputError):
    """The image is of another modality, or its values cannot be Hounsfield units."""


class GeometryError(InputError):
    """Slices are missing or uneven, or the axes of the voxel grid are not orthogonal."""


class AnnotationError(InputError):
    """A mask, a box file or a row of a cohort does not fit its scan."""


class StoreError(InputError):
    """The store of resampled scans cannot be written, or what is in it is damaged."""


class CheckpointError(OsteometError):
    """Weights or a training state cannot be read, or belong to another configuration."""


class ReportError(OsteometError):
    """A report or a result file cannot be written."""


class TrainingError(OsteometError):
    """Training cannot go on: losses or gradients are not finite."""
