"""The official multi-crop pipeline, written with torchvision on PIL images: what ours is compared with."""

from PIL import Image
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from nexus.data.crops.config import CropConfig, Kind
from nexus.data.crops.parameters import CropParameters

ADJUST = {
    "brightness": F.adjust_brightness,
    "contrast": F.adjust_contrast,
    "saturation": F.adjust_saturation,
    "hue": F.adjust_hue,
}


def official_views(config: CropConfig) -> list[v2.Transform]:
    """One transform a crop, PIL image to uint8 tensor, with the distribution of `config`."""

    def view(kind: Kind) -> v2.Transform:
        size, scale, blur, solarize = config.view(kind)
        jitter = (config.brightness, config.contrast, config.saturation, config.hue)
        bicubic = v2.InterpolationMode.BICUBIC
        return v2.Compose(
            [
                v2.RandomResizedCrop(size, scale=scale, ratio=config.ratio, interpolation=bicubic),
                v2.RandomHorizontalFlip(config.flip),
                v2.RandomApply([v2.ColorJitter(*jitter)], config.jitter),
                v2.RandomGrayscale(config.grayscale),
                v2.RandomApply([v2.GaussianBlur(config.blur_kernel, config.blur_sigma)], blur),
                v2.RandomSolarize(config.solarize_threshold, solarize),
                v2.PILToTensor(),
            ]
        )

    return [view("global1"), view("global2"), *[view("local")] * config.local_number]


def apply_parameters(image: Image.Image, parameters: CropParameters, config: CropConfig) -> Tensor:
    """One crop at given decisions through torchvision's PIL functions: uint8 (3, side, side)."""
    side = config.view(parameters.kind).side
    bicubic = v2.InterpolationMode.BICUBIC
    image = F.resized_crop(image, *parameters.box, [side, side], bicubic, antialias=True)
    if parameters.flip:
        image = F.horizontal_flip(image)
    if parameters.vertical_flip:
        image = F.vertical_flip(image)
    if parameters.transpose:
        image = image.transpose(Image.Transpose.TRANSPOSE)
    for operation, factor in parameters.jitter or ():
        image = ADJUST[operation](image, factor)
    if parameters.grayscale:
        image = F.rgb_to_grayscale(image, num_output_channels=3)
    if parameters.blur is not None:
        image = F.gaussian_blur(image, [config.blur_kernel] * 2, [parameters.blur] * 2)
    if parameters.solarize:
        image = F.solarize(image, float(config.solarize_threshold))
    return F.pil_to_tensor(image)
