"""The probe: a few training images whose features are looked at again and again while a run goes on.

Which images, and where their two global crops lie, depends on the seed alone; they stay the same for the
whole run, when it is resumed, and on any number of processes. So what changes from one look to the next is
the network. The crops are those of the run's own augmentation; beside them lie the same boxes without
colours.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from nexus.data.batch import normalize
from nexus.data.crops.colour import recolour
from nexus.data.crops.config import CropConfig
from nexus.data.crops.parameters import UNIFORMS
from nexus.data.datasets import ImageDataset
from nexus.data.multicrop import MultiCropAugmentation
from nexus.data.order import PROBE, generator, uniforms
from nexus.distributed import all_gather, rank, world_size
from nexus.errors import ImageError
from nexus.health import pixels, signs
from nexus.losses import Logits, Targets, likeness_of, spread_of
from nexus.models.ssl import DINOv2
from nexus.models.vision import VisionTransformer
from nexus.training.config import TrainConfig
from nexus.training.parallel import whole_backbone, whole_head, whole_number
from nexus.training.step import autocast

CHUNK = 32
"""Crops at once: always as many, so that the numbers do not depend on the processes."""
MOST_THUMBNAILS = 512
"""Images that are compared to find copies."""
SIDE = 16
"""Side of such a thumbnail in pixels."""


@dataclass(frozen=True)
class Crops:
    """Two global crops of each image of the probe, crop-major, with and without their colours changed."""

    coloured: Shaped[Tensor, "crops chans height width"]
    clean: Shaped[Tensor, "crops chans height width"]


class Probe:
    """Measures the vital signs of a teacher on the same images each time; touches nothing."""

    def __init__(self, config: TrainConfig, dataset: ImageDataset, device: torch.device) -> None:
        self.config, self.device = config, device
        chosen = generator(config.seed, PROBE, 0).permutation(len(dataset))
        found = _cut(config.crops, dataset, chosen, config.health.images, config.seed)
        mean, std = map(torch.tensor, config.data.normalization)
        self.images = len(found.coloured) // 2
        self.fixed = {
            "health/detail": pixels.detail_kept(found.clean, found.coloured),
            "health/colour": pixels.colour_kept(found.clean, found.coloured),
            "health/copies": pixels.copies(_thumbnails(dataset, chosen, self._affordable), len(dataset)),
        }
        self.crops = normalize(found.coloured, mean, std).to(device)

    @property
    def _affordable(self) -> int:
        """How many images may be decoded for thumbnails: 2 % of those that the run decodes."""
        schedule = self.config.schedule
        return min(MOST_THUMBNAILS, schedule.steps * schedule.batch_size // 50)

    @torch.no_grad()
    def measure(self, model: DINOv2, temperature: float) -> dict[str, float]:
        """Every vital sign by its key in metrics.jsonl. Every process must call it; all get the same."""
        backbone, head = whole_backbone(model.teacher_backbone), whole_head(model)
        cuda = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda), autocast(self.device, self.config.compute.precision):
            cls, norms = self._look(backbone)
            if not cls.isfinite().all():
                return {"health/images": float(self.images), **self.fixed}
            first = self.crops[:CHUNK]
            noise = signs.disagreement(*(backbone.forward_features(first)["x_norm_clstoken"] for _ in "12"))
            logits = Logits(head.bottleneck(cls), head.prototypes)
        offset = model.centering.offset(logits, temperature)
        probs = Targets(logits, temperature, offset).log_probs(logits[:]).exp()
        one, two = cls.chunk(2)
        return {
            "health/rankme": signs.rankme(cls),
            "health/effective_rank": signs.effective_rank(cls),
            "health/alpha": signs.alpha_req(cls),
            "health/lidar": signs.lidar(one, two),
            "health/std": float(spread_of(cls)),
            "health/cosine": float(likeness_of(one)),
            "health/nearest": signs.nearest_distance(one),
            "health/retrieval": signs.retrieval(one, two),
            "health/outliers": signs.outliers(norms[:, :, None]),
            "health/prototypes": signs.prototypes_in_use(probs),
            "health/teacher_noise": noise,
            "health/teacher_lag": _lag(model),
            "health/images": float(self.images),
            **self.fixed,
        }

    def _look(
        self, backbone: VisionTransformer
    ) -> tuple[Float[Tensor, "crops dim"], Float[Tensor, "crops patches"]]:
        """CLS features of all crops, and the length of each patch token before the last norm."""
        parts = list(range(-(-len(self.crops) // CHUNK)))
        parts += [0] * (-len(parts) % world_size())  # so that all processes have as many
        mine = parts[rank() :: world_size()]
        looked = [self._features(backbone, part) for part in mine]
        table = all_gather(torch.stack(looked))  # rank-major: chunk r, r + world, ...
        table = table.unflatten(0, (world_size(), -1)).transpose(0, 1).flatten(0, 2)[: len(self.crops)]
        dim = backbone.embed_dim
        return table[:, :dim], table[:, dim:]

    def _features(self, backbone: VisionTransformer, part: int) -> Float[Tensor, "crops values"]:
        crops = self.crops[part * CHUNK : (part + 1) * CHUNK]
        crops = torch.cat([crops, crops[:1].expand(CHUNK - len(crops), -1, -1, -1)])
        tokens = backbone.forward_features(crops)
        patches = tokens["x_prenorm"][:, 1 + backbone.num_register_tokens :]
        return torch.cat([tokens["x_norm_clstoken"].float(), patches.float().norm(dim=2)], dim=1)


@torch.no_grad()
def _lag(model: DINOv2) -> float:
    """Distance of the teacher's backbone from the student's, relative to the student's length."""
    pairs = zip(model.teacher_backbone.parameters(), model.student_backbone.parameters(), strict=True)
    squares = [((a - b).square().sum(), b.square().sum()) for a, b in pairs]
    gap, size = (sum(whole_number(value) for value in column) for column in zip(*squares, strict=True))
    return float((gap / max(size, 1e-12)) ** 0.5)


