"""From positions to batches: all of them, in order, whatever fails and however many processes work."""

import gc
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nexus.data.batch import Batch, Fault
from nexus.data.crops.config import CropConfig
from nexus.data.crops.parameters import UNIFORMS
from nexus.data.datasets import ImageDataset, open_dataset
from nexus.data.loader import train_batches
from nexus.data.loading.ahead import Batches, OnDevice
from nexus.data.loading.making import BatchMaker
from nexus.data.loading.pool import MAX_DEATHS, LoaderError, WorkerPool
from nexus.data.masking import BlockMasker, MaskConfig
from nexus.data.multicrop import MultiCropAugmentation
from nexus.data.order import CROPS as CROP_STREAM
from nexus.data.order import Order, StepSampler, uniforms
from nexus.data.picture import ArrayPicture, Look, Picture
from nexus.data.replacing import UnusableData
from nexus.errors import ImageError

CROPS = CropConfig(global_size=32, local_size=16, local_number=2)
DATA = "synthetic:n=10,size=32"


def maker(dataset, seed: int = 0, on_device: bool = False) -> BatchMaker:
    augmentation = MultiCropAugmentation(config=CROPS, recolour=not on_device)
    masker = BlockMasker(MaskConfig(), 4, 4)
    return BatchMaker(dataset, augmentation, dataset.order(seed), masker, CROPS if on_device else None)


def start(
    dataset, *, first: int = 0, steps: int = 4, workers: int = 0, seconds: float = 60, on_device: bool = False
) -> Batches:
    sampler = StepSampler(start_step=first, steps=steps, micro_batch=3)
    return train_batches(maker(dataset, on_device=on_device), sampler, workers=workers, max_seconds=seconds)


def batches(dataset, **settings) -> list[Batch]:
    return list(start(dataset, **settings))


