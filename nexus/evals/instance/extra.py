"""pycocotools, which only this task needs."""

import contextlib
import io
from collections.abc import Iterator
from typing import Any

from nexus.errors import ConfigError

CURE = "instance needs pycocotools, which is not installed: pip install 'nexus[eval]'"


def mask_tools() -> Any:
    """`pycocotools.mask`, or `ConfigError` with the command that installs it."""
    try:
        from pycocotools import mask
    except ImportError:
        raise ConfigError(CURE) from None
    return mask


def coco_tools() -> tuple[Any, Any]:
    """`COCO` and `COCOeval`."""
    mask_tools()
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    return COCO, COCOeval


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """What pycocotools prints goes nowhere."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
