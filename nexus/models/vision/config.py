"""Everything that shapes a backbone."""

from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from nexus.config import Config
from nexus.errors import choose
from nexus.models.vision.layers import FFN_LAYERS


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