def crops_at(dataset, position: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The crops of one position, made without a loader."""
    augmentation = MultiCropAugmentation(config=CROPS)
    drawn = uniforms(0, CROP_STREAM, position, 1, 4 * UNIFORMS).reshape(4, UNIFORMS)
    made = augmentation.of(dataset.picture(Order(len(dataset), 0)[position]), drawn)
    return made.global_crops, made.local_crops


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


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_the_same_at_any_number_of_workers_and_from_any_step(workers, on_device):
    data = open_dataset(DATA)
    whole = batches(data, steps=8, on_device=on_device)
    assert_equal(batches(data, steps=8, workers=workers, on_device=on_device), whole)
    assert_equal(batches(data, first=5, steps=8, workers=workers, on_device=on_device), whole[5:])
    if on_device:
        again = batches(data, steps=8, workers=workers, on_device=True)
        assert_equal([b.recoloured() for b in again], [b.recoloured() for b in whole])
        assert not torch.equal(again[0].recoloured().global_crops, again[0].global_crops)


def test_crops_are_crop_major():
    data = open_dataset(DATA)
    batch = batches(data, steps=1)[0]
    for image in range(3):
        large, small = crops_at(data, image)
        for crop in range(2):
            assert torch.equal(batch.global_crops[3 * crop + image], large[crop])
            assert torch.equal(batch.local_crops[3 * crop + image], small[crop])


def test_an_image_seen_again_is_cropped_anew():
    data = open_dataset("synthetic:n=1,size=32")
    assert not torch.equal(crops_at(data, 0)[0], crops_at(data, 1)[0])


# -- memory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_memory_is_used_again_and_never_while_a_batch_is_held(workers):
    data = open_dataset(DATA)
    want = batches(data, steps=24)
    running = start(data, steps=24, workers=workers)
    kept = []
    for number, batch in enumerate(running):
        assert torch.equal(batch.global_crops, want[number].global_crops)
        if number % 8 == 0:
            kept.append((number, batch.global_crops[1:2]))
        del batch
    assert running.slots.made <= 3 * workers + len(kept) + 2
    for number, view in kept:
        assert torch.equal(view, want[number].global_crops[1:2])


def test_a_batch_outlives_its_loader():
    running = start(open_dataset(DATA), workers=1)
    batch = next(running)
    copy = batch.local_crops.clone()
    running.close()
    del running
    gc.collect()
    assert torch.equal(batch.local_crops, copy)


class Deep(ImageDataset):
    """Six channels of floats; number 5 has fewer."""

    def __init__(self) -> None:
        super().__init__("deep images")

    def __len__(self) -> int:
        return 10

    def name(self, i: int) -> str:
        return f"{i}.deep"

    def read(self, i: int) -> bytes:
        raise NotImplementedError

    def picture(self, i: int) -> Picture:
        rng = np.random.default_rng(i)
        return ArrayPicture(rng.random((40, 40, 4 if i == 5 else 6)), self.name(i), look=Look("native"))


@pytest.mark.parametrize("workers", [0, 2])
def test_more_channels_and_deeper_numbers_than_were_guessed(workers):
    found = batches(Deep(), steps=10, workers=workers)
    assert {batch.global_crops.dtype for batch in found} == {torch.float32}
    assert {batch.local_crops.shape for batch in found} == {(6, 6, 16, 16)}
    faults = [fault for batch in found for fault in batch.faults]
    assert {fault.name for fault in faults} == {"5.deep"}
    assert "4 channels of float32 in a batch of 6 channels" in faults[0].reason
    assert_equal(found, batches(Deep(), steps=10))


def test_nothing_is_left_in_shared_memory_and_no_process():
    folder = Path("/dev/shm")
    if not folder.is_dir():
        pytest.skip("this system shows its shared memory nowhere")
    before = set(folder.iterdir())
    running = start(open_dataset(DATA), steps=50, workers=2)
    next(running)
    pids = [worker.process.pid for worker in running._workers]
    assert set(folder.iterdir()) == before
    running.close()
    assert set(folder.iterdir()) == before
    assert not any(alive(pid) for pid in pids)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_on_the_device_they_are_the_same_and_in_order():
    data = open_dataset(DATA)
    moved = OnDevice(start(data, steps=6, workers=2), torch.device("cpu"))
    assert_equal(list(moved), batches(data, steps=6))


# -- faults ---------------------------------------------------------------------------------------


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
    before = torch.cat([batch.global_crops.view(2, 3, -1) for batch in batches(damaged, steps=2)], dim=1)
    for name in ("2.png", "4.png"):
        Image.new("RGB", (40, 40), (0, 255, 0)).save(tmp_path / name)
    after = torch.cat([batch.global_crops.view(2, 3, -1) for batch in batches(damaged, steps=2)], dim=1)
    assert {i for i in range(6) if not torch.equal(before[:, i], after[:, i])} == bad


class Numbered(ImageDataset):
    """Ten images, of which some go wrong in some way."""

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


# -- workers that die or hang ---------------------------------------------------------------------


class Grey(Numbered):
    """They are sound, and differ."""

    def read(self, i: int) -> bytes:
        raise NotImplementedError

    def picture(self, i: int) -> Picture:
        return ArrayPicture(np.full((40, 40), 20 * i, dtype=np.uint8), self.name(i))


class Deadly(Grey):
    """Reading number 3 ends the process, as a bug in a decoder does; `every`: each of them."""

    every = False

    def picture(self, i: int) -> Picture:
        if i == 3 or self.every:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().picture(i)


class Hanging(Grey):
    """Number 3 never comes."""

    def picture(self, i: int) -> Picture:
        if i == 3:
            time.sleep(1000)
        return super().picture(i)


class Refusing(Grey):
    """Number 3 is a fault at once: what the other two should come to."""

    def picture(self, i: int) -> Picture:
        if i == 3:
            raise ImageError(self.name(i), "no")
        return super().picture(i)


def without_reasons(found: list[Batch]) -> list[list[str]]:
    return [[fault.name for fault in batch.faults] for batch in found]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_image_that_hangs_is_a_fault(workers, caplog):
    found = batches(Hanging(), steps=6, workers=workers, seconds=0.4)
    want = batches(Refusing(), steps=6)
    assert all(torch.equal(a.global_crops, b.global_crops) for a, b in zip(found, want, strict=True))
    assert without_reasons(found) == without_reasons(want)
    reasons = {fault.reason for batch in found for fault in batch.faults}
    assert reasons == {"not read within data.limits.max_seconds=0.4"}
    assert "3.png: not read within" in caplog.text


def test_an_image_that_kills_is_tried_twice_and_then_a_fault(caplog):
    found = batches(Deadly(), steps=6, workers=2)
    want = batches(Refusing(), steps=6)
    assert all(torch.equal(a.global_crops, b.global_crops) for a, b in zip(found, want, strict=True))
    assert without_reasons(found) == without_reasons(want)
    assert {f.reason for b in found for f in b.faults} == {
        "reading it ended 2 processes, the last one of SIGKILL"
    }
    assert "died of SIGKILL reading 3.png; it is replaced (1 of at most" in caplog.text


def test_workers_that_are_killed_are_replaced_and_nothing_changes(caplog):
    data = open_dataset(DATA)
    want = batches(data, steps=16)
    running = start(data, steps=16, workers=2)
    found = []
    for number, batch in enumerate(running):
        found.append(batch)
        if number % 4 == 0:
            os.kill(running._workers[number % 2].process.pid, signal.SIGKILL)
    assert_equal(found, want)
    assert caplog.text.count("died of SIGKILL") >= 3


def test_too_many_dead_workers_are_one_clear_error():
    data = Deadly()
    data.every = True
    with pytest.raises(LoaderError, match=r"a process that reads images died.*lower data\.workers") as error:
        batches(data, workers=1)
    assert f"and {MAX_DEATHS} before it: worker 0 (process" in str(error.value)


def test_a_worker_ends_soon_after_its_parent(tmp_path):
    """Even where it hangs in an image and the parent had no time to say anything."""
    told = tmp_path / "pids"
    parent = os.fork()
    if parent == 0:
        running = start(Hanging(), steps=10, workers=2)
        told.write_text(" ".join(str(worker.process.pid) for worker in running._workers))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(parent, 0)
    pids = [int(word) for word in told.read_text().split()]
    deadline = time.monotonic() + 10
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(alive(pid) for pid in pids)


def test_slow_but_healthy_work_is_left_alone():
    """A download that moves on gives signs of life."""

    class Slow(Grey):
        def picture(self, i: int) -> Picture:
            from nexus.data.alive import sign_of_life

            if i == 3:
                for _ in range(12):
                    time.sleep(0.1)
                    sign_of_life()
            return super().picture(i)

    assert without_reasons(batches(Slow(), steps=4, workers=1, seconds=0.5)) == [[]] * 4


class Broken(Numbered):
    """A bug, which is no reason to speak of dead processes."""

    def read(self, i: int) -> bytes:
        raise RuntimeError("a bug")


@pytest.mark.parametrize("workers", [0, 1])
def test_bugs_keep_their_traceback(workers):
    with pytest.raises(RuntimeError, match="a bug") as error:
        batches(Broken(), workers=workers)
    if workers:
        assert "in read" in str(error.value.__cause__)


def test_the_pool_closes_with_its_block():
    sampler = StepSampler(start_step=0, steps=9, micro_batch=3)
    with WorkerPool(maker(Grey()), sampler, workers=1, max_seconds=9) as pool:
        pid = pool._workers[0].process.pid
        assert next(pool).images == 3
    assert not alive(pid)
