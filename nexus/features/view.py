"""How images are shown to a backbone, and how it computes."""

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch

from nexus.errors import ConfigError, unknown
from nexus.models.vision.fitting import FITS, Size, place

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with (images done, images in all) after every batch."""

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
DEFAULT_SIZE = 224
NATIVE: Literal["native"] = "native"


@dataclass(frozen=True, kw_only=True)
class View:
    """How images are shown to a backbone, and how it computes; one value for everything that extracts.

    | `size`            | what the backbone sees                                                        |
    |-------------------|-------------------------------------------------------------------------------|
    | left out          | as a number: the backbone's own `config.img_size`, or 224                     |
    | a number          | the central square of that side, after resizing the shorter side to `resize`  |
    | (height, width)   | the largest central part of that aspect, resized; also written "518x714"      |
    | "native"          | each image at its own size                                                    |

    `resize` in pixels, left out: 256/224 of the size. Where the patch does not divide a size, `fit` decides,
    as in `nexus.models.vision.fitting`; for a given size `resize` means the nearest multiple, and a log
    line says so.
    """

    size: int | Size | str | None = None
    resize: int | None = None
    fit: str = "resize"
    batch_size: int = 64
    workers: int = 0
    device: torch.device | str | None = None
    """`None`: where the backbone is; `"auto"`: the best there is. The backbone is moved there."""
    precision: str = "fp32"
    """`fp32`, or autocast to `bf16` or `fp16`; the features are float32 anyway."""
    mean: tuple[float, ...] | None = None
    """In 0..1; left out: the backbone's own `normalization` if it has one, else ImageNet's."""
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", _parsed(self.size))
        if self.precision not in ("fp32", *AUTOCAST):
            raise ConfigError(unknown("precision", self.precision, ("fp32", *AUTOCAST)))
        if self.fit not in FITS:
            raise ConfigError(unknown("fit", self.fit, FITS))
        sides = self.size if isinstance(self.size, tuple) else (self.size,)
        numbers = [("size", side, 1) for side in sides if side != NATIVE]
        numbers += [
            ("resize", self.resize, 1),
            ("batch_size", self.batch_size, 1),
            ("workers", self.workers, 0),
        ]
        for name, value, least in numbers:
            if value is not None and (not isinstance(value, int) or value < least):
                raise ConfigError(f"{name}={value!r} must be a whole number, at least {least}")
        if self.resize is not None and not isinstance(self.size, int | None):
            raise ConfigError(
                f"resize={self.resize} goes with a square size; leave it out with size={self.size}"
            )


def _parsed(size: Any) -> int | Size | str | None:
    """`size` with text as its meaning: "224", "518x714" (height first), "native"."""
    if not isinstance(size, str) or size == NATIVE:
        return tuple(size) if isinstance(size, list) else size
    numbers = re.fullmatch(r"(\d+)(?:[x×](\d+))?", size)
    if numbers is None:
        raise ConfigError(f"size={size!r} is not understood; use a number, HEIGHTxWIDTH, or 'native'")
    height, width = numbers.groups()
    return int(height) if width is None else (int(height), int(width))


def make_view(view: View | None, settings: dict[str, Any]) -> View:
    """`view`, or the one that `settings` describe; both at once, or an unknown name, is a `ConfigError`."""
    if view is not None and settings:
        raise ConfigError(f"{', '.join(settings)}: already said by view=; give one or the other")
    try:
        return view or View(**settings)
    except TypeError as error:
        raise ConfigError(f"{error}; a view has {', '.join(View.__annotations__)}") from None


def image_size(backbone: Any, size: int | None = None) -> int:
    """The side of the crops for a backbone: `size` or its own, as a multiple of its patch."""
    side, _ = frame_size(backbone, View(size=size))
    return side


def frame_size(backbone: Any, view: View) -> Size:
    """Height and width of the cut-outs that a backbone is shown, before `fit`; not for native sizes."""
    assert view.size != NATIVE
    own = getattr(getattr(backbone, "config", None), "img_size", None)
    wanted: Any = view.size or own or DEFAULT_SIZE
    if not isinstance(view.size, tuple):
        side = wanted if isinstance(wanted, int) else min(wanted)
        wanted = (side, side)
    placement = place(wanted[0], wanted[1], backbone.patch_size, view.fit)
    if placement.frame != wanted and view.fit == "resize":
        square = wanted[0] == wanted[1]
        said, used = ((w[0] if square else f"{w[0]}x{w[1]}") for w in (wanted, placement.frame))
        log.info("size=%s is no multiple of the patch (%d): using %s", said, backbone.patch_size, used)
        return placement.frame
    return wanted
