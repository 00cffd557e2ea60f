"""The backbone against timm and transformers: the same random weights, the same tokens.

With registers all three resize the position table alike. Without, the released DINOv2 models use an offset
of 0.1 patches, which timm and transformers do not have (timm also smooths); so ours is set to their rule
here. The offset itself is tested against golden values of the official modules in `test_vit.py`.
"""

import pytest
import torch
from torch import nn

from nexus.models.vision import VisionTransformer

timm = pytest.importorskip("timm", reason="timm is not installed (pip install nexus[dev])")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

SIZES = [(56, 56), (98, 98), (28, 84), (112, 42)]
ALIKE = {"interpolate_offset": 0.0, "interpolate_antialias": True}


def ours(**changes) -> VisionTransformer:
    """A small model in which every parameter is drawn so that leaving it out would show."""
    model = VisionTransformer(56, 14, 48, 2, 3, init_values=1.0, **changes)
    for name, parameter in model.named_parameters():
        mean = 1.0 if name.endswith("gamma") or ("norm" in name and "weight" in name) else 0.0
        nn.init.normal_(parameter, mean, 0.02 if name == "patch_embed.proj.weight" else 0.2)
    return model.eval()


def timm_twin(model: VisionTransformer) -> nn.Module:
    registers, gated = model.num_register_tokens, model.config.ffn_layer != "mlp"
    size = "giant" if gated else "small"
    twin = timm.create_model(
        f"vit_{size}_patch14_{'reg4_' if registers else ''}dinov2",
        img_size=56,
        embed_dim=48,
        depth=2,
        num_heads=3,
        dynamic_img_size=True,
        **({"mlp_ratio": 256 / 48} if gated else {}),
    )
    weights = timm.models.vision_transformer.checkpoint_filter_fn(dict(model.state_dict()), twin)
    twin.load_state_dict(weights, strict=True)
    return twin.eval()


def huggingface_twin(model: VisionTransformer) -> nn.Module:
    registers = model.num_register_tokens
    settings = {
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "image_size": 56,
        "patch_size": 14,
        "use_swiglu_ffn": model.config.ffn_layer != "mlp",
    }
    if registers:
        config = transformers.Dinov2WithRegistersConfig(num_register_tokens=registers, **settings)
        twin = transformers.Dinov2WithRegistersModel(config)
    else:
        twin = transformers.Dinov2Model(transformers.Dinov2Config(**settings))
    renamed = huggingface_weights(model)
    twin.load_state_dict({name: renamed[name] for name in twin.state_dict()}, strict=True)
    return twin.eval()


TOP_NAMES = {
    "cls_token": "embeddings.cls_token",
    "mask_token": "embeddings.mask_token",
    "pos_embed": "embeddings.position_embeddings",
    "register_tokens": "embeddings.register_tokens",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
}
BLOCK_NAMES = {  # ours: theirs, in the releases since 5.0; a tuple where ours is several of theirs
    "attn.qkv": [
        ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
        ("attention.attention.query", "attention.attention.key", "attention.attention.value"),
    ],
    "attn.proj": [("attention.o_proj",), ("attention.output.dense",)],
    "ls1": [("layer_scale1",)],
    "ls2": [("layer_scale2",)],
    "mlp.w12": [("mlp.gate_proj", "mlp.up_proj"), ("mlp.weights_in",)],
    "mlp.w3": [("mlp.down_proj",), ("mlp.weights_out",)],
}


def huggingface_weights(model: VisionTransformer) -> dict[str, torch.Tensor]:
    renamed = {}
    for name, tensor in model.state_dict().items():
        owner, _, leaf = name.rpartition(".")
        if not owner.startswith("blocks."):
            theirs = TOP_NAMES[owner] + "." + leaf if owner else TOP_NAMES[leaf]
            renamed[theirs] = tensor
            continue
        _, index, inner = owner.split(".", 2)
        for names in BLOCK_NAMES.get(inner, [(inner,)]):
            for part, chunk in zip(names, tensor.chunk(len(names)), strict=True):
                end = leaf.replace("gamma", "lambda1")
                renamed[f"encoder.layer.{index}.{part}.{end}"] = chunk
    return renamed


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize("ffn", ["mlp", "swiglu"])
@pytest.mark.parametrize("registers", [0, 4])
@torch.no_grad()
def test_tokens_equal_those_of_timm(registers, ffn):
    model = ours(num_register_tokens=registers, ffn_layer=ffn, **ALIKE)
    twin = timm_twin(model)
    for height, width in SIZES:
        x = torch.randn(2, 3, height, width)
        expected = twin.forward_features(x)
        features = model.forward_features(x)
        close(features["x_norm_clstoken"], expected[:, 0])
        close(features["x_norm_regtokens"], expected[:, 1 : 1 + registers])
        close(features["x_norm_patchtokens"], expected[:, 1 + registers :])
        close(model(x), torch.cat((expected[:, :1], expected[:, 1 + registers :]), 1))
    theirs = twin.get_intermediate_layers(x, n=2, reshape=True, norm=True)
    for found, expected in zip(model.get_intermediate_layers(x, n=2, reshape=True), theirs, strict=True):
        close(found, expected)


@pytest.mark.parametrize("ffn", ["mlp", "swiglu"])
@pytest.mark.parametrize("registers", [0, 4])
@torch.no_grad()
def test_tokens_and_attention_equal_those_of_transformers(registers, ffn):
    model = ours(
        num_register_tokens=registers,
        ffn_layer=ffn,
        interpolate_offset=0.0,
        interpolate_antialias=registers > 0,
    )
    twin = huggingface_twin(model)
    twin.set_attn_implementation("eager")
    for height, width in SIZES:
        x = torch.randn(2, 3, height, width)
        masks = torch.rand(2, height // 14 * (width // 14)) < 0.4
        for hidden in (None, masks):
            expected = twin(x, bool_masked_pos=hidden, output_hidden_states=True)
            features = model.forward_features(x, hidden)
            close(model.norm(features["x_prenorm"]), expected.last_hidden_state)
            close(features["x_norm_clstoken"], expected.pooler_output)
            close(features["x_prenorm"], expected.hidden_states[-1])
    attentions = twin(x, output_attentions=True).attentions
    for block, expected in enumerate(attentions):
        close(model.attention_maps(x, block=block), expected)


@torch.no_grad()
def test_the_two_ways_to_resize_positions_differ_visibly():
    x = torch.randn(2, 3, 98, 98)
    official, alike = ours(), ours(**ALIKE)
    alike.load_state_dict(official.state_dict())
    assert (official(x) - alike(x)).abs().max() > 0.05
    assert torch.equal(official(x[..., :56, :56]), alike(x[..., :56, :56]))
