"""Writing a graph as a file, and running the file where it is going to be used.

| format         | written by                          | run by            |
|----------------|-------------------------------------|-------------------|
| `onnx`         | PyTorch's exporter, by `torch.export` | onnxruntime, CPU  |
| `torch_export` | `torch.export`                      | `torch.export.load` |
| `torchscript`  | `torch.jit.trace`                   | `torch.jit.load`  |
"""

import importlib.metadata
import importlib.util
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nexus.exporting.graph import ExportGraph
from nexus.exporting.plan import SMALLEST_GRID, Plan

INPUT = "images"
"""How the graph calls its input."""
KEY = "nexus"
"""Under which the description lies in the metadata of an ONNX file."""
EXTRA_FILE = "description.json"
"""Under which it lies inside the files of PyTorch."""
EXTERNAL_ABOVE = 1_800_000_000
"""Bytes of weights from which an ONNX file leaves them in a second file; the format ends at 2 GiB."""
TRACED_GRID, TRACED_BATCH = (5, 7), 2
"""The images that a dynamic graph is traced with: no square, so that rows and columns cannot be mixed up."""

Runner = Callable[[Tensor], list[np.ndarray]]
"""Images to outputs, in the order of the plan."""


def write(graph: ExportGraph, plan: Plan, path: Path, description: Mapping[str, Any]) -> None:
    """Write `graph` to `path`, with `description` inside; `path.data` may hold the weights of ONNX."""
    example, text = example_images(graph, plan), json.dumps(description)
    with torch.no_grad(), _quiet():
        if plan.format == "onnx":
            _write_onnx(graph, plan, example, path, text)
        elif plan.format == "torch_export":
            program = torch.export.export(graph, (example,), dynamic_shapes=dynamic_shapes(plan))
            torch.export.save(program, path, extra_files={EXTRA_FILE: text})
        else:
            traced = torch.jit.trace(graph, (example,), check_trace=False)
            torch.jit.save(traced, str(path), _extra_files={EXTRA_FILE: text})


def open_runner(plan: Plan, path: Path) -> Runner | None:
    """The file at `path`, loaded by the runtime of its format; None where that is not installed."""
    if plan.format == "onnx":
        return _onnx_runner(path) if importlib.util.find_spec("onnxruntime") else None
    with _quiet():
        if plan.format == "torch_export":
            return torch_runner(torch.export.load(path).module())
        return torch_runner(torch.jit.load(str(path)))


def torch_runner(module: Callable[[Tensor], Any]) -> Runner:
    """A PyTorch function as a runner."""

    def run(images: Tensor) -> list[np.ndarray]:
        with torch.no_grad():
            return [output.numpy() for output in module(images)]

    return run


def runtime(plan: Plan) -> str:
    """The runtime of a format, with its version."""
    if plan.format != "onnx":
        return f"torch {torch.__version__}"
    try:
        return f"onnxruntime {importlib.metadata.version('onnxruntime')}, CPU"
    except importlib.metadata.PackageNotFoundError:
        return "onnxruntime"


def example_images(graph: ExportGraph, plan: Plan) -> Tensor:
    """Images of the shape that is traced."""
    rows, cols = plan.grid or TRACED_GRID
    batch, chans = TRACED_BATCH if plan.any_batch else 1, graph.patch.in_channels
    shape = (batch, chans, rows * plan.patch, cols * plan.patch)
    return torch.zeros(shape, dtype=torch.uint8 if plan.scaling == "uint8" else torch.float32)


def dynamic_shapes(plan: Plan) -> tuple[dict[int, Any]]:
    """The axes of the input that stay open, as `torch.export` wants them."""
    axes: dict[int, Any] = {}
    if plan.any_batch:
        axes[0] = torch.export.Dim("batch")
    if plan.size is None:
        smallest = SMALLEST_GRID * plan.patch
        axes[2] = torch.export.Dim("height", min=smallest)
        axes[3] = torch.export.Dim("width", min=smallest)
    return (axes,)


def _write_onnx(graph: ExportGraph, plan: Plan, example: Tensor, path: Path, text: str) -> None:
    program = torch.onnx.export(
        graph,
        (example,),
        dynamo=True,
        verbose=False,
        input_names=[INPUT],
        output_names=[output.name for output in plan.outputs],
        opset_version=plan.opset,
        dynamic_shapes=dynamic_shapes(plan),
    )
    assert program is not None
    program.model.metadata_props[KEY] = text
    program.model.producer_name = "nexus"
    size = sum(tensor.numel() * tensor.element_size() for tensor in graph.state_dict().values())
    program.save(path, external_data=size > EXTERNAL_ABOVE)


def _onnx_runner(path: Path) -> Runner:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {INPUT: images.numpy()})


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' remarks about themselves: deprecations, and values that become constants."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
