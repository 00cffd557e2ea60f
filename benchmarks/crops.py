"""Crops per second: torchvision's transforms as the official recipe composes them, against ours.

    python -m benchmarks.crops

One thread, the demo's photo tiles and synthetic photos of 500 × 375; CPU time, rounds interleaved.
"""

import io

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2

from benchmarks.timing import interleaved, table
from nexus.data.multicrop import MultiCropAugmentation, preset

IMAGES = 4


def reference(global_size: int, local_size: int, locals_: int) -> list[v2.Transform]:
    """The official distribution written with torchvision's own classes on PIL images."""

    def view(size: int, scale: tuple[float, float], blur: float, solarize: float) -> v2.Transform:
        return v2.Compose(
            [
                v2.RandomResizedCrop(size, scale=scale, interpolation=v2.InterpolationMode.BICUBIC),
                v2.RandomHorizontalFlip(0.5),
                v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], 0.8),
                v2.RandomGrayscale(0.2),
                v2.RandomApply([v2.GaussianBlur(9, (0.1, 2.0))], blur),
                v2.RandomSolarize(128, solarize),
                v2.PILToTensor(),
            ]
        )

    large, small = (0.32, 1.0), (0.05, 0.32)
    views = [view(global_size, large, 0.0, 0.0), view(global_size, large, 0.9, 0.2)]
    return views + [view(local_size, small, 0.5, 0.0)] * locals_


def photo(width: int, height: int, seed: int) -> bytes:
    """A JPEG with detail at every scale."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (width, height))
    for side in (4, 16, 64, 256):
        noise = Image.fromarray(rng.integers(0, 255, (side, side, 3), dtype=np.uint8))
        image = Image.blend(image, noise.resize((width, height), Image.Resampling.BICUBIC), 0.5)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=90)
    return out.getvalue()


def compare(width: int, height: int, global_size: int, local_size: int, rounds: int) -> str:
    """One row of the result per engine."""
    files = [photo(width, height, seed) for seed in range(IMAGES)]
    views = reference(global_size, local_size, 8)
    config = preset("official").model_copy(update={"global_size": global_size, "local_size": local_size})
    ours = MultiCropAugmentation(config)

    def run_reference() -> None:
        for data in files:
            image = Image.open(io.BytesIO(data)).convert("RGB")
            for view in views:
                view(image)

    def run_ours() -> None:
        for number, data in enumerate(files):
            image = Image.open(io.BytesIO(data)).convert("RGB")
            ours.crops(image, np.random.default_rng(number))

    seconds = interleaved({"torchvision v2 on PIL": run_reference, "nexus": run_ours}, rounds)
    return table(seconds, IMAGES, "images")


def main() -> None:
    """Print the result as Markdown."""
    torch.set_num_threads(1)
    print("JPEG to 2 global + 8 local crops, official preset, one thread.")
    for width, height, global_size, local_size in ((500, 375, 224, 98), (32, 32, 32, 16)):
        print(f"\n## {width} × {height} → {global_size} / {local_size}\n")
        print(compare(width, height, global_size, local_size, rounds=15))


if __name__ == "__main__":
    main()
