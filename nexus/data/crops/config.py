"""The settings of the crops, and presets of them for kinds of images.

The official code declares blur probabilities of 1.0, 0.1 and 0.5 but hands their complements to torchvision,
so the released weights saw 0.0, 0.9 and 0.5. All probabilities here are effective.
"""

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, Field, model_validator

from nexus.config import Config, Tree, build, merge
from nexus.errors import choose

Kind = Literal["global1", "global2", "local"]
PresetName = Literal["official", "byol", "seed", "microscopy", "medical", "satellite", "texture"]
COLOURLESS = {"saturation": 0.0, "hue": 0.0, "grayscale": 0.0}
"""Settings for images without colours, in which these three change nothing."""


def _ascending(pair: tuple[float, float]) -> tuple[float, float]:
    if not 0 < pair[0] <= pair[1]:
        raise ValueError("should be a pair low, high with 0 < low <= high")
    return pair


Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Strength = Annotated[float, Field(ge=0.0)]
Side = Annotated[int, Field(gt=0)]
Range = Annotated[tuple[float, float], AfterValidator(_ascending)]


class CropConfig(Config):
    """How the crops of an image are made. The defaults are DINOv2's, as trained."""

    preset: PresetName = "official"
    """Where settings that are left out come from; `--crops` sets it. See docs/data.md."""
    global_size: Side = 224
    """Side of the two global crops, in pixels; a multiple of the patch size."""
    local_size: Side = 96
    """Side of the local crops, in pixels; a multiple of the patch size (98 for patches of 14)."""
    local_number: Annotated[int, Field(ge=0)] = 8
    """Local crops per image; 0 for none."""
    global_scale: Range = (0.32, 1.0)
    """Least and largest share of the image's area that a global crop shows."""
    local_scale: Range = (0.05, 0.32)
    """Least and largest share of the image's area that a local crop shows."""
    ratio: Range = (3 / 4, 4 / 3)
    """Least and largest width / height of the box that becomes a crop; log-uniform between."""
    flip: Probability = 0.5
    """Probability of a left-right flip; 0 where left and right mean something."""
    vertical_flip: Probability = 0.0
    """Probability of an upside-down flip; 0.5 where there is no up, as in microscopy."""
    transpose: Probability = 0.0
    """Probability that rows and columns change places; 0.5 beside two flips of 0.5: every turn by 90°."""
    jitter: Probability = 0.8
    """Probability that brightness, contrast, saturation and hue change, in random order."""
    brightness: Strength = 0.4
    """Largest relative change of brightness: the factor is uniform in 1 - x .. 1 + x."""
    contrast: Strength = 0.4
    """Largest relative change of contrast: the factor is uniform in 1 - x .. 1 + x."""
    saturation: Strength = 0.2
    """Largest relative change of saturation: the factor is uniform in 1 - x .. 1 + x."""
    hue: Annotated[float, Field(ge=0.0, le=0.5)] = 0.1
    """Largest rotation of the hue, in turns of the colour circle, either way."""
    grayscale: Probability = 0.2
    """Probability that a crop loses its colours."""
    blur_global1: Probability = 0.0
    """Probability that the first global crop is blurred."""
    blur_global2: Probability = 0.9
    """Probability that the second global crop is blurred."""
    blur_local: Probability = 0.5
    """Probability that a local crop is blurred."""
    blur_kernel: Side = 9
    """Width of the Gaussian kernel in pixels; odd, less than twice the side of a blurred crop."""
    blur_sigma: Range = (0.1, 2.0)
    """Least and largest standard deviation of the blur in pixels; uniform between."""
    solarize_global2: Probability = 0.2
    """Probability that bright pixels of the second global crop are inverted."""
    solarize_threshold: Annotated[int, Field(ge=0, le=255)] = 128
    """Values from this one on (0..255) are inverted by solarization."""

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, values: Any) -> Any:
        """The values of the preset, where nothing else is given."""
        name = values.get("preset", "official") if isinstance(values, dict) else "official"
        return {**PRESETS[name], **values} if name in PRESETS else values

    @model_validator(mode="after")
    def _consistent(self) -> "CropConfig":
        for name in ("global_scale", "local_scale"):
            if getattr(self, name)[1] > 1:
                raise ValueError(f"{name}={getattr(self, name)}: no crop shows more than 1.0 of it")
        if self.blur_kernel % 2 == 0:
            raise ValueError(f"blur_kernel={self.blur_kernel} is even; take {self.blur_kernel + 1}")
        blurred = {"local_size": self.blur_local * self.local_number}
        blurred["global_size"] = self.blur_global1 + self.blur_global2
        for name, probability in blurred.items():
            if probability > 0 and self.blur_kernel // 2 >= getattr(self, name):
                raise ValueError(
                    f"blur_kernel={self.blur_kernel} is too wide for {name}={getattr(self, name)}; "
                    f"take at most {2 * getattr(self, name) - 1}"
                )
        return self

    def view(self, kind: Kind) -> "View":
        """The settings that differ between the kinds of crop."""
        if kind == "local":
            return View(self.local_size, self.local_scale, self.blur_local, 0.0)
        if kind == "global1":
            return View(self.global_size, self.global_scale, self.blur_global1, 0.0)
        return View(self.global_size, self.global_scale, self.blur_global2, self.solarize_global2)


