"""Floating-point operations of a training step, counted from the architecture.

Only matrix products count, each multiplication and each addition as one, as is usual for the share of a
device's rate that a training reaches (MFU). What is computed twice to save memory does not raise the count;
what stochastic depth leaves out is not in it. ::

    linear layer             2 · rows · in · out
    attention                4 · tokens² · dim                 an image: q kᵀ, then weights · v
    forward and backward     3 · forward                       the gradients of the input and of the weight
    patch embedding          2 · forward                       images need no gradient
"""

from itertools import pairwise

from nexus.models.ssl import ObjectiveConfig
from nexus.models.vision import ViTConfig
from nexus.models.vision.stochastic_depth import kept_samples
from nexus.training.config import TrainConfig
from nexus.training.state import vit_config


def step_flops(config: TrainConfig, masked: float | None = None) -> float:
    """Floating-point operations of one step over all micro-batches.

    `masked` is the number of masked patches in a micro-batch; left out, the expected number.
    """
    vit = vit_config(config.model, config.crops.global_size)
    parts = config.schedule.accumulation
    images = config.schedule.batch_size // parts
    crops, masks, want = config.crops, config.masks, config.objective
    if masked is None:
        patches = (crops.global_size // vit.patch_size) ** 2
        masked = 2 * images * patches * masks.probability * (masks.ratio_min + masks.ratio_max) / 2
    if want.ibot_weight == 0:
        masked = 0.0
    side = crops.global_size
    teacher = backbone_flops(vit, 2 * images, side, 2 * images + masked, train=False)
    student = backbone_flops(vit, 2 * images, side, 2 * images + masked, train=True)
    local = crops.local_number * images
    if local:
        student += backbone_flops(vit, local, crops.local_size, local, train=True)
    heads = head_flops(want, vit.embed_dim, 2 * images, masked)
    heads += 3 * head_flops(want, vit.embed_dim, (2 + crops.local_number) * images, masked)
    return parts * (teacher + student + heads)


def probe_flops(config: TrainConfig, images: int) -> float:
    """Operations of one look at the probe: two crops an image through the teacher, and 64 more."""
    vit = vit_config(config.model, config.crops.global_size)
    crops = 2 * images + 64
    tokens = 1 + vit.num_register_tokens + (config.crops.global_size // vit.patch_size) ** 2
    backbone = backbone_flops(vit, crops, config.crops.global_size, crops * tokens, train=False)
    return backbone + head_flops(config.objective, vit.embed_dim, 2 * images, 0.0)


def backbone_flops(vit: ViTConfig, images: int, side: int, rows: float, *, train: bool) -> float:
    """Operations of one forward pass that reads `rows` tokens, or with `train` of forward and backward."""
    grid = side // vit.patch_size
    tokens = 1 + vit.num_register_tokens + grid**2
    dim, factor = vit.embed_dim, 3 if train else 1
    active = kept_samples(images, vit.drop_path_rate) if train else images
    embed = 2.0 * images * grid**2 * vit.in_chans * vit.patch_size**2 * dim * min(factor, 2)
    attention = active * (2.0 * tokens * 3 * dim**2 + 4.0 * tokens**2 * dim)
    token_by_token = 2.0 * dim**2 + _ffn_flops(vit)  # projection and feed-forward layer
    whole = attention + active * tokens * token_by_token
    return embed + factor * ((vit.depth - 1) * whole + attention + rows * token_by_token)


def head_flops(want: ObjectiveConfig, dim: int, cls_rows: float, patch_rows: float) -> float:
    """Operations of one forward pass of the heads over CLS tokens and masked patches."""
    cls = _head_row(want, dim, want.bottleneck_dim, want.out_dim)
    patch = cls
    if want.separate_patch_head:
        patch = _head_row(want, dim, want.patch_bottleneck_dim, want.patch_out_dim or want.out_dim)
    return cls_rows * cls + patch_rows * patch


def _head_row(want: ObjectiveConfig, dim: int, bottleneck: int, prototypes: int) -> float:
    """Operations of one token."""
    narrow = bottleneck if want.head_output == "weight_norm" else prototypes
    hidden = [want.hidden_dim] * (want.head_layers - 1)
    widths = [dim, *hidden, narrow]
    if want.head_output == "weight_norm":
        widths.append(prototypes)
    return 2.0 * sum(a * b for a, b in pairwise(widths))


def _ffn_flops(vit: ViTConfig) -> float:
    """Operations of the feed-forward layer for one token."""
    hidden = int(vit.embed_dim * vit.mlp_ratio)
    if vit.ffn_layer == "identity":
        return 0.0
    if vit.ffn_layer.startswith("swiglu"):
        gated = (int(hidden * 2 / 3) + 7) // 8 * 8
        return 2.0 * 3 * vit.embed_dim * gated
    return 2.0 * 2 * vit.embed_dim * hidden
