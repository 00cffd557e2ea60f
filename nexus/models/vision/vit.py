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
from typing import Annotated, TypedDict

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator
from torch import Tensor, nn

from nexus.config import Config, build
from nexus.errors import ConfigError, choose
from nexus.models.vision.embed import PatchEmbed, PositionCache
from nexus.models.vision.layers import FFN_LAYERS, NORM_EPS, Block, LayerScale
from nexus.shapes import Images, Tokens

INIT_STD = 0.02
"""Standard deviation of linear weights and of the position table."""
TOKEN_STD = 1e-6
"""Standard deviation of the CLS token and the registers."""


class ViTConfig(Config):
    """Everything that shapes a backbone; the names are the official keywords."""

    img_size: PositiveInt = 224
    """Side in pixels of the images that the position table is made for; other sizes are resized to."""
    patch_size: PositiveInt = 14
    """Side of a patch in pixels."""
    embed_dim: PositiveInt = 384
    """Width of a token; a multiple of `num_heads`."""
    depth: PositiveInt = 12
    """Number of transformer blocks."""
    num_heads: PositiveInt = 6
    """Attention heads of a block; in the released models each is 64 wide."""
    in_chans: PositiveInt = 3
    """Channels of an image."""
    mlp_ratio: Annotated[float, Field(gt=0)] = 4.0
    """Width of the feed-forward layer over `embed_dim`; SwiGLU takes two thirds of it."""
    ffn_layer: str = "mlp"
    """Feed-forward layer: `mlp`, `swiglu`, `swiglufused` (the same as `swiglu`) or `identity` (none)."""
    init_values: float | None = 1e-5
    """Start of the layer scale; 0 or null for a backbone without layer scale."""
    drop_path_rate: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the images that each branch of each block leaves out in training, the same at all depths."""
    num_register_tokens: NonNegativeInt = 0
    """Registers: extra tokens that give the patches a place to keep what is not local."""
    interpolate_antialias: bool = False
    """Whether the position table is resized with antialiasing; true in released models with registers."""
    interpolate_offset: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Patches added to the grid when the position table is resized; 0 in released models with registers."""
    qkv_bias: bool = True
    """Whether the map to queries, keys and values has a bias."""
    proj_bias: bool = True
    """Whether the projection after attention has a bias."""
    ffn_bias: bool = True
    """Whether the feed-forward layers have biases."""

    @field_validator("ffn_layer")
    @classmethod
    def _known_ffn(cls, name: str) -> str:
        choose(name, FFN_LAYERS, "ffn_layer")
        return name

    @model_validator(mode="after")
    def _fitting(self) -> "ViTConfig":
        if self.embed_dim % self.num_heads:
            raise ValueError(
                f"embed_dim={self.embed_dim} cannot be shared evenly by num_heads={self.num_heads};"
                f" use embed_dim={-(-self.embed_dim // self.num_heads) * self.num_heads}, or other heads"
            )
        if self.img_size < self.patch_size:
            raise ValueError(
                f"img_size={self.img_size} is smaller than patch_size={self.patch_size}, so an image has"
                f" no patch; use img_size={16 * self.patch_size}, or a smaller patch"
            )
        return self


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

    def forward_features(self, x: Images, masks: Bool[Tensor, "batch patches"] | None = None) -> Features:
        """Every kind of token by its official name; `masks` is true where a patch is hidden."""
        tokens = self._encode(x, masks)
        normed = self.norm(tokens)
        first_patch = 1 + self.num_register_tokens
        return {
            "x_norm_clstoken": normed[:, 0],
            "x_norm_regtokens": normed[:, 1:first_patch],
            "x_norm_patchtokens": normed[:, first_patch:],
            "x_prenorm": tokens,
            "masks": masks,
        }

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
        tokens = self._prepare(x, masks)
        for block in self.blocks[:-1]:
            tokens = block(tokens)
        images, length, _ = tokens.shape
        first = 1 + self.num_register_tokens
        rows = length * torch.arange(images, device=x.device)
        if patches is not None:
            count = length - first
            rows = torch.cat([rows, patches // count * length + first + patches % count])
        chosen = self.norm(self.blocks[-1](tokens, rows))
        return chosen[:images], chosen[images:]

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