class View(NamedTuple):
    """One kind of crop: output side, area range, probabilities of blur and of solarization."""

    side: int
    scale: tuple[float, float]
    blur: float
    solarize: float


PRESETS: dict[str, dict[str, Any]] = {
    "official": {},
    "byol": {"blur_global1": 1.0, "blur_global2": 0.1},
    "seed": {
        "global_scale": (0.4, 1.0),
        "local_scale": (0.05, 0.4),
        "jitter": 1.0,
        "saturation": 0.4,
        "blur_global1": 1.0,
        "blur_global2": 1.0,
        "blur_local": 1.0,
        "blur_kernel": 23,
        "solarize_global2": 0.0,
    },
    "microscopy": {**COLOURLESS, "vertical_flip": 0.5, "transpose": 0.5, "solarize_global2": 0.0},
    "medical": {
        **COLOURLESS,
        "local_scale": (0.1, 0.4),
        "brightness": 0.2,
        "contrast": 0.3,
        "solarize_global2": 0.0,
    },
    "satellite": {
        "vertical_flip": 0.5,
        "transpose": 0.5,
        "hue": 0.05,
        "grayscale": 0.1,
        "solarize_global2": 0.0,
    },
    "texture": {
        "vertical_flip": 0.5,
        "transpose": 0.5,
        "local_scale": (0.1, 0.4),
        "saturation": 0.1,
        "hue": 0.02,
        "grayscale": 0.0,
        "blur_global2": 0.2,
        "blur_local": 0.1,
        "blur_sigma": (0.1, 1.0),
        "solarize_global2": 0.0,
    },
}
"""Settings that differ from DINOv2's, by what is in the pictures.

`official`: photos, as DINOv2 was trained. `byol`: as its code declares the blur, and as BYOL does it. `seed`:
one strong pipeline for all crops, from the document that this package grew out of. The others are our
choices, not measured: `microscopy`, grey and without an up; `medical`, grey radiographs, where brightness
means something; `satellite`, colours without an up; `texture`, surfaces in industry, where colour and
sharpness are what a defect is seen by."""


def preset(name: str) -> CropConfig:
    """The crop settings called `name`; see `PRESETS`. Raises `ConfigError` for another name."""
    choose(name, PRESETS, "crop preset")
    return build(CropConfig, {"preset": name})


def with_preset(tree: Tree) -> Tree:
    """Settings of a run in which `crops.preset`, where it is given, is spelt out.

    So it also replaces what settings below say, a recipe's for example. What stands beside it stays.
    """
    crops = tree.get("crops")
    name = crops.get("preset") if isinstance(crops, dict) else None
    if name not in PRESETS:
        return tree
    touched = {key for values in PRESETS.values() for key in values}
    return merge({"crops": preset(str(name)).model_dump(include=touched)}, tree)
