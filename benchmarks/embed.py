"""Images per second from files to features, ViT-B/14: `nexus embed`'s path beside timm and transformers.

    python -m benchmarks.embed --images FOLDER [--count 16 --batch-size 8 --rounds 3 --threads 1]
    python -m benchmarks.embed --images FOLDER --device cuda --batch-size 256 --count 4096 --workers 8

The same images, batch, precision and number of threads; random weights; inference mode; the three take
turns. *Files* includes reading, decoding, resizing and normalising, each library in its documented way
(timm's transform, transformers' image processor), until CLS and mean patch are on the CPU. *Pixels* is the
network alone on normalised images. Times are CPU seconds on a CPU, wall seconds on a GPU; `--compile`
compiles all three. Without a folder, synthetic photographs are drawn. Not in the times: loading
libraries and weights, and the fingerprint that `nexus embed` takes of the weights once (stated apart).
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

from benchmarks.drawn_photo import photo
from nexus.data.batch import normalize
from nexus.data.datasets import open_dataset
from nexus.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from nexus.embedding.fingerprint import fingerprint
from nexus.features import View, Wanted
from nexus.features.extraction import iterate_columns, normalization_of
from nexus.features.outputs import wanted_columns
from nexus.models.vision import architecture, build_backbone

SIZE = 224
DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
Pooled = tuple[Tensor, Tensor]


class Files(Dataset):
    """Images of some files, through a transform."""

    def __init__(self, files: Sequence[Path], transform: Callable[[Image.Image], Any]) -> None:
        self.files, self.transform = files, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Any:
        with Image.open(self.files[index]) as image:
            return self.transform(image.convert("RGB"))


class Bench:
    """The three candidates on one list of files."""

    def __init__(self, files: list[Path], options: argparse.Namespace) -> None:
        self.files, self.options = files, options
        self.device = torch.device(options.device)
        self.ours = build_backbone(architecture("vit_base_patch14")).eval().to(self.device)
        self.timm = timm.create_model("vit_base_patch14_dinov2", img_size=SIZE, num_classes=0)
        self.timm = self.timm.eval().to(self.device)
        self.hf = Dinov2Model(Dinov2Config(image_size=SIZE, patch_size=14)).eval().to(self.device)
        if options.compile:
            self.ours.layer_tokens = torch.compile(self.ours.layer_tokens)
            self.timm.forward_features = torch.compile(self.timm.forward_features)
            self.hf.compile()
        self.dataset = open_dataset([str(path) for path in files])
        self.transform = timm.data.create_transform(
            input_size=(3, SIZE, SIZE), crop_pct=224 / 256, interpolation="bicubic"
        )
        self.processor = BitImageProcessor(
            size={"shortest_edge": 256},
            crop_size={"height": SIZE, "width": SIZE},
            image_mean=IMAGENET_MEAN,
            image_std=IMAGENET_STD,
        )

    # -- the network alone ------------------------------------------------------------------------

    def pixels(self, precision: str) -> dict[str, Callable[[], object]]:
        """One pass of each network over a batch of normalised images."""
        raw = torch.randint(0, 256, (self.options.batch_size, 3, SIZE, SIZE), dtype=torch.uint8)
        images = normalize(raw, torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)).to(self.device)
        wanted = Wanted()
        return {
            "nexus": lambda: wanted_columns(self.ours, images, wanted, precision),
            "timm": lambda: self._timm(images, precision),
            "transformers": lambda: self._transformers(images, precision),
        }

    @torch.inference_mode()
    def _timm(self, images: Tensor, precision: str) -> Pooled:
        with self._cast(precision):
            tokens = self.timm.forward_features(images)
        return tokens[:, 0].float(), tokens[:, 1:].float().mean(dim=1)

    @torch.inference_mode()
    def _transformers(self, images: Tensor, precision: str) -> Pooled:
        with self._cast(precision):
            tokens = self.hf(pixel_values=images).last_hidden_state
        return tokens[:, 0].float(), tokens[:, 1:].float().mean(dim=1)

    def _cast(self, precision: str) -> torch.autocast:
        dtype = DTYPES[precision]
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)

    # -- from files -------------------------------------------------------------------------------

    def from_files(self, precision: str) -> dict[str, Callable[[], object]]:
        """One pass of each library over all files."""
        view = View(
            size=SIZE,
            batch_size=self.options.batch_size,
            workers=self.options.workers,
            precision=precision,
        )

        def others(transform: Callable[[Image.Image], Any], network: Callable[[Tensor, str], Pooled]) -> int:
            return sum(
                len(network(images.to(self.device, non_blocking=True), precision)[0].cpu())
                for images in self._loader(transform)
            )

        return {
            "nexus": lambda: sum(
                len(columns[0]["cls"])
                for _, columns in iterate_columns(self.ours, self.dataset, view, Wanted())
            ),
            "timm": lambda: others(self.transform, self._timm),
            "transformers": lambda: others(self._processed, self._transformers),
        }

    def _processed(self, image: Image.Image) -> Tensor:
        return self.processor(image, return_tensors="pt")["pixel_values"][0]

    def _loader(self, transform: Callable[[Image.Image], Any]) -> Iterator[Tensor]:
        return iter(
            DataLoader(
                Files(self.files, transform),
                batch_size=self.options.batch_size,
                num_workers=self.options.workers,
                pin_memory=self.device.type == "cuda",
            )
        )

    def fingerprint_seconds(self) -> float:
        """What `nexus embed` pays once, so that it can go on after a stop."""
        began = time.perf_counter()
        view = View(size=SIZE)
        fingerprint(self.ours, self.dataset, view, Wanted(), "float32", normalization_of(self.ours, view))
        return time.perf_counter() - began

    def measure(self, candidates: dict[str, Callable[[], object]]) -> dict[str, float]:
        """Median seconds of one call; the candidates take turns, the first turn is not counted."""
        clock = time.perf_counter if self.device.type == "cuda" else time.process_time
        times: dict[str, list[float]] = {name: [] for name in candidates}
        for turn in range(self.options.rounds + 1):
            for name, call in candidates.items():
                began = clock()
                call()
                if self.device.type == "cuda":
                    torch.cuda.synchronize()
                if turn:
                    times[name].append(clock() - began)
        return {name: statistics.median(values) for name, values in times.items()}


def drawn(folder: Path, count: int) -> list[Path]:
    """Synthetic photographs of the usual size."""
    for index in range(count):
        (folder / f"{index:05d}.jpg").write_bytes(photo(500, 375, index))
    return sorted(folder.iterdir())


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=Path)
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as temporary:
        files = (
            sorted(options.images.rglob("*.[jJ][pP]*g"))[: options.count]
            if options.images
            else drawn(Path(temporary), options.count)
        )
        bench = Bench(files, options)
        unit = "second" if options.device == "cuda" else "CPU second"
        machine = platform.processor() or platform.machine()
        print(f"{machine}, {os.cpu_count()} cores, torch {torch.__version__}, timm {timm.__version__};")
        chosen = {name: value for name, value in vars(options).items() if name != "images"}
        print(f"{len(files)} images, {chosen}\n")
        print(f"| precision | from | library | images per {unit} | nexus over it |\n|---|---|---|---|---|")
        for precision in options.precisions:
            for kind, candidates, images in (
                ("files", bench.from_files(precision), len(files)),
                ("pixels", bench.pixels(precision), options.batch_size),
            ):
                seconds = bench.measure(candidates)
                for name, value in seconds.items():
                    ratio = value / seconds["nexus"]
                    print(
                        f"| {precision} | {kind} | {name} | {images / value:.2f} | {ratio:.3f} |", flush=True
                    )
        print(f"\nfingerprint of the weights, once per file: {bench.fingerprint_seconds():.2f} s")


if __name__ == "__main__":
    main()