def _cut(config: CropConfig, dataset: ImageDataset, chosen: np.ndarray, count: int, seed: int) -> Crops:
    """Crops of the first `count` chosen images that can be read."""
    two = config.model_copy(update={"local_number": 0})
    augmentation = MultiCropAugmentation(config=two, recolour=False)
    clean: list[Tensor] = []
    coloured: list[Tensor] = []
    for place, index in enumerate(chosen):
        if len(clean) == count:
            break
        drawn = uniforms(seed, PROBE, place, 1, 2 * UNIFORMS).reshape(2, UNIFORMS)
        try:
            crops = augmentation.of(dataset.picture(int(index)), drawn)
        except ImageError:
            continue
        changed = crops.global_crops.clone()
        for crop, row in zip(changed.numpy(), crops.table.rows(), strict=True):
            recolour(crop, row, config.blur_kernel, config.solarize_threshold)
        clean.append(crops.global_crops)
        coloured.append(changed)
    return Crops(torch.stack(coloured, dim=1).flatten(0, 1), torch.stack(clean, dim=1).flatten(0, 1))


def _thumbnails(dataset: ImageDataset, chosen: np.ndarray, count: int) -> Float[Tensor, "samples values"]:
    """Small grey pictures of whole images."""
    found = []
    for index in chosen[:count]:
        try:
            picture = dataset.picture(int(index))
            shrink = max(1, min(8, 2 ** int(np.log2(max(min(picture.size) / 64, 1)))))
            values = torch.from_numpy(np.ascontiguousarray(picture.pixels(shrink))).float()
        except ImageError:
            continue
        grey = values.mean(dim=2)[None, None]
        found.append(torch.nn.functional.adaptive_avg_pool2d(grey, SIDE).flatten())
    return torch.stack(found) if found else torch.zeros(0, SIDE**2)
