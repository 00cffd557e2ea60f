"""Files that are no weights but that people have: features, ONNX models, checkpoints, and the rest."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from nexus import checkpoint
from nexus.errors import WeightsError
from nexus.weights.onnx_header import onnx_facts
from nexus.weights.read import read_head, read_header
from nexus.weights.recognition import VAGUE, is_onnx, recognise

Facts = dict[str, Any]

_FEATURES = "features, as `nexus embed` writes them"


def other_facts(path: Path) -> Facts | None:
    """What a file is, if it is one of nexus's own that holds no weights, or an ONNX model; else `None`."""
    head = read_head(path)
    facts: Facts | None = None
    if is_onnx(head):
        facts = {
            "kind": "ONNX model",
            **onnx_facts(path),
            "use": "running it; it cannot be trained or loaded",
        }
    elif head.startswith(b"\x93NUMPY"):
        facts = _array(path)
    elif head.startswith(b"PAR1"):
        facts = _table(path)
    elif path.suffix == ".safetensors" and head[8:9] == b"{":
        facts = _tensor_features(path)
    if facts is None:
        return None
    return {"kind": facts.pop("kind"), "path": str(path), "bytes": path.stat().st_size, **facts}


def unknown_facts(path: Path, why: str) -> Facts:
    """A file that nothing here reads: what it is by its first bytes, else `why` it is no data set."""
    kind, cure = recognise(read_head(path))
    problem = why if kind in VAGUE else f"it is {kind}; {cure}"
    return {"kind": "other file", "path": str(path), "bytes": path.stat().st_size, "problem": problem}


def checkpoint_facts(folder: Path) -> Facts | None:
    """What a folder of `checkpoints/` is, or that folder itself."""
    if folder.name.startswith("step_") and (folder / "state.json").is_file():
        files = [path for path in folder.rglob("*") if path.is_file()]
        return {
            "kind": "checkpoint",
            "path": str(folder),
            "step": checkpoint.step_of(folder),
            "bytes": sum(path.stat().st_size for path in files),
            "holds": "student, teacher, heads, optimizer and the state of the run",
            "use": f"going on with the run: nexus train --resume {folder.parent.parent}; not for inference",
        }
    if saved := checkpoint.list_checkpoints(folder):
        return {
            "kind": "checkpoints of a run",
            "path": str(folder),
            "checkpoints": [path.name for path in saved],
            "use": f"going on with the run: nexus train --resume {folder.parent}; not for inference",
        }
    return None


# -- features ---------------------------------------------------------------------------------------


def _array(path: Path) -> Facts:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise WeightsError(f"{path} is no array that can be read: {str(error).splitlines()[0]}") from None
    names = path.with_name(f"{path.stem}.paths.txt")
    kind = _FEATURES if names.is_file() else "NumPy array"
    facts: Facts = {"kind": kind, "shape": list(array.shape), "dtype": str(array.dtype)}
    if names.is_file():
        facts["images"], facts["names"] = len(array), str(names)
    return facts


def _table(path: Path) -> Facts | None:
    """A parquet table with a column `cls`; other tables are lists of images."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema, rows = pq.read_schema(path), pq.read_metadata(path).num_rows
    except (pa.ArrowException, OSError) as error:
        raise WeightsError(f"{path} is a damaged parquet table: {str(error).splitlines()[0]}") from None
    if "cls" not in schema.names:
        return None
    columns = {name: str(schema.field(name).type) for name in schema.names}
    return {"kind": _FEATURES, "images": rows, "columns": columns}


def _tensor_features(path: Path) -> Facts | None:
    header = read_header(path)
    metadata = header.pop("__metadata__", {})
    if "cls" not in header or "paths" not in metadata:
        return None
    columns = {name: f"{entry['dtype']} {entry['shape']}" for name, entry in header.items()}
    return {"kind": _FEATURES, "images": len(json.loads(metadata["paths"])), "columns": columns}
