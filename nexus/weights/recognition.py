"""What a file is by its first bytes, for everything that people mistake for weights."""

import re

HEAD = 512
"""Bytes that are looked at."""

_MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (b"\x93NUMPY", "a NumPy array", "features of `nexus embed` look like this; pass the model itself"),
    (b"PAR1", "a parquet table", "features and lists look like this; pass the model itself"),
    (b"\x89HDF", "an HDF5 file, as Keras writes", "pass the PyTorch or safetensors file of the model"),
    (b"GGUF", "a GGUF file of a language model", "pass a vision model"),
    (b"\x1f\x8b", "compressed with gzip", "unpack it first"),
    (b"BZh", "compressed with bzip2", "unpack it first"),
    (b"\xfd7zXZ", "compressed with xz", "unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive", "unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "unpack it first"),
    (b"\x78\x01", "compressed with zlib, as joblib does", "save the tensors alone as .safetensors"),
    (b"\x78\x5e", "compressed with zlib, as joblib does", "save the tensors alone as .safetensors"),
    (b"\x78\x9c", "compressed with zlib, as joblib does", "save the tensors alone as .safetensors"),
    (b"\x78\xda", "compressed with zlib, as joblib does", "save the tensors alone as .safetensors"),
    (b"\xff\xd8\xff", "a JPEG image", "pass it with --data, and a model with --model"),
    (b"\x89PNG", "a PNG image", "pass it with --data, and a model with --model"),
    (b"%PDF", "a PDF", "pass the weight file"),
)


VAGUE = {"text", "a tar archive", "neither safetensors nor a PyTorch file"}
"""What `recognise` says of files that may be anything."""


def recognise(head: bytes) -> tuple[str, str]:
    """What a file that begins with `head` is, if it is no weight file, and what to do.

    ::

        recognise(b"<html>404")   →  ("a web page, probably an error message", "download the file itself")
    """
    if not head:
        return "empty", "the download or copy was interrupted, repeat it"
    text = head.lstrip().lower()
    if text.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer", "fetch the real file with `git lfs pull`"
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page, probably an error message", "download the file itself"
    if head[257:262] == b"ustar":
        return (
            "a tar archive",
            "unpack it and pass the weight file in it; tar shards of images go with --data",
        )
    if is_onnx(head):
        return "an ONNX model, which only runs", "pass the weights that it was exported from"
    for magic, kind, cure in _MAGIC:
        if head.startswith(magic):
            return kind, cure
    if _is_text(head):
        return "text", "pass a .safetensors or .pth file, a run folder or an architecture name"
    return "neither safetensors nor a PyTorch file", "it may be damaged"


def is_onnx(head: bytes) -> bool:
    """Whether a file begins as exporters write ONNX: the format's version, then who produced it."""
    return re.match(rb"\x08[\x01-\x20](\x12.[\x20-\x7e]|\x42.|\x3a)", head, flags=re.S) is not None


def _is_text(head: bytes) -> bool:
    if b"\x00" in head:
        return False
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start > len(head) - 4
    return True
