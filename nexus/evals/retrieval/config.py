"""The settings of the retrieval task."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from nexus.config import Config

Feature = Literal["cls", "mean_patch", "cls_mean", "gem"]
Kind = Literal["auto", "leave_one_out", "query_gallery", "copies", "landmarks"]


class RetrievalConfig(Config):
    """Retrieval: every query sorts a gallery by cosine similarity."""

    protocol: Kind = "auto"
    """Who asks and who is searched; auto chooses by what the data have, and says so."""
    groups: Literal["auto", "group", "label"] = "auto"
    """What makes two images a pair: the list's `group` column, or the class label; auto prefers groups."""
    difficulty: Literal["easy", "medium", "hard"] = "medium"
    """Which of the three protocols of a landmark set is the headline; all are reported."""
    feature: Feature = "cls"
    """CLS, mean patch, both joined (each at length 1), or patches pooled by their generalised mean (GeM)."""
    gem_power: Annotated[float, Field(gt=0)] = 3.0
    """Power of the generalised mean; 1 is the mean of the positive parts."""
    whiten: PositiveInt | None = None
    """Dimensions that PCA whitening keeps, learned on the training split alone; null for none."""
    recall: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (1, 5, 10, 100)
    """Numbers of neighbours among which a right image is looked for."""
    shown: Annotated[int, Field(ge=0)] = 8
    """Queries in the picture of nearest neighbours."""
