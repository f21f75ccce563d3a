"""Which device computes."""

import torch

from osteomet.errors import ConfigError

DEVICES = ("auto", "cpu", "cuda", "mps")


def choose_device(name: str = "auto") -> torch.device:
    """Return the device of a name; ``auto`` is a CUDA GPU if there is one, else the CPU.

    Raises:
        ConfigError: the name is unknown, or this machine has no such device.
    """
    kind = name.partition(":")[0]
    if kind not in DEVICES:
        raise ConfigError(f"device {name!r}: expected one of {', '.join(DEVICES)}")
    if kind == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if not there[kind]:
        raise ConfigError(
            f"device {name!r}: torch {torch.__version__} finds none on this machine; use "
            "--device cpu, or install a torch built for it"
        )
    return torch.device(name)
