"""A backbone as a file for another runtime, proven equal there.

::

    plan          what is to be written, checked before anything is
    outputs       the outputs by name
    resampling    the position table at any grid, as two matrices
    graph         the backbone, written so that exporters understand it
    formats       write a file, run a file: ONNX, torch.export, TorchScript
    photos        real pixels
    verification  file against model: errors and cosines
    description   FILE.json: preprocessing, shapes, licence, origin
    exporter      all of them together
"""

from nexus.exporting.exporter import ExportResult, export

__all__ = ["ExportResult", "export"]
