"""From positions to batches: all of them, in order, whatever fails and however many processes work."""

import os
import signal

import pytest
import torch
from PIL import Image

from nexus.data.batch import Batch, Fault
from nexus.data.crops.config import CropConfig
from nexus.data.datasets import ImageDataset, open_dataset
from nexus.data.loader import Collate, CropStream, LoaderError, train_batches
from nexus.data.masking import BlockMasker, MaskConfig
from nexus.data.multicrop import MultiCropAugmentation
from nexus.data.order import Order, StepSampler
from nexus.data.replacing import UnusableData
from nexus.errors import ImageError

CROPS = CropConfig(global_size=32, local_size=16, local_number=2)
DATA = "synthetic:n=10,size=32"


def stream(dataset, seed: int = 0) -> CropStream:
    return CropStream(dataset, MultiCropAugmentation(config=CROPS), Order(len(dataset), seed))


def batches(dataset, *, start: int = 0, steps: int = 4, workers: int = 0, seed: int = 0) -> list[Batch]:
    sampler = StepSampler(start_step=start, steps=steps, micro_batch=3)
    collate = Collate(BlockMasker(MaskConfig(), 4, 4), seed)
    return list(train_batches(stream(dataset, seed), collate, sampler, workers=workers, pin_memory=False))


def assert_equal(one: list[Batch], other: list[Batch]) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a.global_crops, b.global_crops)
        assert torch.equal(a.local_crops, b.local_crops)
        assert torch.equal(a.masks.grid, b.masks.grid)
        assert a.faults == b.faults


def test_every_batch_comes_the_last_one_too():
    found = batches(open_dataset(DATA), steps=4)
    assert [batch.images for batch in found] == [3, 3, 3, 3]
    assert found[0].global_crops.shape == (6, 3, 32, 32)
    assert found[0].local_crops.shape == (6, 3, 16, 16)
    assert found[0].global_crops.dtype == torch.uint8
    assert len({batch.global_crops.numpy().tobytes() for batch in found}) == 4


def test_the_same_at_any_number_of_workers_and_from_any_step():
    data = open_dataset(DATA)
    whole = batches(data, steps=5)
    assert_equal(batches(data, steps=5, workers=2), whole)
    assert_equal(batches(data, start=3, steps=5), whole[3:])


def test_crops_are_crop_major():
    data = open_dataset(DATA)
    batch = batches(data, steps=1)[0]
    crops = [stream(data)[position].crops for position in range(3)]
    for crop in range(2):
        for image in range(3):
            assert torch.equal(batch.global_crops[3 * crop + image], crops[image].global_crops[crop])
            assert torch.equal(batch.local_crops[3 * crop + image], crops[image].local_crops[crop])


def test_an_image_seen_again_is_cropped_anew():
    data = open_dataset("synthetic:n=1,size=32")
    first, second = stream(data)[0].crops, stream(data)[1].crops
    assert not torch.equal(first.global_crops, second.global_crops)


@pytest.fixture
def damaged(tmp_path):
    for i in range(6):
        Image.new("RGB", (40, 40), (40 * i, 0, 0)).save(tmp_path / f"{i}.png")
    for name in ("2.png", "4.png"):
        (tmp_path / name).write_text("text")
    return open_dataset(tmp_path)


@pytest.mark.parametrize("workers", [0, 2])
def test_unusable_images_are_replaced_and_reported(damaged, workers):
    found = batches(damaged, steps=2, workers=workers)
    assert [batch.images for batch in found] == [3, 3]
    faults = [fault for batch in found for fault in batch.faults]
    assert {fault.name for fault in faults} == {"2.png", "4.png"}
    assert all(fault.reason.startswith("not an image") for fault in faults)
    assert_equal(found, batches(damaged, steps=2))


def test_mended_files_change_nothing_but_themselves(damaged, tmp_path):
    """The crops at a position depend on that position alone."""
    bad = {position for position in range(6) if Order(6, 0)[position] in (2, 4)}
    before = [stream(damaged)[position].crops.global_crops for position in range(6)]
    for name in ("2.png", "4.png"):
        Image.new("RGB", (40, 40), (0, 255, 0)).save(tmp_path / name)
    after = [stream(damaged)[position].crops.global_crops for position in range(6)]
    assert {i for i in range(6) if not torch.equal(before[i], after[i])} == bad


class Numbered(ImageDataset):
    """Ten images that go wrong in some way."""

    def __init__(self) -> None:
        super().__init__("ten images")

    def __len__(self) -> int:
        return 10

    def name(self, i: int) -> str:
        return f"{i}.png"


class Hopeless(Numbered):
    """None of them opens."""

    def read(self, i: int) -> bytes:
        raise ImageError(self.name(i), "empty file")


@pytest.mark.parametrize("workers", [0, 2])
def test_errors_arrive_as_they_were_raised(workers):
    with pytest.raises(UnusableData, match=r"100 images in a row.*empty file") as error:
        batches(Hopeless(), workers=workers)
    assert "Traceback" not in str(error.value)
    assert set(error.value.faults) == {Fault(f"{i}.png", "empty file") for i in range(10)}


class Deadly(Numbered):
    """Reading one ends the process, as when memory runs out."""

    def read(self, i: int) -> bytes:
        os.kill(os.getpid(), signal.SIGKILL)
        return b""


def test_a_dead_worker_is_one_clear_error():
    before = signal.getsignal(signal.SIGCHLD)
    with pytest.raises(LoaderError, match=r"a process that reads images died.*lower data\.workers"):
        batches(Deadly(), workers=1)
    assert signal.getsignal(signal.SIGCHLD) is before


class Broken(Numbered):
    """A bug, which is no reason to speak of dead processes."""

    def read(self, i: int) -> bytes:
        raise RuntimeError("a bug")


@pytest.mark.parametrize("workers", [0, 1])
def test_bugs_keep_their_traceback(workers):
    with pytest.raises(RuntimeError, match="a bug"):
        batches(Broken(), workers=workers)
