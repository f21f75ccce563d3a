"""What the paper prints, digit for digit, to stand beside what was measured.

Zhao et al., J Bone Oncol 2024; 48: 100637: Table 1, Table 2, and the abstract, whose figures differ
from those of the tables throughout. What counts can lie behind them is in ``evaluation.audit``.
"""

from dataclasses import dataclass

TRAIN, TEST = "train", "test"
SIDES = (TRAIN, TEST)
OURS = "ConvNeXt-V2-Base"
"""The paper's own model: the only one for which it gives segmentation, and the abstract's."""

ROW_OF_FAMILY = {
    "resnet18": "ResNet-50",
    "resnet34": "ResNet-101",
    "resnet50": "ResNet-50",
    "resnet101": "ResNet-101",
    "convnext": "ConvNeXt-Base",
    "convnextv2": OURS,
    "yolov8": "YOLO-V8",
}
"""Which row of the paper a backbone stands beside: its own size, or the family's."""


@dataclass(frozen=True)
class Printed:
    """Figures as printed; empty where there is none.

    Attributes:
        table: in Table 1 or 2.
        interval: the 95 % interval there.
        abstract: in the abstract.
    """

    table: str = ""
    interval: str = ""
    abstract: str = ""


DSC, VOXEL_SENSITIVITY, VOXEL_SPECIFICITY = "DSC", "voxel sensitivity", "voxel specificity"
ACCURACY, AUC, SENSITIVITY, SPECIFICITY, F1 = "accuracy", "AUC", "sensitivity", "specificity", "F1"

# architecture, side: accuracy, AUC, its interval, sensitivity, specificity, F1
TABLE_2 = {
    ("ResNet-50", TRAIN): ("0.853", "0.931", "0.885 to 0.977", "0.830", "0.878", "0.854"),
    ("ResNet-50", TEST): ("0.864", "0.859", "0.713 to 1.000", "0.846", "0.889", "0.880"),
    ("ConvNeXt-Base", TRAIN): ("0.892", "0.939", "0.891 to 0.986", "0.906", "0.878", "0.897"),
    ("ConvNeXt-Base", TEST): ("0.864", "0.925", "0.844 to 1.000", "0.846", "0.889", "0.880"),
    ("ResNet-101", TRAIN): ("0.912", "0.976", "0.952 to 0.998", "0.868", "0.959", "0.911"),
    ("ResNet-101", TEST): ("0.864", "0.940", "0.876 to 1.000", "0.769", "1.000", "0.870"),
    (OURS, TRAIN): ("0.951", "0.991", "0.979 to 1.000", "0.925", "0.980", "0.951"),
    (OURS, TEST): ("0.886", "0.955", "0.901 to 1.000", "0.808", "1.000", "0.894"),
    ("YOLO-V8", TRAIN): ("0.853", "0.929", "0.881 to 0.976", "0.736", "0.980", "0.839"),
    ("YOLO-V8", TEST): ("0.841", "0.850", "0.706 to 0.994", "0.885", "0.778", "0.868"),
}
TABLE_1 = {TRAIN: "0.956", TEST: "0.929"}
ABSTRACT = {
    DSC: {TRAIN: "0.856", TEST: "0.849"},
    VOXEL_SENSITIVITY: {TRAIN: "0.921", TEST: "0.911"},
    VOXEL_SPECIFICITY: {TRAIN: "0.961", TEST: "0.931"},
    AUC: {TRAIN: "0.865", TEST: "0.842"},
    ACCURACY: {TRAIN: "0.866", TEST: "0.836"},
    SENSITIVITY: {TRAIN: "0.875", TEST: "0.847"},
    SPECIFICITY: {TRAIN: "0.835", TEST: "0.819"},
}


def paper_row(backbone: str) -> str:
    """Return the paper's architecture that a backbone stands beside."""
    family = backbone if backbone.startswith("resnet") else backbone.split("_", maxsplit=1)[0]
    family = "yolov8" if family.startswith("yolov8") else family
    return ROW_OF_FAMILY[family]


def printed(figure: str, row: str, side: str) -> Printed:
    """Return what the paper gives of one figure of an architecture; it may be nothing."""
    abstract = ABSTRACT.get(figure, {}).get(side, "") if row == OURS else ""
    if figure == DSC:
        return Printed(TABLE_1[side] if row == OURS else "", "", abstract)
    accuracy, auc, interval, sensitivity, specificity, f1 = TABLE_2[row, side]
    of_figure = {
        ACCURACY: accuracy,
        AUC: auc,
        SENSITIVITY: sensitivity,
        SPECIFICITY: specificity,
        F1: f1,
    }
    return Printed(of_figure.get(figure, ""), interval if figure == AUC else "", abstract)
