"""What a recognised source of images and truths says of itself."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from nexus.data.dense.pairs import Pair

Kind = Literal["label map", "depth map"]
LABELS: Kind = "label map"
DEPTH: Kind = "depth map"


@dataclass(frozen=True)
class Layout:
    """Pairs by split, and what the layout knows about its truths.

    name            of the layout, for people: "VOC", "folder pairs"
    splits          split → its pairs; the key is empty where there are none
    classes         names by stored number; empty where no file says them
    palette         colour → stored number, where the maps are pictures
    zero_is_void    the stored 0 means "nothing" (ADE20K), so the first class is 1
    scale           stored numbers per metre; None where they are not said
    scale_reason    how that is known
    max_depth       metres, where the data set has a customary limit
    eval_crop       the customary part of the image that is scored
    expected        images per split of the published data set
    """

    name: str
    where: str
    splits: Mapping[str, tuple[Pair, ...]]
    classes: Mapping[int, str] = field(default_factory=dict)
    palette: Mapping[tuple[int, int, int], int] | None = None
    zero_is_void: bool = False
    scale: float | None = None
    scale_reason: str = ""
    max_depth: float | None = None
    eval_crop: str = "none"
    expected: Mapping[str, int] = field(default_factory=dict)

    def surprises(self) -> list[str]:
        """Sentences about splits that have another size than the published ones."""
        return [
            f"{self.where}: {len(self.splits[split]):,} pairs in {split!r}, but {self.name} is published "
            f"with {count:,}"
            for split, count in self.expected.items()
            if split in self.splits and len(self.splits[split]) != count
        ]
