"""The official layout of `facebookresearch/dinov2`, which is ours too; `hub` is its name as a target.

Released files are flat. Files of official training count blocks in chunks (`blocks.{chunk}.{i}.`), where
`i` counts through the whole network.
"""

import re
from collections.abc import Mapping

from torch import Tensor

from nexus.errors import WeightsError
from nexus.weights.layouts.translation import Translation

_CHUNKED = re.compile(r"^blocks\.(\d+)\.(\d+)\.(?=[a-z])")


def recognises(tensors: Mapping[str, Tensor]) -> bool:
    """Anything may be official; whether it really is one, the strict comparison says."""
    return True


def to_official(tensors: Mapping[str, Tensor]) -> Translation:
    """The tensors with their blocks counted flat."""
    if not any(_CHUNKED.match(key) for key in tensors):
        return Translation(dict(tensors), "")
    result: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        name = _CHUNKED.sub(r"blocks.\2.", key)
        if name in result:
            raise WeightsError(
                f"it numbers the blocks of every chunk from 0 ({key}), so their order is not known; "
                "save it with block_chunks=0"
            )
        result[name] = tensor
    return Translation(result, "blocks in chunks")
