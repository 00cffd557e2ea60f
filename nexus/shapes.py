"""The words for tensor axes, the same in every signature of the package.

| axis         | counts                                                                             |
|--------------|------------------------------------------------------------------------------------|
| `batch`      | images                                                                             |
| `crops`      | images × crops, crop-major: row `c * batch + b` is crop `c` of image `b`           |
| `chans`      | image channels                                                                     |
| `height` `width` | pixels                                                                         |
| `rows` `cols`| patches down and across                                                            |
| `patches`    | rows × cols, row-major                                                             |
| `tokens`     | 1 (CLS) + registers + patches                                                      |
| `registers`  | register tokens                                                                    |
| `dim`        | features of a token                                                                |
| `heads`      | attention heads                                                                    |
| `hidden` `bottleneck` `prototypes` | widths inside a projection head                              |
| `masked`     | hidden patches, over all crops of a batch                                          |
| `samples`    | rows of a feature table, or images of an evaluation set                            |
| `classes` `neighbors` | classes of a task; nearest neighbours                                      |

Shapes are jaxtyping annotations (`Float[Tensor, "batch tokens dim"]`). They are checked when the tests
run and cost nothing otherwise.
"""

from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

Pixels = UInt8[Tensor, "crops chans height width"]
"""Crops as they leave the loader: whole bytes, not yet normalised."""

Images = Float[Tensor, "batch chans height width"]
"""Normalised images, as a backbone takes them."""

Tokens = Float[Tensor, "batch tokens dim"]
Grid = Bool[Tensor, "crops patches"]
Labels = Int[Tensor, " samples"]

__all__ = ["Bool", "Float", "Grid", "Images", "Int", "Labels", "Pixels", "Tensor", "Tokens", "UInt8"]
