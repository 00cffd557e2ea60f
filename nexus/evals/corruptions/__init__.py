"""Pictures made worse on purpose, in fifteen ways and five strengths.

The idea and the fifteen names are those of ImageNet-C (Hendrycks and Dietterich, arXiv 1903.12261). The code
and the strengths are our own: snow, fog and frost are computed, no photographs are pasted in. So our numbers
compare our models with each other, and not with a paper's.

::

    kinds      the register: each kind, its group and its five strengths
    scale      how strengths follow the size of the picture
    noise      gaussian, shot, impulse
    blur       defocus, glass, motion, zoom
    weather    snow, frost, fog, brightness
    digital    contrast, elastic, pixelate, jpeg
    corrupted  a data set whose images are corrupted when they are read
"""

from nexus.evals.corruptions.corrupted import CorruptedDataset
from nexus.evals.corruptions.kinds import GROUPS, KINDS, SEVERITIES, corrupt

__all__ = ["GROUPS", "KINDS", "SEVERITIES", "CorruptedDataset", "corrupt"]
