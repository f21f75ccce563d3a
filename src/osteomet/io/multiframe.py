"""Enhanced CT: many frames in one file, described by functional groups (PS3.3 C.7.6.16).

A frame's attributes lie in its own functional groups or, where all frames agree, in the
shared ones. Both are flattened, so that the rest of the reader sees ordinary frames.
"""

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from osteomet.io.dicom_files import DicomFile
from osteomet.io.dicom_headers import Frame, make_frame


def frames_of(file: DicomFile, dataset: Dataset) -> list[Frame]:
    """Return the frames of a multi-frame file, in the order of its pixels."""
    shared = [
        group
        for item in dataset.get("SharedFunctionalGroupsSequence") or []
        for group in _groups(item)
    ]
    return [
        make_frame(file, index, dataset, [*_groups(item), *shared])
        for index, item in enumerate(dataset.PerFrameFunctionalGroupsSequence)
    ]


def _groups(item: Dataset) -> list[Dataset]:
    """Return the single items of all functional groups in one item of the sequence."""
    sequences = [element.value for element in item if isinstance(element.value, Sequence)]
    return [sequence[0] for sequence in sequences if len(sequence) > 0]
