"""timm's models as backbones: vision transformers of any kind, and CNNs by their last feature map."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nexus.embedding.foreign import RANDOM
from nexus.errors import WeightsError, nearest
from nexus.features.adapter import Normalization, Shown, TokenBackbone, map_tokens
from nexus.weights.read import read_raw

_WRAPPERS = ("state_dict_ema", "state_dict", "model_ema", "model")


def open_timm(name: str, weights: str = "") -> TokenBackbone:
    """The model `name` with its released weights, those of the file `weights`, or `random` ones."""
    model = _created(name, released=not weights)
    if weights and weights != RANDOM:
        _fill(model, Path(weights).expanduser())
    kind = TimmTransformer if hasattr(model, "blocks") and hasattr(model, "num_prefix_tokens") else TimmCNN
    return kind(name, model.eval())


class TimmTransformer(TokenBackbone):
    """A model with blocks of tokens. Without a CLS token, CLS is the mean patch."""

    def __init__(self, name: str, model: Any) -> None:
        prefix = model.num_prefix_tokens
        self_cls = getattr(model, "cls_token", None) is not None
        side = model.patch_embed.patch_size
        super().__init__(
            embed_dim=model.num_features,
            patch_size=side if isinstance(side, int) else side[0],
            n_blocks=len(model.blocks),
            num_register_tokens=prefix - self_cls,
            normalization=_normalization(model),
            shown=_shown(name, model),
        )
        self.model = model
        self.has_cls = self_cls

    def layer_tokens(
        self, x: Float[Tensor, "batch chans height width"], blocks: Sequence[int]
    ) -> list[Float[Tensor, "batch tokens dim"]]:
        """As `TokenBackbone.layer_tokens`."""
        found = self.model.forward_intermediates(
            x,
            indices=list(blocks),
            return_prefix_tokens=True,
            norm=True,
            output_fmt="NLC",
            intermediates_only=True,
            stop_early=True,
        )
        layers = []
        for one in found:
            patches, prefix = one if isinstance(one, tuple) else (one, one[:, :0])
            cls = [] if self.has_cls else [patches.mean(dim=1, keepdim=True)]
            layers.append(torch.cat([*cls, prefix, patches], dim=1))
        return layers


class TimmCNN(TokenBackbone):
    """A model whose last feature map is the patch tokens, and what its classifier would read is CLS."""

    def __init__(self, name: str, model: Any) -> None:
        self_shown = _shown(name, model)
        side = self_shown.img_size
        with torch.inference_mode():
            found = _chans_first(
                model, model.forward_features(torch.zeros(1, self_shown.in_chans, side, side))
            )
        if found.ndim != 4:
            raise WeightsError(
                f"timm:{name} gives neither blocks of tokens nor a feature map (its features have shape"
                f" {tuple(found.shape)}); wrap it yourself: nexus.features.TokenBackbone"
            )
        super().__init__(
            embed_dim=found.shape[1],
            patch_size=side // found.shape[2],
            n_blocks=1,
            num_register_tokens=0,
            normalization=_normalization(model),
            shown=self_shown,
        )
        self.model = model

    def layer_tokens(
        self, x: Float[Tensor, "batch chans height width"], blocks: Sequence[int]
    ) -> list[Float[Tensor, "batch tokens dim"]]:
        """As `TokenBackbone.layer_tokens`, of the only layer."""
        features = self.model.forward_features(x)
        pooled = self.model.forward_head(features, pre_logits=True)
        tokens = map_tokens(_chans_first(self.model, features), pooled.flatten(1))
        return [tokens] * len(blocks)


def _chans_first(model: Any, features: Tensor) -> Tensor:
    last = features.ndim == 4 and getattr(model, "output_fmt", "NCHW") == "NHWC"
    return features.permute(0, 3, 1, 2) if last else features


def _created(name: str, released: bool) -> Any:
    import timm

    known = timm.list_models()
    if name.partition(".")[0] not in known:
        guess = nearest(name, known)
        hint = f"; did you mean {guess!r}?" if guess else ""
        raise WeightsError(
            f"timm {timm.__version__} has no model {name!r}{hint} timm.list_models() lists them"
        )
    settings: dict[str, Any] = {"pretrained": released, "num_classes": 0}
    try:
        try:
            return timm.create_model(name, dynamic_img_size=True, **settings)
        except TypeError:  # CNNs, and transformers of one size
            return timm.create_model(name, **settings)
    except Exception as error:  # whatever a download raises
        first = " ".join(str(error).split())[:200] or type(error).__name__
        raise WeightsError(
            f"timm cannot load the weights of {name}: {first}. Without a network, name a file"
            f" (timm:{name}@FILE), or take random weights (timm:{name}@{RANDOM})"
        ) from None


def _fill(model: Any, path: Path) -> None:
    """The weights of a file, all of them; those of a classifier are left out."""
    content = read_raw(path).content
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path} holds no dictionary of tensors; save model.state_dict()")
    state = {str(key).removeprefix("module."): value for key, value in content.items()}
    classifier = (model.pretrained_cfg or {}).get("classifier") or "head"
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    wanted = model.state_dict()
    kept = {k: v for k, v in state.items() if k in wanted or not k.startswith(tuple(f"{h}." for h in heads))}
    wrong = [k for k in kept if k in wanted and kept[k].shape != wanted[k].shape]
    missing, extra = sorted(wanted.keys() - kept.keys()), sorted(kept.keys() - wanted.keys())
    for what, keys in (("lacks", missing), ("has also", extra), ("has other shapes of", wrong)):
        if keys:
            raise WeightsError(
                f"{path} does not fit this model: it {what} {', '.join(keys[:3])}"
                f"{f' and {len(keys) - 3} more' if len(keys) > 3 else ''}; name the model it was saved from"
            )
    model.load_state_dict(kept)


def _shown(name: str, model: Any) -> Shown:
    chans, height, _ = (model.pretrained_cfg or {}).get("input_size") or (3, 224, 224)
    return Shown(f"timm {name}", height, chans)


def _normalization(model: Any) -> Normalization:
    settings = model.pretrained_cfg or {}
    mean, std = settings.get("mean", (0.485, 0.456, 0.406)), settings.get("std", (0.229, 0.224, 0.225))
    return tuple(mean), tuple(std)
