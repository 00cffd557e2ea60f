"""Weight files: write ours, read ours and the official ones, and say what any of them is.

::

    hub         a released model's name → its file, downloaded if need be (download, transfer, progress)
    read        a file on disk         → plain tensors, never code (pickles, recognition, soundness)
    keys        anybody's key names    → the official ones of a backbone
    infer       tensor shapes          → the architecture
    source      what a user typed      → an architecture or a file
    loading     all of them together; strict
    layouts     one file for each ecosystem: its key names, in both directions
    split       Hugging Face folders, models in several parts
    writing     a backbone             → .safetensors and config.json
    conversion  a backbone             → somebody else's files, with proof
    targets     what can be written, and how its library opens it
    comparison  do two networks compute the same?
    inspection  what is this? (contents, other_files, onnx_header)
    card        a run                  → its model card
"""

from nexus.weights.card import model_card, write_card
from nexus.weights.conversion import Conversion, convert
from nexus.weights.inspection import inspect, inspect_sentence
from nexus.weights.loading import LoadReport, initialise_from, load, load_with_report, tell_input
from nexus.weights.writing import save_backbone

__all__ = [
    "Conversion",
    "LoadReport",
    "convert",
    "initialise_from",
    "inspect",
    "inspect_sentence",
    "load",
    "load_with_report",
    "model_card",
    "save_backbone",
    "tell_input",
    "write_card",
]
