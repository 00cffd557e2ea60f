"""The vision transformer of DINOv2: Dosovitskiy et al. (arXiv 2010.11929) as trained by Oquab et al.
(arXiv 2304.07193), with the registers of Darcet et al. (arXiv 2309.16588).

How an image becomes tokens::

    patches = patch_embed(image)                                (batch, patches, dim)
    patches[masks] = mask_token                                 only where the student must guess
    tokens  = [CLS | patches] + position table at this grid     masked patches keep their position
    tokens  = [CLS | registers | patches]                       registers have no position
    tokens  = blocks(tokens)
    out     = norm(tokens)

Parameter names, shapes and order are those of the official checkpoints, which load strictly.
"""

from collections.abc import Sequence
from typing import TypedDict, cast, overload

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from nexus.config import build
from nexus.errors import ConfigError
from nexus.models.vision.config import ViTConfig
from nexus.models.vision.embed import PatchEmbed, PositionCache
from nexus.models.vision.layers import NORM_EPS, Block, LayerScale, Subsets
from nexus.shapes import Images, Tokens

INIT_STD = 0.02
"""Standard deviation of linear weights and of the position table."""
TOKEN_STD = 1e-6
"""Standard deviation of the CLS token and the registers."""


AnyImages = Float[Tensor, "_ _ _ _"]
"""One of several batches of images, each of a size of its own."""
AnyMasks = Bool[Tensor, "_ _"] | None


class Features(TypedDict):
    """What `VisionTransformer.forward_features` returns; the keys are the official ones."""

    x_norm_clstoken: Float[Tensor, "batch dim"]
    """CLS after the final norm: the image as one vector."""
    x_norm_regtokens: Float[Tensor, "batch registers dim"]
    """Registers after the final norm; zero of them in a backbone without."""
    x_norm_patchtokens: Float[Tensor, "batch patches dim"]
    """Patches after the final norm, row by row."""
    x_prenorm: Float[Tensor, "batch tokens dim"]
    """All tokens before the final norm."""
    masks: Bool[Tensor, "batch patches"] | None
    """The argument `masks`, handed through."""


