"""Small data sets on disk, each in its own structure, around the same patients."""

import csv
import json
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from openpyxl import Workbook

from osteomet.io.volumes import write_labels, write_volume
from osteomet.volume import Volume

SHAPE = (10, 24, 20)
LESION = (slice(3, 6), slice(8, 13), slice(6, 10))
OTHER = (slice(6, 8), slice(15, 18), slice(11, 15))


def scan(seed: int = 0) -> Volume:
    """A block of bone in air."""
    noise = np.random.default_rng(seed).integers(-20, 20, SHAPE)
    voxels = (noise - 1000).astype(np.int16)
    voxels[1:-1, 3:-3, 3:-3] += 1300
    return Volume.from_spacing(voxels, (2.5, 1.0, 1.2), (-10.0, 20.0, -300.5))


def label_map(first: int = 1, second: int = 1) -> Volume:
    labels = np.zeros(SHAPE, dtype=np.int16)
    labels[LESION], labels[OTHER] = first, second
    return scan().with_voxels(labels)


def put(path: Path, volume: Volume) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (write_labels if volume.voxels.max() < 100 else write_volume)(path, volume)
    return path


def table(path: Path, columns: str, *rows: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([columns, *rows]) + "\n", encoding="utf-8")
    return path


def nnunet(folder: Path, names: tuple[str, ...] = ("a", "b"), **settings: object) -> Path:
    for name in names:
        put(folder / "imagesTr" / f"{name}_0000.nii.gz", scan())
        put(folder / "labelsTr" / f"{name}.nii.gz", label_map())
    content = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "lesion": 1}, **settings}
    (folder / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def nndetection(folder: Path) -> Path:
    for name, classes in (("a", {"1": 0, "2": 0}), ("b", {"1": 1, "2": 1})):
        put(folder / "raw_splitted" / "imagesTr" / f"{name}_0000.nii.gz", scan())
        put(folder / "raw_splitted" / "labelsTr" / f"{name}.nii.gz", label_map(1, 2))
        (folder / "raw_splitted" / "labelsTr" / f"{name}.json").write_text(
            json.dumps({"instances": classes}), encoding="utf-8"
        )
    content = {"labels": {"0": "lung", "1": "other"}, "modalities": {"0": "CT"}, "dim": 3}
    (folder / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def blds(folder: Path) -> Path:
    for name in ("1", "2", "3"):
        put(folder / f"{name}.nii.gz", scan())
    table(
        folder / "boxes.csv",
        "image_path,class,x,y,z,width,height,depth",
        "1.nii.gz,osteoma,-1,30,-290,6,5,7.5",
        "2.nii.gz,osteoma,-1,30,-290,6,5,7.5",
        "2.nii.gz,osteoma,4,36,-284,5,3,5",
    )
    return folder


def uls23(folder: Path) -> Path:
    root = folder / "ULS23" / "novel_data" / "ULS23_Radboudumc_Bone"
    for name in ("bone_00001_lesion_01", "bone_00001_lesion_02", "bone_00002_lesion_01"):
        labels = label_map(1, 0)
        put(root / "labels" / f"{name}.nii.gz", labels)
        image = put(root / "images" / f"{name}.nii.gz", scan())
        if name.endswith("02"):  # some files of the set have a trailing axis of one
            sitk.WriteImage(sitk.JoinSeries(sitk.ReadImage(str(image))), str(image))
    return folder


def deeplesion(folder: Path) -> Path:
    """Slices count from head to foot; a lesion as in ``scan`` is seen from the other end."""
    voxels = scan().voxels[::-1]
    for number, plane in enumerate(voxels, start=101):
        path = folder / "Images_png" / "000007_01_02" / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(
            sitk.GetImageFromArray((plane.astype(int) + 32768).astype(np.uint16)), str(path)
        )
    with (folder / "DL_info.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(
            [
                "File_name",
                "Patient_index",
                "Key_slice_index",
                "Bounding_boxes",
                "Lesion_diameters_Pixel_",
                "Coarse_lesion_type",
                "Possibly_noisy",
                "Slice_range",
                "Spacing_mm_px_",
                "Patient_gender",
                "Patient_age",
                "Train_Val_Test",
            ]
        )
        row = ["000007_01_02_106.png", 7, 106, "1, 3, 14, 17", "5, 4.8", 1, 0, "101, 110"]
        writer.writerow([*row, "1.2, 1.0, 2.5", "F", 63, 3])
        row = ["000008_01_01_050.png", 8, 50, "1, 3, 14, 17", "5, 4.8", -1, 0, "40, 60"]
        writer.writerow([*row, "1.2, 1.0, 2.5", "M", "NaN", 1])
        row = ["000009_01_01_050.png", 9, 50, "1, 3, 14, 17", "5, 4.8", 1, 0, "40, 60"]
        writer.writerow([*row, "1.2, 1.0, 2.5", "M", 70, 2])
    return folder


def spreadsheet(path: Path, *rows: tuple[object, ...]) -> Path:
    book = Workbook()
    sheet = book.active
    sheet.title = "Spine-Mets-CT-SEG"
    sheet.append(
        [
            "Case",
            "Age (Y)",
            "Sex",
            "Primary cancer",
            "Vertebrae with Lesions",
            "Blastic",
            "Lytic",
            "Mixed",
        ]
    )
    for row in rows:
        sheet.append(list(row))
    path.parent.mkdir(parents=True, exist_ok=True)
    book.save(path)
    return path
