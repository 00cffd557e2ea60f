"""`nexus data crops`: contact sheets of the crops and masks of a data set's own images, PNG or HTML."""

import base64
import html
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from nexus.checkpoint import write_atomic
from nexus.data.contact_sheet import contact_sheet, shown_channels
from nexus.data.crops.config import COLOURLESS, CropConfig, preset
from nexus.data.crops.parameters import UNIFORMS
from nexus.data.datasets import ImageDataset, open_dataset
from nexus.data.masking import BlockMasker, MaskConfig
from nexus.data.multicrop import MultiCropAugmentation
from nexus.data.picture import Channels, Look
from nexus.errors import ConfigError, DataError, ImageError, RunError

ENDINGS = (".png", ".html")


def write_sheet(
    data: str | Path | ImageDataset,
    out: str | Path,
    *,
    crops: str = "official",
    images: int = 4,
    seed: int = 0,
    patch: int = 14,
    channels: Channels = "rgb",
    overwrite: bool = False,
) -> list[str]:
    """Draw the crops of `images` images, evenly spread over `data`, to `out`; returns their names.

    `crops` is the name of a preset; the masks are those of patches of `patch` pixels. Of `native` channels
    the first three are shown, or the first of one or two. `out` ends in `.png` or `.html`, which holds
    everything in one file. Raises `ConfigError` for settings, `DataError` where no image can be read,
    `RunError` where a file is in the way.
    """
    out = Path(out)
    if out.suffix.lower() not in ENDINGS:
        raise ConfigError(f"{out.name} should end in .png or .html; use {out.stem}.png")
    if images < 1:
        raise ConfigError(f"images={images} leaves nothing to draw; use 1 or more")
    if out.exists() and not overwrite:
        raise RunError(f"{out} exists; choose another --out, or replace it with --overwrite")
    config = preset(crops)
    dataset = open_dataset(data).seen_as(Look(channels))
    drawn = _sheets(dataset, config, images, seed, patch)
    if out.suffix.lower() == ".html":
        text = _page(dataset.description, crops, config, drawn)
        _written(out, lambda: write_atomic(out, text))
    else:
        _written(out, lambda: _stacked([sheet for _, sheet in drawn]).save(out))
    return [name for name, _ in drawn]


def _written(out: Path, write: Callable[[], None]) -> None:
    try:
        write()
    except OSError as error:
        raise RunError(
            f"{out} cannot be written: {error.strerror or error}; mend its folder, or choose another --out"
        ) from None


def _sheets(
    dataset: ImageDataset, config: CropConfig, images: int, seed: int, patch: int
) -> list[tuple[str, Image.Image]]:
    """Names and sheets of the first readable images from evenly spread places on."""
    coloured = MultiCropAugmentation(config=config)
    colourless = MultiCropAugmentation(config=config.model_copy(update=COLOURLESS))  # as training does it
    grid = max(1, config.global_size // patch)
    masker = BlockMasker(MaskConfig(probability=1.0), grid, grid)
    drawn: dict[int, tuple[str, Image.Image]] = {}
    failed: ImageError | None = None
    for start in np.linspace(0, len(dataset), min(images, len(dataset)), endpoint=False).astype(int).tolist():
        for index in range(start, len(dataset)):
            if index in drawn:
                continue
            rng = np.random.default_rng((seed, index))
            try:
                picture = dataset.picture(index)
                pixels = picture.pixels()
                augmentation = coloured if pixels.shape[2] == 3 else colourless
                made = augmentation.of(picture, rng.random((len(augmentation.sides), UNIFORMS)))
            except ImageError as error:
                failed = error
                continue
            image = Image.fromarray(shown_channels(pixels))
            drawn[index] = picture.name, contact_sheet(image, made, masker.batch(2, rng))
            break
    if not drawn:
        raise DataError(f"no image of {dataset.description} can be read; the last one tried: {failed}")
    return [drawn[index] for index in sorted(drawn)]


def _stacked(sheets: Sequence[Image.Image]) -> Image.Image:
    """The sheets one below the other."""
    whole = Image.new("RGB", (max(s.width for s in sheets), sum(s.height for s in sheets)), "white")
    top = 0
    for sheet in sheets:
        whole.paste(sheet, (0, top))
        top += sheet.height
    return whole


def _page(what: str, crops: str, config: CropConfig, drawn: Sequence[tuple[str, Image.Image]]) -> str:
    """One HTML file with the sheets inside."""
    figures = "\n".join(
        f"<h2>{html.escape(name)}</h2>\n<img alt='crops of {html.escape(name, quote=True)}' "
        f"src='data:image/png;base64,{_base64(sheet)}'>"
        for name, sheet in drawn
    )
    rows = "\n".join(
        f"<tr><td>crops.{name}</td><td>{html.escape(str(value))}</td></tr>"
        for name, value in config.model_dump().items()
    )
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Crops: {html.escape(crops)}</title>
<style>
body {{ font: 16px sans-serif; margin: 2em auto; max-width: 1560px; background: #faf9f6; color: #26262c }}
h2 {{ font-size: 16px; font-weight: normal; overflow-wrap: anywhere }}
img {{ max-width: 100%; border: 1px solid #ddd }}
td {{ padding: 0 1.5em 0 0; font-size: 14px }}
</style>
<h1>Crops, preset {html.escape(crops)}</h1>
<p>{html.escape(what)}</p>
{figures}
<h1>Settings</h1>
<table>
{rows}
</table>
</html>
"""


def _base64(sheet: Image.Image) -> str:
    file = io.BytesIO()
    sheet.save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()
