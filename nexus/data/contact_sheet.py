"""A contact sheet: what the student and the teacher see of one photo.

The photo with the boxes of its crops; the two global crops, once as the teacher and once, with
hidden patches, as the student sees them; the local crops; and under each crop what was done to it.
The texts keep to ASCII, which is all that Pillow's built-in font surely holds.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Shaped, UInt8
from PIL import Image, ImageDraw, ImageOps
from torch import Tensor

from nexus.data.crops.config import PRESETS, preset
from nexus.data.crops.parameters import CropParameters
from nexus.data.masking import BlockMasker, MaskConfig
from nexus.data.multicrop import MultiCropAugmentation, MultiCrops
from nexus.data.picture import Pixels
from nexus.data.transforms import as_rgb
from nexus.drawing.text import font_of
from nexus.errors import ImageError, NexusError

Color = tuple[int, int, int]

PAPER: Color = (250, 249, 246)
INK: Color = (38, 38, 44)
FAINT: Color = (128, 128, 136)
GLOBAL_COLORS: tuple[Color, Color] = ((224, 82, 48), (30, 110, 190))
LOCAL_COLORS: tuple[Color, ...] = (
    (20, 150, 120),
    (190, 140, 20),
    (150, 85, 185),
    (205, 75, 130),
    (90, 140, 50),
    (60, 150, 190),
    (165, 105, 60),
    (110, 110, 200),
)

MARGIN = 28
GAP = 14
GLOBAL_SIDE = 280
LOCAL_SIDE = 173
GLOBAL_TEXT, LOCAL_TEXT = 3, 4
LINE = 16
HEADING = 24
COLUMNS = 8


def contact_sheet(image: Image.Image, crops: MultiCrops, masks: Bool[Tensor, "2 patches"]) -> Image.Image:
    """Draw the sheet. `image` is what `crops` was made from; `masks` holds square grids."""
    count = len(crops.local_crops)
    columns = min(COLUMNS, max(count, 1))
    local_rows = math.ceil(count / columns)
    width = 2 * MARGIN + COLUMNS * LOCAL_SIDE + (COLUMNS - 1) * GAP
    upper = 2 * (HEADING + GLOBAL_SIDE + GAP) + GLOBAL_TEXT * LINE
    lower = local_rows * (LOCAL_SIDE + LOCAL_TEXT * LINE + 2 * GAP)
    height = 2 * MARGIN + upper + (HEADING - GAP + lower if count else 0)
    sheet = Image.new("RGB", (width, height), PAPER)
    right = width - MARGIN - 2 * GLOBAL_SIDE - GAP
    _photo(sheet, image, crops, (MARGIN, MARGIN, right - 2 * GAP, MARGIN + upper - GAP))
    _globals(sheet, crops, masks, (right, MARGIN))
    if count:
        _locals(sheet, crops, (MARGIN, MARGIN + upper + GAP), columns)
    return sheet


def caption(parameters: CropParameters) -> list[str]:
    """What was done to a crop, in a few short lines."""
    box = parameters.box
    flips = [
        ("flip", parameters.flip),
        ("upside down", parameters.vertical_flip),
        ("turned", parameters.transpose),
    ]
    stages = [
        *flips,
        ("grey", parameters.grayscale),
        (f"blur {parameters.blur or 0:.1f}", parameters.blur is not None),
        ("solarized", parameters.solarize),
    ]
    done = [name for name, applied in stages if applied]
    jitter = [
        f"{name[:3]} {factor:+.2f}" if name == "hue" else f"{name[:3]} {factor:.2f}"
        for name, factor in parameters.jitter or ()
    ]
    return [f"{box.width} x {box.height} px", ", ".join(done), *_pairs(jitter)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the contact sheet of one photo: `python -m nexus.data.multicrop PHOTO`."""
    parser = argparse.ArgumentParser(
        prog="python -m nexus.data.multicrop", description="Draw the crops of one photo."
    )
    parser.add_argument("photo", type=Path, help="any image file")
    parser.add_argument("--out", type=Path, default=Path("sheet.png"), help="the PNG to write")
    parser.add_argument("--preset", default="official", help=f"one of {', '.join(PRESETS)}")
    parser.add_argument("--patch", type=int, default=14, help="patch size of the masks, in pixels")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same crops")
    options = parser.parse_args(arguments)
    try:
        image = _open(options.photo)
        config = preset(options.preset)
    except NexusError as error:
        parser.error(str(error))
    rng = np.random.default_rng(options.seed)
    crops = MultiCropAugmentation(config=config).crops(image, rng)
    grid = max(1, config.global_size // options.patch)
    masks = BlockMasker(MaskConfig(probability=1.0), grid, grid).batch(2, rng)
    contact_sheet(image, crops, masks).save(options.out)
    sys.stdout.write(f"{options.out}\n")
    return 0


def _open(path: Path) -> Image.Image:
    """The photo as a viewer shows it: turned as its EXIF says, RGB."""
    try:
        with Image.open(path) as file:
            return as_rgb(ImageOps.exif_transpose(file))
    except OSError as error:
        raise ImageError(str(path), f"cannot be read as an image ({error})") from None


def _photo(
    sheet: Image.Image, image: Image.Image, crops: MultiCrops, frame: tuple[int, int, int, int]
) -> None:
    """The photo with the box of every crop, as large as fits into `frame`."""
    left, top, right, bottom = frame
    heading, top = top, top + HEADING
    scale = min((right - left) / image.width, (bottom - top) / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    left += (right - left - size[0]) // 2
    _text(sheet, (left, heading), f"photo of {image.width} x {image.height} px", INK, 15)
    shown = as_rgb(image).resize(size, Image.Resampling.BICUBIC)
    sheet.paste(Image.blend(shown, Image.new("RGB", size, PAPER), 0.18), (left, top))
    boxes = []
    for parameters in crops.parameters:
        box = parameters.box
        x, y = left + round(box.left * scale), top + round(box.top * scale)
        x2, y2 = x + round(box.width * scale) - 1, y + round(box.height * scale) - 1
        boxes.append((x, y, max(x + 2, x2), max(y + 2, y2)))
    for index, corners in enumerate(boxes):
        _box(sheet, corners, index)
    for index, corners in enumerate(boxes):
        _tab(sheet, corners, index)


def _box(sheet: Image.Image, corners: tuple[int, int, int, int], index: int) -> None:
    """A rectangle in the crop's colour, with a light rim."""
    draw = ImageDraw.Draw(sheet)
    color = _color(index)
    draw.rectangle(corners, outline=PAPER, width=5 if index < 2 else 4)
    inner = (corners[0] + 1, corners[1] + 1, corners[2] - 1, corners[3] - 1)
    if inner[2] > inner[0] and inner[3] > inner[1]:
        draw.rectangle(inner, outline=color, width=3 if index < 2 else 2)


def _tab(sheet: Image.Image, corners: tuple[int, int, int, int], index: int) -> None:
    """The crop's number: upper right corner of a global box, upper left of a local one."""
    draw = ImageDraw.Draw(sheet)
    label, font = _name(index), font_of(13)
    wide = int(draw.textlength(label, font=font)) + 8
    x, y = (corners[2] - wide if index < 2 else corners[0]), corners[1]
    draw.rectangle((x, y, x + wide, y + 17), fill=_color(index))
    draw.text((x + 4, y + 1), label, fill=PAPER, font=font)


def _globals(
    sheet: Image.Image, crops: MultiCrops, masks: Bool[Tensor, "2 patches"], corner: tuple[int, int]
) -> None:
    """Two columns: the global crop, the same with hidden patches, and the caption."""
    for index in range(2):
        left, top = corner[0] + index * (GLOBAL_SIDE + GAP), corner[1]
        hidden = int(masks[index].sum())
        crop = _picture(crops.global_crops[index], GLOBAL_SIDE)
        _text(sheet, (left, top), f"global {index + 1}: teacher", _color(index), 15)
        sheet.paste(crop, (left, top + HEADING))
        top += HEADING + GLOBAL_SIDE + GAP
        seen = f"student: {hidden} of {len(masks[index])} patches hidden"
        _text(sheet, (left, top), seen, _color(index), 15)
        sheet.paste(_hide(crop, masks[index]), (left, top + HEADING))
        _lines(
            sheet, (left, top + HEADING + GLOBAL_SIDE + 6), _wide(crops.parameters[index]), 13, GLOBAL_SIDE
        )


def _locals(sheet: Image.Image, crops: MultiCrops, corner: tuple[int, int], columns: int) -> None:
    """A grid of the local crops with their captions."""
    side = int(crops.local_crops.shape[-1])
    heading = f"{len(crops.local_crops)} local crops of {side} px: student"
    _text(sheet, corner, heading, INK, 15)
    for index, pixels in enumerate(crops.local_crops):
        row, column = divmod(index, columns)
        left = corner[0] + column * (LOCAL_SIDE + GAP)
        top = corner[1] + HEADING + row * (LOCAL_SIDE + LOCAL_TEXT * LINE + 2 * GAP)
        sheet.paste(_picture(pixels, LOCAL_SIDE), (left, top))
        _tab(sheet, (left, top, left + LOCAL_SIDE, top + LOCAL_SIDE), index + 2)
        _lines(sheet, (left, top + LOCAL_SIDE + 6), caption(crops.parameters[index + 2]), 12, LOCAL_SIDE)


def shown_channels(pixels: Pixels) -> UInt8[np.ndarray, "height width 3"]:
    """Three channels to look at: the first three, or of one or two the first, in grey. Floats are 0..1."""
    first = pixels[:, :, :3] if pixels.shape[2] >= 3 else np.repeat(pixels[:, :, :1], 3, axis=2)
    return np.ascontiguousarray(first if first.dtype == np.uint8 else np.rint(first * 255).astype(np.uint8))


def _picture(pixels: Shaped[Tensor, "chans height width"], side: int) -> Image.Image:
    """A crop as a PIL image of `side` pixels; small crops keep visible pixels."""
    image = Image.fromarray(shown_channels(pixels.permute(1, 2, 0).numpy()))
    smooth = image.width * 4 > side
    method = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    return image.resize((side, side), method)


def _hide(image: Image.Image, mask: Bool[Tensor, " patches"]) -> Image.Image:
    """The image with hidden patches painted over, and the grid lines of those patches."""
    side = math.isqrt(len(mask))
    result = image.copy()
    veil = Image.blend(image, Image.new("RGB", image.size, INK), 0.88)
    draw = ImageDraw.Draw(result)
    for position in mask.nonzero().flatten().tolist():
        row, column = divmod(position, side)
        x, y = round(column * image.width / side), round(row * image.height / side)
        x2 = round((column + 1) * image.width / side)
        y2 = round((row + 1) * image.height / side)
        result.paste(veil.crop((x, y, x2, y2)), (x, y))
        draw.rectangle((x, y, x2 - 1, y2 - 1), outline=(74, 74, 82))
    return result


def _wide(parameters: CropParameters) -> list[str]:
    """The caption for a wide column: the jitter on one line."""
    size, done, *jitter = caption(parameters)
    return [f"{size}   {done}".rstrip(), "   ".join(jitter)]


def _pairs(words: list[str]) -> list[str]:
    return ["   ".join(words[start : start + 2]) for start in range(0, len(words), 2)]


def _lines(sheet: Image.Image, corner: tuple[int, int], lines: list[str], size: int, width: int) -> None:
    """Lines below each other, each in letters small enough for `width` pixels."""
    for number, line in enumerate(line for line in lines if line):
        color = INK if number == 0 else FAINT
        fitting = min(size, int(size * width / font_of(size).getlength(line)))
        _text(sheet, (corner[0], corner[1] + number * LINE), line, color, fitting)


def _text(sheet: Image.Image, corner: tuple[int, int], text: str, color: Color, size: int) -> None:
    ImageDraw.Draw(sheet).text(corner, text, fill=color, font=font_of(size))


def _color(index: int) -> Color:
    return GLOBAL_COLORS[index] if index < 2 else LOCAL_COLORS[(index - 2) % len(LOCAL_COLORS)]


def _name(index: int) -> str:
    return f"G{index + 1}" if index < 2 else str(index - 1)
