"""Attention on one CPU thread: PyTorch's fused kernel against the two products written out.

    python -m benchmarks.attention_cpu

Forward and backward, CPU time, rounds interleaved; shapes of small crops and of ViT-S at 224 pixels.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.timing import interleaved

SHAPES = ((256, 2, 17, 64), (128, 2, 65, 64), (16, 6, 197, 64), (32, 6, 257, 64))


def written_out(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The formula, as `nexus.models.vision.layers.attend` writes it."""
    return (query * query.shape[-1] ** -0.5 @ key.transpose(-2, -1)).softmax(dim=-1) @ value


def pass_through(attention: Callable[..., Tensor], packed: Tensor) -> Callable[[], None]:
    """One forward and backward pass."""

    def run() -> None:
        query, key, value = packed.permute(2, 0, 3, 1, 4).unbind(0)
        attention(query, key, value).sum().backward()

    return run


def main() -> None:
    """Print one line per shape and precision."""
    torch.set_num_threads(1)
    print("| dtype | batch × heads × tokens × width | fused ms | written out ms | ratio |")
    print("|---|---|---|---|---|")
    for dtype in (torch.float32, torch.bfloat16):
        for batch, heads, tokens, width in SHAPES:
            packed = torch.randn(batch, tokens, 3, heads, width, dtype=dtype, requires_grad=True)
            seconds = interleaved(
                {
                    "fused": pass_through(F.scaled_dot_product_attention, packed),
                    "written": pass_through(written_out, packed),
                },
                rounds=7,
            )
            fused, written = 1000 * seconds["fused"], 1000 * seconds["written"]
            shape = f"{batch} × {heads} × {tokens} × {width}"
            name = str(dtype).removeprefix("torch.")
            print(f"| {name} | {shape} | {fused:.1f} | {written:.1f} | {fused / written:.2f} |")


if __name__ == "__main__":
    main()
