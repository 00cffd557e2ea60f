"""What lies beside the backbone in a weight file, and so what the file was made for."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

Facts = dict[str, Any]

_PARTS = {
    "optimizer": ("optimizer", "optimizers", "optimizer_states", "optim", "optimizer_state_dict"),
    "schedules or loss scale": ("lr_scheduler", "lr_schedulers", "scheduler", "scaler", "grad_scaler"),
    "settings of the training": ("args", "cfg", "config", "hyper_parameters", "hparams"),
    "averaged weights": ("ema", "ema_state_dict", "state_dict_ema", "model_ema"),
}
"""Entries beside the weights, as the field names them."""

_COUNTERS = ("iteration", "epoch", "step", "global_step")
_HEADS = ("dino_head", "ibot_head", "head", "projector", "prototypes", "linear_head", "decode_head")


def contents(content: Any) -> Facts:
    """`holds`: what is in the file, in words; `made_for`; `tensors_in_file`; counters such as `iteration`.

    ::

        {"teacher": {"backbone.x": ..., "dino_head.x": ...}, "optimizer": {...}, "iteration": 9}
        → holds: teacher, head (dino_head), optimizer; made_for: training; iteration: 9
    """
    if not isinstance(content, Mapping):
        return {"holds": [f"a {type(content).__name__}"]}
    names = list(_tensor_names(content))
    holds = [name for name in ("teacher", "student") if _has_network(content, names, name)]
    heads = sorted({word for name in names for word in name.split(".") if word in _HEADS})
    if heads:
        holds.append(f"heads ({', '.join(heads)})")
    extras = [part for part, keys in _PARTS.items() if any(content.get(key) is not None for key in keys)]
    training = bool(extras[:1] == ["optimizer"] or len(holds) > 1 or any("_flat_param" in n for n in names))
    facts: Facts = {"holds": [*holds, *extras] or ["tensors alone"]}
    facts["made_for"] = "training" if training else "inference"
    facts["tensors_in_file"] = len(names)
    for key in _COUNTERS:
        if isinstance(content.get(key), int):
            facts[key] = content[key]
    return facts


def first_names(content: Any, count: int = 4) -> list[str]:
    """The first tensors of a file, with their shapes: a hint for files that nobody knows."""
    return [f"{name} {shape}" for name, shape in _tensors(content, "", count)]


def _has_network(content: Mapping, names: list[str], network: str) -> bool:
    return isinstance(content.get(network), Mapping) or any(f"{network}." in f"{name}." for name in names)


def _tensor_names(content: Mapping) -> Iterator[str]:
    """Names of the tensors of networks, those of an optimizer not."""
    for key, value in content.items():
        if isinstance(value, Tensor):
            yield str(key)
        elif isinstance(value, Mapping) and key not in _PARTS["optimizer"]:
            yield from (f"{key}.{name}" for name in _tensor_names(value))


def _tensors(content: Any, prefix: str, count: int) -> list[tuple[str, tuple[int, ...]]]:
    if isinstance(content, Tensor):
        return [(prefix.rstrip("."), tuple(content.shape))]
    found: list[tuple[str, tuple[int, ...]]] = []
    if isinstance(content, Mapping):
        for key, value in content.items():
            if len(found) >= count:
                break
            found += _tensors(value, f"{prefix}{key}.", count - len(found))
    return found[:count]
