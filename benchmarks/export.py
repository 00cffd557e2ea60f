"""ViT-S/14 at 224 pixels: the exported file in its runtime against the model in PyTorch.

    python -m benchmarks.export --threads 2

Wall time of one forward pass, rounds interleaved, medians; weights are random, which changes no timing. The
model runs without gradients, as it is, not compiled. Every file is verified before it is timed.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from nexus.exporting import export
from nexus.exporting.formats import open_runner
from nexus.models.vision import architecture, build_backbone

BATCHES = (1, 8)
FILES = {
    "onnxruntime, any size, opset 20": ("a.onnx", {"format": "onnx"}),
    "onnxruntime, 224 px baked in, opset 20": ("b.onnx", {"format": "onnx", "size": 224}),
    "onnxruntime, any size, opset 18": ("c.onnx", {"format": "onnx", "opset": 18}),
    "onnxruntime, any size, opset 23": ("d.onnx", {"format": "onnx", "opset": 23}),
    "onnxruntime, any size, fp16": ("e.onnx", {"format": "onnx", "precision": "fp16"}),
    "torch.export, any size": ("a.pt2", {"format": "torch_export"}),
    "TorchScript, any size": ("a.pt", {"format": "torchscript"}),
}


def medians(candidates: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of one call of each candidate; they take turns, the first turn is not counted."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(rounds + 1):
        for name, call in candidates.items():
            began = time.perf_counter()
            call()
            if turn:
                times[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    """Print one table: milliseconds per image, and the ratio to PyTorch."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = build_backbone(architecture("vit_small_patch14", init_values=1.0)).eval()

    def eager(images: torch.Tensor) -> object:
        with torch.no_grad():
            return model.forward_features(images)

    runners: dict[str, Callable[[torch.Tensor], object]] = {"PyTorch, eager": eager}
    with tempfile.TemporaryDirectory() as folder:
        for name, (file, settings) in FILES.items():
            result = export(model, Path(folder) / file, shapes=[(2, 224, 224)], **settings)  # type: ignore[arg-type]
            runner = open_runner(result.plan, result.path)
            assert runner is not None, "install onnxruntime"
            runners[name] = runner
        print("| images | what | ms per image | PyTorch / this |")
        print("|---|---|---|---|")
        for batch in BATCHES:
            images = torch.randn(batch, 3, 224, 224)
            calls = {name: lambda run=run, x=images: run(x) for name, run in runners.items()}
            seconds = medians(calls, options.rounds)
            for name, value in seconds.items():
                ratio = seconds["PyTorch, eager"] / value
                print(f"| {batch} | {name} | {1000 * value / batch:.1f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
