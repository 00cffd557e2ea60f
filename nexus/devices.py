"""The device that a name means, or why there is none."""

from collections.abc import Callable

import torch

from nexus.errors import ConfigError, unknown


def pick_device(name: torch.device | str) -> torch.device:
    """`"auto"` as CUDA, else MPS, else CPU; any other name as the device it says.

    A `torch.device` is taken as it is. Raises `ConfigError` for a name that is none, or a device that this
    machine does not have.
    """
    if isinstance(name, torch.device):
        return name
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if kind not in _DEVICES or not (index == "" or index.isdigit()):
        raise ConfigError(unknown("device", name, (*_DEVICES, "cuda:1", "auto")))
    count = _DEVICES[kind]()
    if not count:
        raise ConfigError(f"device {name} is not there: torch {torch.__version__} sees none; use cpu or auto")
    if int(index or 0) >= count:
        raise ConfigError(f"device {name} is not there: {kind} devices here are 0 to {count - 1}; use {kind}")
    return torch.device(name)


_DEVICES: dict[str, Callable[[], int]] = {
    "cpu": lambda: 1,
    "cuda": torch.cuda.device_count,
    "mps": lambda: int(torch.backends.mps.is_available()),
}
"""How many devices of each kind this machine has."""