class VisionTransformer(nn.Module):
    """Images to tokens; the module's docstring says how, `ViTConfig` what each argument means.

    ::

        model = VisionTransformer(img_size=224, patch_size=14, embed_dim=384, depth=12, num_heads=6)
        tokens = model(images)              # (batch, 1 + patches, dim): [:, 0] CLS, [:, 1:] patches

    Any image of at least one patch is taken, square or not. Raises `ConfigError` for settings that are
    unknown or do not fit each other. On `torch.device("meta")` nothing is allocated; follow with
    `to_empty` and `init_weights`, or with `load_state_dict(..., assign=True)`: there are no buffers.
    """

    def __init__(
        self,
        img_size: int = 224,
        patch_size: int = 14,
        embed_dim: int = 384,
        depth: int = 12,
        num_heads: int = 6,
        *,
        in_chans: int = 3,
        mlp_ratio: float = 4.0,
        ffn_layer: str = "mlp",
        init_values: float | None = 1e-5,
        drop_path_rate: float = 0.0,
        num_register_tokens: int = 0,
        interpolate_antialias: bool = False,
        interpolate_offset: float = 0.1,
        qkv_bias: bool = True,
        proj_bias: bool = True,
        ffn_bias: bool = True,
    ) -> None:
        named = {name: value for name, value in locals().items() if name in ViTConfig.model_fields}
        super().__init__()
        self.config = build(ViTConfig, named)
        self.embed_dim = self.num_features = embed_dim
        self.patch_size = patch_size
        self.n_blocks = depth
        self.num_heads = num_heads
        self.num_register_tokens = num_register_tokens
        places = 1 + (img_size // patch_size) ** 2
        self.cls_token = nn.Parameter(torch.empty(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.empty(1, places, embed_dim))
        self.register_tokens: nn.Parameter | None = None
        if num_register_tokens:
            self.register_tokens = nn.Parameter(torch.empty(1, num_register_tokens, embed_dim))
        self.mask_token = nn.Parameter(torch.empty(1, embed_dim))
        self.patch_embed = PatchEmbed(patch_size, in_chans, embed_dim)
        self.blocks = nn.ModuleList(self._block() for _ in range(depth))
        self.norm = nn.LayerNorm(embed_dim, eps=NORM_EPS)
        self._positions = PositionCache()
        self.init_weights()

    def forward(
        self, x: Images, masks: Bool[Tensor, "batch patches"] | None = None
    ) -> Float[Tensor, "batch tokens_no_reg dim"]:
        """CLS and patches after the final norm: `[:, 0]` and `[:, 1:]`, with or without registers."""
        tokens = self.norm(self._encode(x, masks))
        if not self.num_register_tokens:
            return tokens
        return torch.cat((tokens[:, :1], tokens[:, 1 + self.num_register_tokens :]), dim=1)

    @overload
    def forward_features(self, x: Tensor, masks: Tensor | None = None) -> Features: ...

    @overload
    def forward_features(
        self, x: Sequence[Tensor], masks: Sequence[Tensor | None] | None = None
    ) -> list[Features]: ...

    def forward_features(
        self,
        x: Images | Sequence[AnyImages],
        masks: Bool[Tensor, "batch patches"] | Sequence[AnyMasks] | None = None,
    ) -> Features | list[Features]:
        """Every kind of token by its official name; `masks` is true where a patch is hidden.

        Lists of images and masks are taken as by `forward_features_list`.
        """
        if isinstance(x, Tensor):
            assert masks is None or isinstance(masks, Tensor)
            return self._named(self._encode(x, masks), masks)
        assert not isinstance(masks, Tensor)
        return self.forward_features_list(x, masks or [None] * len(x))

    def forward_features_list(
        self, x_list: Sequence[AnyImages], masks_list: Sequence[AnyMasks]
    ) -> list[Features]:
        """`forward_features` of several batches (crops of several sizes), in one pass over the blocks.

        The same numbers as one call for each, stochastic depth included: it draws for one batch after the
        other.
        """
        groups = [self._prepare(x, masks) for x, masks in zip(x_list, masks_list, strict=True)]
        for block, subsets in zip(self.blocks, self._drawn(groups), strict=True):
            groups = block(groups, subsets)
        return [self._named(tokens, masks) for tokens, masks in zip(groups, masks_list, strict=True)]

    def read(
        self,
        x: Images,
        masks: Bool[Tensor, "batch patches"] | None = None,
        patches: Int[Tensor, " masked"] | None = None,
    ) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "masked dim"]]:
        """CLS of every image and the patches at flat positions of the (batch · patches) table, normed.

        What a training loss reads of `forward_features`, and the same numbers. The last block and the final
        norm are spared for all other tokens.
        """
        return self.read_list([x], [masks], [patches])[0]

    def read_list(
        self,
        x_list: Sequence[AnyImages],
        masks_list: Sequence[AnyMasks],
        patches_list: Sequence[Int[Tensor, " _"] | None],
    ) -> list[tuple[Float[Tensor, "_ dim"], Float[Tensor, "_ dim"]]]:
        """`read` of several batches (crops of several sizes), in one pass over the blocks."""
        groups = [self._prepare(x, masks) for x, masks in zip(x_list, masks_list, strict=True)]
        *earlier, last = zip(self.blocks, self._drawn(groups), strict=True)
        for block, subsets in earlier:
            groups = block(groups, subsets)
        rows = [self._rows(x, patches) for x, patches in zip(groups, patches_list, strict=True)]
        block, subsets = last
        read = self.norm(block(groups, subsets, rows)).split([len(part) for part in rows])
        return [(part[: len(x)], part[len(x) :]) for x, part in zip(groups, read, strict=True)]

    def _rows(self, x: Tokens, patches: Tensor | None) -> Tensor:
        """Where CLS and the chosen patches are in the flat (batch · tokens) table."""
        images, length, _ = x.shape
        first = 1 + self.num_register_tokens
        rows = length * torch.arange(images, device=x.device)
        if patches is None:
            return rows
        count = length - first
        return torch.cat([rows, patches // count * length + first + patches % count])

    def get_intermediate_layers(
        self,
        x: Images,
        n: int | Sequence[int] = 1,
        reshape: bool = False,
        return_class_token: bool = False,
        norm: bool = True,
    ) -> tuple[Tensor, ...] | tuple[tuple[Tensor, Tensor], ...]:
        """Patch tokens of several blocks, in order of depth.

        `n` is a number of last blocks, or block indices counted from 0. Each entry is (batch, patches,
        dim), or with `reshape` (batch, dim, rows, cols); with `return_class_token` it is a pair of that
        and CLS (batch, dim). `norm` applies the final norm to every layer. Registers are left out.
        """
        rows, cols = self.patch_embed.grid(x)
        layers = self.layer_tokens(x, n, norm=norm)
        patches = [layer[:, 1 + self.num_register_tokens :] for layer in layers]
        if reshape:
            patches = [layer.transpose(1, 2).unflatten(2, (rows, cols)).contiguous() for layer in patches]
        if not return_class_token:
            return tuple(patches)
        return tuple(zip(patches, [layer[:, 0] for layer in layers], strict=True))

    def layer_tokens(self, x: Images, n: int | Sequence[int] = 1, norm: bool = True) -> tuple[Tokens, ...]:
        """All tokens of several blocks (CLS, registers, patches), each (batch, tokens, dim).

        `n` and `norm` are those of `get_intermediate_layers`; blocks after the last one asked for do not run.
        """
        wanted = self._layer_indices(n)
        tokens, layers = self._prepare(x, None), []
        for index, block in enumerate(self.blocks[: max(wanted) + 1]):
            tokens = block(tokens)
            if index in wanted:
                layers.append(self.norm(tokens) if norm else tokens)
        return tuple(layers)

    def attention_maps(self, x: Images, block: int = -1) -> Float[Tensor, "batch heads tokens tokens"]:
        """What each token looks at in one block: row `i` holds token `i`'s weights and sums to 1.

        Tokens are CLS, registers, patches; `[:, :, 0, 1 + num_register_tokens :]` is CLS to patches.
        `block` counts from 0, or from the end with -1. Only this block's attention is written out, which
        takes tokens² numbers per head.
        """
        if not -self.n_blocks <= block < self.n_blocks:
            raise ConfigError(
                f"block={block} does not exist: the backbone has {self.n_blocks} blocks;"
                f" use 0 to {self.n_blocks - 1}, or -1 for the last"
            )
        last = block % self.n_blocks
        tokens = self._prepare(x, None)
        for earlier in self.blocks[:last]:
            tokens = earlier(tokens)
        chosen = self.blocks[last]
        assert isinstance(chosen, Block)
        return chosen.attention_weights(tokens)

    @torch.no_grad()
    def init_weights(self) -> None:
        """Every parameter drawn anew; nothing is left of what the memory held before.

        | parameter                          | start                                                   |
        |------------------------------------|---------------------------------------------------------|
        | weights of linear layers           | normal, std 0.02, cut at ±2 (so not cut in practice)    |
        | biases of linear layers            | 0                                                       |
        | `pos_embed`                        | normal, std 0.02, cut at ±2                             |
        | `cls_token`, `register_tokens`     | normal, std 1e-6                                        |
        | `mask_token`                       | 0                                                       |
        | `ls1.gamma`, `ls2.gamma`           | `init_values`                                           |
        | `norm*.weight`, `norm*.bias`       | 1, 0                                                    |
        | `patch_embed.proj`                 | PyTorch's default: uniform, ±1/√(in_chans · patch²)     |

        Source: official code.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=INIT_STD)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm | nn.Conv2d | LayerScale):
                module.reset_parameters()
        nn.init.trunc_normal_(self.pos_embed, std=INIT_STD)
        nn.init.normal_(self.cls_token, std=TOKEN_STD)
        if self.register_tokens is not None:
            nn.init.normal_(self.register_tokens, std=TOKEN_STD)
        nn.init.zeros_(self.mask_token)

    def _block(self) -> Block:
        """One block as the configuration says."""
        config = self.config
        return Block(
            config.embed_dim,
            config.num_heads,
            mlp_ratio=config.mlp_ratio,
            ffn_layer=config.ffn_layer,
            init_values=config.init_values,
            drop_path_rate=config.drop_path_rate,
            qkv_bias=config.qkv_bias,
            proj_bias=config.proj_bias,
            ffn_bias=config.ffn_bias,
        )

    def _encode(self, x: Images, masks: Tensor | None) -> Tokens:
        """All tokens after the last block, before the final norm."""
        tokens = self._prepare(x, masks)
        for block in self.blocks:
            tokens = block(tokens)
        return tokens

    def _drawn(self, groups: Sequence[Tensor]) -> list[tuple[Subsets, ...]]:
        """For each block, what its branches compute of each group; one group is drawn after the other."""
        blocks = [cast(Block, block) for block in self.blocks]
        drawn = [[block.draw(len(x), x.device) for block in blocks] for x in groups]
        return list(zip(*drawn, strict=True))

    def _named(self, tokens: Tokens, masks: Tensor | None) -> Features:
        """What `forward_features` returns."""
        normed = self.norm(tokens)
        first_patch = 1 + self.num_register_tokens
        return {
            "x_norm_clstoken": normed[:, 0],
            "x_norm_regtokens": normed[:, 1:first_patch],
            "x_norm_patchtokens": normed[:, first_patch:],
            "x_prenorm": tokens,
            "masks": masks,
        }

    def _prepare(self, x: Images, masks: Tensor | None) -> Tokens:
        """All tokens as they enter the first block."""
        rows, cols = self.patch_embed.grid(x)
        patches = self.patch_embed(x)
        if masks is not None:
            if masks.shape != patches.shape[:2]:
                raise ConfigError(
                    f"masks of shape {tuple(masks.shape)} do not fit {len(x)} images of"
                    f" {rows} × {cols} patches; pass masks of shape {tuple(patches.shape[:2])}"
                )
            hidden = self.mask_token.to(patches.dtype)
            patches = torch.where(masks.unsqueeze(-1), hidden, patches)
        tokens = torch.cat((self.cls_token.expand(len(x), -1, -1), patches), dim=1)
        config = self.config
        table = self._positions.get(
            self.pos_embed,
            rows,
            cols,
            tokens.dtype,
            offset=config.interpolate_offset,
            antialias=config.interpolate_antialias,
        )
        tokens = tokens + table
        if self.register_tokens is None:
            return tokens
        registers = self.register_tokens.expand(len(x), -1, -1)
        return torch.cat((tokens[:, :1], registers, tokens[:, 1:]), dim=1)

    def _layer_indices(self, n: int | Sequence[int]) -> set[int]:
        """The blocks that `get_intermediate_layers` was asked for, checked."""
        depth = self.n_blocks
        indices = list(range(depth - n, depth)) if isinstance(n, int) else list(n)
        wanted = set(indices)
        if not indices or len(wanted) < len(indices) or not wanted <= set(range(depth)):
            raise ConfigError(
                f"n={n!r} does not select blocks of a backbone of depth {depth}; use a number of last"
                f" blocks from 1 to {depth}, or different block indices from 0 to {depth - 1}"
            )
        return wanted


def build_backbone(config: ViTConfig) -> VisionTransformer:
    """The backbone that the settings describe, freshly initialised."""
    return VisionTransformer(**config.model_dump())
