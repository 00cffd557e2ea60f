"""What is done with a data set before anything is trained on it: looked through, measured, packed, shown."""

from nexus.data.preparation.measuring import measure
from nexus.data.preparation.packing import Packed, pack
from nexus.data.preparation.sheets import write_sheet
from nexus.data.preparation.survey import Survey, survey

__all__ = ["Packed", "Survey", "measure", "pack", "survey", "write_sheet"]
