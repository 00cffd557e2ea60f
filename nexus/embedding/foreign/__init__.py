"""Models of other libraries by name, with the library's own code: `timm:NAME@FILE`, `hf:FOLDER`.

::

    timm:vit_small_patch16_224              as timm loads it, with its released weights
    timm:resnet18@weights.safetensors       with the weights of a file
    timm:resnet18@random                    with random weights, for a lower bound
    hf:FOLDER-OR-NAME                       anything that transformers' AutoModel opens and that sees images
    hf:FOLDER-OR-NAME@random

Normalisation, patch size and image size are taken from the model's own configuration. Each is a
`nexus.features.TokenBackbone`, so whatever takes a backbone takes it.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from nexus.errors import WeightsError

RANDOM = "random"

_LIBRARIES = {
    "timm": ("timm", "nexus.embedding.foreign.from_timm", "open_timm"),
    "hf": ("transformers", "nexus.embedding.foreign.from_transformers", "open_transformers"),
}


def is_foreign(model: str) -> bool:
    """Whether a name begins with that of a library."""
    return model.partition(":")[0] in _LIBRARIES


def open_foreign(model: str) -> Any:
    """The backbone that a name such as `timm:resnet18@weights.pth` means, or a `WeightsError`."""
    prefix, _, rest = model.partition(":")
    library, module, function = _LIBRARIES[prefix]
    name, _, weights = rest.partition("@")
    if not name:
        raise WeightsError(f"{model!r} names no model; write it as in {prefix}:NAME or {prefix}:NAME@FILE")
    try:
        import_module(library)
    except ImportError as error:
        package = error.name or library
        raise WeightsError(
            f"{model} needs {package}, which is not installed: pip install {library}"
        ) from None
    opener: Callable[[str, str], Any] = getattr(import_module(module), function)
    return opener(name, weights)
