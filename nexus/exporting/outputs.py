"""The outputs that somebody asks for, by name.

| name         | shape                     | what                                                       |
|--------------|---------------------------|------------------------------------------------------------|
| `cls`        | (batch, dim)              | the CLS token                                              |
| `patches`    | (batch, patches, dim)     | the patch tokens, row by row                               |
| `mean_patch` | (batch, dim)              | their mean                                                 |
| `patch_map`  | (batch, dim, rows, cols)  | the patch tokens as a map                                  |
| `registers`  | (batch, registers, dim)   | the registers                                              |
| `layer:8`    | (batch, patches, dim)     | the patch tokens after block 8, counted from 0             |

All after the final norm. `cls:8`, `mean_patch:8` and `patch_map:8` are the others after block 8. In the graph
`layer:8` is called `layer_8`, because names in an ONNX graph are identifiers.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from nexus.errors import ConfigError, unknown
from nexus.models.vision import ViTConfig

KINDS: dict[str, tuple[str, ...]] = {
    "cls": ("dim",),
    "patches": ("patches", "dim"),
    "mean_patch": ("dim",),
    "patch_map": ("dim", "rows", "cols"),
    "registers": ("registers", "dim"),
    "layer": ("patches", "dim"),
}
"""What there is, and its axes after `batch`."""

DEFAULT_OUTPUTS = ("cls", "patches")

_NAME = re.compile(r"([a-z_]+?)(?:[:_](\d+))?")


@dataclass(frozen=True)
class Output:
    """One output of an exported graph."""

    kind: str
    """A key of `KINDS`."""
    block: int
    """The block after which it is taken, counted from 0."""
    name: str
    """How the graph calls it."""

    @property
    def axes(self) -> tuple[str, ...]:
        """The words for its axes."""
        return ("batch", *KINDS[self.kind])

    @property
    def feature_axis(self) -> int:
        """The axis along which a feature vector lies."""
        return self.axes.index("dim")


def parse_outputs(names: str | Sequence[str], config: ViTConfig) -> tuple[Output, ...]:
    """The outputs called `names`, a list or comma-separated; a `ConfigError` for what the model lacks."""
    words = names.split(",") if isinstance(names, str) else list(names)
    outputs = tuple(_parse(word.strip(), config) for word in words if word.strip())
    if not outputs:
        raise ConfigError("no outputs are asked for; use outputs=cls,patches")
    if len({output.name for output in outputs}) < len(outputs):
        raise ConfigError(f"outputs={','.join(words)} names one output twice; name each once")
    return outputs


def _parse(word: str, config: ViTConfig) -> Output:
    found = _NAME.fullmatch(word)
    kind, block = found.groups() if found else (word, None)
    if kind not in KINDS:
        raise ConfigError(unknown("output", word, [*(name for name in KINDS if name != "layer"), "layer:8"]))
    if kind == "registers" and (block is not None or not config.num_register_tokens):
        reason = "are given for the last block only" if block else "do not exist in this model"
        raise ConfigError(f"output {word!r}: registers {reason}; leave it out")
    if kind == "layer" and block is None:
        raise ConfigError("output 'layer' needs the block, counted from 0; write layer:8")
    if block is not None and int(block) >= config.depth:
        raise ConfigError(
            f"output {word!r}: the model has {config.depth} blocks; use {kind}:0 to {kind}:{config.depth - 1}"
        )
    last = config.depth - 1
    return Output(kind, last if block is None else int(block), kind if block is None else f"{kind}_{block}")
