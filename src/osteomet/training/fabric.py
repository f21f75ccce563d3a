"""Device, precision and processes of a run, as Fabric."""

import os

import torch
from lightning_fabric import Fabric

from osteomet.errors import ConfigError
from osteomet.training.update import OneMachine


def make_fabric(device: str, precision: str, processes: int = 1) -> Fabric:
    """Return Fabric on ``auto``, ``cpu``, ``cuda`` or ``mps``.

    ``auto`` takes CUDA if there is a card, else the CPU: MPS lacks 3D operators that training
    needs, so that it must be asked for.

    With several ``processes`` the command is started again for each of them, unless a
    launcher such as torchrun has done so, whose numbers count then. Each one gets its share
    of the processor's cores, or a card of its own.

    Raises:
        ConfigError: the device is unknown or not there.
    """
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if device == "auto":
        device = "cuda" if available["cuda"] else "cpu"
    if not available.get(device, False):
        usable = ", ".join(name for name, there in available.items() if there)
        raise ConfigError(f"device {device!r} is not available here; expected auto or {usable}")
    if precision == "auto":
        has_bf16 = device == "cuda" and torch.cuda.is_bf16_supported()
        precision = "bf16" if has_bf16 else "32"
    launched = "LOCAL_WORLD_SIZE" in os.environ
    here = int(os.environ["LOCAL_WORLD_SIZE"]) if launched else processes
    everywhere = int(os.environ["WORLD_SIZE"]) if launched else here
    strategy: str | OneMachine = "auto"
    if everywhere > 1:
        strategy = OneMachine() if device == "cpu" and here == everywhere else "ddp"
    fabric = Fabric(
        accelerator=device,
        devices=here,
        num_nodes=everywhere // here,
        strategy=strategy,
        precision="bf16-mixed" if precision == "bf16" else "32-true",
    )
    fabric.launch()
    return fabric
