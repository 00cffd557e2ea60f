"""The three engines side by side: the same decisions, the same pixels to a grey level here and there."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from nexus.data.batch import Batch
from nexus.data.crops.config import CropConfig, preset
from nexus.data.crops.device import recolour_batch
from nexus.data.crops.parameters import UNIFORMS, CropDrawer
from nexus.data.crops.plan import colour_plan
from nexus.data.crops.resample import cut_batch
from nexus.data.datasets import ImageDataset, open_dataset
from nexus.data.loader import train_batches
from nexus.data.loading.making import BatchMaker
from nexus.data.masking import BlockMasker, MaskConfig
from nexus.data.multicrop import MultiCropAugmentation
from nexus.data.order import Order
from nexus.data.picture import ArrayPicture
from nexus.data.replacing import UnusableData
from nexus.data.resident import ResidentBatches, ResidentImages
from nexus.demo.source import demo_data
from tests.data.test_multicrop import STAGES, ours, photo, plain, table_of

MASKER = BlockMasker(MaskConfig(), 4, 4)
CPU = torch.device("cpu")


def psnr(one: torch.Tensor, other: torch.Tensor) -> list[float]:
    """Of each row, in dB."""
    error = (one.float() - other.float()).square().mean(dim=(1, 2, 3)).clamp(min=1e-9)
    return [10 * math.log10(255**2 / value) for value in error.tolist()]


def batch_of(engine: str, dataset, config: CropConfig, positions: list[int], seed: int = 3) -> Batch:
    """One batch with all colours, made by one engine."""
    order = Order(len(dataset), seed)
    if engine == "resident":
        batches = ResidentBatches(ResidentImages.read(dataset, CPU), config, order, MASKER)
        return batches.batch(positions).recoloured()
    on_device = engine == "device"
    augmentation = MultiCropAugmentation(config=config, recolour=not on_device)
    maker = BatchMaker(dataset, augmentation, order, MASKER, config if on_device else None)
    return next(train_batches(maker, [positions], workers=0, max_seconds=60)).recoloured()


@pytest.mark.parametrize("name", ["official", "seed", "microscopy", "texture"])
@pytest.mark.parametrize("engine", ["device", "resident"])
def test_every_engine_makes_the_crops_of_the_cpu(engine: str, name: str) -> None:
    dataset = open_dataset(demo_data(), "train").subset(range(40))
    config = preset(name).model_copy(update={"global_size": 48, "local_size": 24, "local_number": 4})
    positions = list(range(24, 36))
    want, got = (batch_of(kind, dataset, config, positions) for kind in ("cpu", engine))
    assert torch.equal(want.masks.grid, got.masks.grid)
    assert (want.images, want.faults, got.colours) == (got.images, got.faults, None)
    for one, other in ((want.global_crops, got.global_crops), (want.local_crops, got.local_crops)):
        assert one.dtype == other.dtype == torch.uint8
        assert one.shape == other.shape
        found = psnr(one, other)
        assert np.median(found) > 48
        assert min(found) > 25  # a level at the threshold of solarization


@pytest.mark.parametrize("changes", STAGES, ids=str)
def test_pixels_of_each_stage_on_the_device(changes: dict) -> None:
    config = CropConfig(global_size=56, local_size=24)
    pixels = np.asarray(open_dataset(demo_data(), "train")[0].image.resize((120, 90)))
    parameters = plain((120, 90), **changes)
    want = ours(pixels, parameters, config)
    bare = ours(pixels, plain((120, 90), **{k: v for k, v in changes.items() if k in GEOMETRY}), config)
    for top in (255, 1):
        crops = torch.from_numpy(bare if top == 255 else bare.astype(np.float32) / 255)[None]
        made = recolour_batch(crops, colour_plan(table_of(parameters), config, chans=3))
        assert made.dtype == crops.dtype
        least = 35 if "solarize" in changes else 46 if top == 1 else 48
        assert psnr(made * (255 / top), torch.from_numpy(want)[None])[0] > least


GEOMETRY = ("kind", "box", "flip", "vertical_flip", "transpose")


@pytest.mark.parametrize("size", [(32, 32), (28, 40)])
@pytest.mark.parametrize("side", [16, 32, 45])
def test_matrices_resize_as_pillow(size: tuple[int, int], side: int) -> None:
    image = photo(*size)
    drawer = CropDrawer(CropConfig(local_number=6, vertical_flip=0.5, transpose=0.5))
    table = drawer(size, np.random.default_rng(0).random((8, UNIFORMS)))
    flips = np.stack([table.flip, table.vertical_flip, table.transpose], axis=1)
    stored = torch.from_numpy(np.array(image)).permute(0, 2, 1)[None].expand(8, -1, -1, -1)
    got = cut_batch(stored, torch.from_numpy(table.boxes), torch.from_numpy(flips), side)
    for row, crop in zip(table.rows(), got, strict=True):
        top, left, height, width = row.box
        want = image.crop((left, top, left + width, top + height)).resize(
            (side, side), Image.Resampling.BICUBIC
        )
        for turn, applied in zip(TURNS, (row.flip, row.vertical_flip, row.transpose), strict=True):
            want = want.transpose(turn) if applied else want
        difference = crop.int() - torch.from_numpy(np.array(want)).permute(2, 0, 1).int()
        assert difference.abs().max() <= 2
        # Pillow takes the passes in another order where a box grows on one axis and shrinks on the other.
        grows = [length < side for length in (height, width)]
        assert difference.float().abs().mean() < (0.4 if grows[0] != grows[1] else 0.02)


TURNS = (
    Image.Transpose.FLIP_LEFT_RIGHT,
    Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.TRANSPOSE,
)


def test_resident_batches_do_not_depend_on_where_they_begin() -> None:
    dataset = open_dataset("synthetic:n=10,size=32")
    config = CropConfig(global_size=32, local_size=16, local_number=2)
    whole = batch_of("resident", dataset, config, list(range(6, 12)))
    part = batch_of("resident", dataset, config, [9, 10, 11])
    assert torch.equal(part.global_crops, whole.global_crops.view(2, 6, 3, 32, 32)[:, 3:].flatten(0, 1))
    other = batch_of("resident", dataset, config, [9, 10, 11], seed=4)
    assert not torch.equal(part.global_crops, other.global_crops)


def test_unusable_images_are_replaced_alike(tmp_path) -> None:
    for number in range(6):
        photo(20, 20, seed=number).save(tmp_path / f"{number}.png")
    (tmp_path / "2.png").write_bytes(b"no image")
    (tmp_path / "4.png").write_bytes((tmp_path / "4.png").read_bytes()[:300])
    config = CropConfig(global_size=16, local_size=12, local_number=1, blur_kernel=3)
    cpu, resident = (
        batch_of(engine, open_dataset(tmp_path), config, list(range(6))) for engine in ("cpu", "resident")
    )
    assert {fault.name for fault in cpu.faults} == {"2.png", "4.png"}
    assert cpu.faults == resident.faults
    assert np.median(psnr(cpu.global_crops, resident.global_crops)) > 48


def test_an_image_of_another_size_is_a_fault_of_the_resident_engine(tmp_path) -> None:
    for number in range(4):
        photo(20, 20 + 5 * (number == 3), seed=number).save(tmp_path / f"{number}.png")
    images = ResidentImages.read(open_dataset(tmp_path), CPU)
    assert [fault.name for fault in images.faults.values()] == ["3.png"]
    assert "20 x 25 pixels where others have 20 x 20" in images.faults[3].reason
    assert "data.engine=cpu" in images.faults[3].reason


@pytest.mark.parametrize("engine", ["device", "resident"])
def test_a_data_set_without_a_good_image_is_refused(engine: str, tmp_path) -> None:
    for number in range(2):
        (tmp_path / f"{number}.png").write_bytes(b"no image")
    config = CropConfig(global_size=16, local_size=12)
    with pytest.raises(UnusableData, match=r"images in a row cannot be used") as caught:
        batch_of(engine, open_dataset(tmp_path), config, [0, 1])
    assert {fault.name for fault in caught.value.faults} == {"0.png", "1.png"}


@pytest.mark.parametrize("engine", ["device", "resident"])
def test_probabilities_measured_on_pixels(engine: str) -> None:
    """Grey, solarized and blurred crops, counted without a look at the decisions."""
    noise = np.random.default_rng(0).integers(0, 100, (24, 24, 3), dtype=np.uint8)
    changed = {"jitter": 0.0, "ratio": (1, 1), "global_scale": (1, 1), "local_scale": (1, 1)}
    config = CropConfig(global_size=24, local_size=24, local_number=1, solarize_threshold=0, **changed)
    images = torch.from_numpy(noise).permute(0, 2, 1)[None].expand(400, -1, -1, -1).contiguous()
    order = Order(400, 0)
    batches = ResidentBatches(ResidentImages(images, {}), config, order, MASKER)
    batch = batches.batch(list(range(400)))
    if engine == "device":
        augmentation = MultiCropAugmentation(config=config, recolour=False)
        maker = BatchMaker(Repeated(noise), augmentation, order, MASKER, config)
        batch = next(train_batches(maker, [range(400)], workers=0, max_seconds=60))
    crops = batch.recoloured()
    second = crops.global_crops[400:].float()
    solarized = second.mean(dim=(1, 2, 3)) > 150
    grey = (second.amax(dim=1) == second.amin(dim=1)).all(dim=(1, 2))
    rough = (
        torch.where(solarized[:, None, None], 255 - second[:, 0], second[:, 0])
        .diff(dim=-1)
        .abs()
        .mean((1, 2))
    )
    sharp = torch.from_numpy(noise[:, :, 0].astype(np.float32)).diff(dim=-1).abs().mean()
    blurred = rough[~grey] < 0.95 * sharp
    for flags, probability in ((solarized, 0.2), (grey, 0.2), (blurred, 0.9 * 1.65 / 1.9)):
        bound = 5 * math.sqrt(probability * (1 - probability) / len(flags))
        assert abs(flags.float().mean() - probability) < bound


class Repeated(ImageDataset):
    """400 times the same picture."""

    def __init__(self, pixels: np.ndarray) -> None:
        super().__init__("400 times the same picture")
        self.pixels = pixels

    def __len__(self) -> int:
        return 400

    def name(self, i: int) -> str:
        return str(i)

    def read(self, i: int) -> bytes:
        raise AssertionError("nothing is encoded")

    def picture(self, i: int) -> ArrayPicture:
        return ArrayPicture(self.pixels, self.name(i))
