"""What nnU-Net does to prepare a scan; run by `prepare.py` with an interpreter that has nnU-Net.

It takes image, mask, folder and order of interpolation, and prints one line of JSON. With order
"check" it resamples the image alone, linearly and without windowing, and leaves it in the folder.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

SPACING_MM = 1.0
RESAMPLING = "resample_data_or_seg_to_shape"


def plans(order: int, *, wide: bool) -> PlansManager:
    """Return plans for an isotropic grid, with nnU-Net's own settings for CT."""
    limit = 1e9
    intensities = {
        "mean": 0.0 if wide else 100.0,
        "std": 1.0 if wide else 300.0,
        "percentile_00_5": -limit if wide else -300.0,
        "percentile_99_5": limit if wide else 1300.0,
    }
    configuration = {
        "data_identifier": "data",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [128, 128, 128],
        "spacing": [SPACING_MM] * 3,
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "architecture": {},
        "resampling_fn_data": RESAMPLING,
        "resampling_fn_seg": RESAMPLING,
        "resampling_fn_data_kwargs": {
            "is_seg": False, "order": order, "order_z": 0,
            "force_separate_z": False if wide else None,
        },
        "resampling_fn_seg_kwargs": {
            "is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None,
        },
    }  # fmt: skip
    return PlansManager(
        {
            "dataset_name": "Dataset001_Bench",
            "plans_name": "plans",
            "image_reader_writer": "SimpleITKIO",
            "transpose_forward": [0, 1, 2],
            "transpose_backward": [0, 1, 2],
            "label_manager": "LabelManager",
            "foreground_intensity_properties_per_channel": {"0": intensities},
            "configurations": {"3d_fullres": configuration},
        }
    )


def peak_mb() -> float:
    """Return the most memory so far; getrusage would count the process that started this one."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def main() -> None:
    """Prepare one scan, and say what it took."""
    image, mask, folder, order = sys.argv[1:]
    torch.set_num_threads(1)
    manager = plans(1 if order == "check" else int(order), wide=order == "check")
    configuration = manager.get_configuration("3d_fullres")
    dataset = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "lesion": 1},
        "file_ending": ".nii.gz",
    }
    preprocessor = DefaultPreprocessor(verbose=False)
    target = str(Path(folder) / "case")
    started_mb = peak_mb()
    cpu, wall = time.process_time(), time.perf_counter()
    if order == "check":
        data, _, _ = preprocessor.run_case([image], mask, manager, configuration, dataset)
        np.save(target, data[0])
    else:
        preprocessor.run_case_save(target, [image], mask, manager, configuration, dataset)
    found = {
        "cpu_s": time.process_time() - cpu,
        "wall_s": time.perf_counter() - wall,
        "peak_mb": peak_mb(),
        "started_mb": started_mb,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
