"""What every source keeps to, whatever it is made of."""

import multiprocessing
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from nexus.data.datasets import ImageDataset, available_splits, open_dataset
from nexus.data.images import ImageLimits, decode_image
from nexus.errors import DataError, ImageError
from tests.data.making import CLASSES, LABELS, LEVELS, SOURCES, UNLABELLED

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("NEXUS_CACHE", str(folder))
    return folder


@pytest.fixture(params=sorted(SOURCES))
def kind(request) -> str:
    return request.param


@pytest.fixture
def spec(kind, tmp_path) -> str:
    return SOURCES[kind](tmp_path)


def levels(data: ImageDataset) -> list[int]:
    """The grey levels in the middle of the pictures; JPEG inside videos may be off by a little."""
    found = [int(data[i].image.getpixel((12, 8))[0]) for i in range(len(data))]
    near = [min(LEVELS, key=lambda level: abs(level - value)) for value in found]
    assert max(abs(a - b) for a, b in zip(found, near, strict=True)) <= 4
    return near


def by_level(data: ImageDataset) -> list[int]:
    """The positions of the six pictures, whatever the order of the source."""
    return [levels(data).index(level) for level in LEVELS]


def test_every_picture_is_there_once(kind, spec):
    data = open_dataset(spec)
    assert len(data) == 6
    assert sorted(levels(data)) == LEVELS
    assert len({data.name(i) for i in range(6)}) == 6
    for i in range(6):
        sample = data[i]
        assert (sample.index, sample.name, sample.label) == (i, data.name(i), data.label(i))
        assert (sample.image.size, sample.image.mode) == ((24, 16), "RGB")
    assert data[-1].index == 5
    with pytest.raises(IndexError):
        data[6]
    assert "6 images" in data.description or "3 images" in data.description
    assert data.faults == ()


def test_labels_go_with_their_pictures(kind, spec):
    data = open_dataset(spec)
    if kind in UNLABELLED:
        assert data.labels is None
        return
    assert data.labels.dtype == np.int64
    assert data.labels.min() >= 0
    assert data.labels.max() < len(data.classes)
    assert [data.label(i) for i in by_level(data)] == LABELS
    assert data.classes in (CLASSES, ("0", "1", "2"))


def test_read_picture_and_header_agree_with_the_image(kind, spec):
    data = open_dataset(spec)
    for i in (4, 0, 5):
        image = np.asarray(data[i].image)
        assert np.array_equal(np.asarray(decode_image(data.read(i), "x")), image)
        picture = data.picture(i)
        assert picture.name == data.name(i)
        assert picture.size == (24, 16)
        assert np.array_equal(np.broadcast_to(picture.pixels(), (16, 24, 3)), image)
        assert data.header(i)[:2] == (24, 16)


def test_pickled_before_and_after_the_first_read(kind, spec):
    data = open_dataset(spec)
    early = pickle.dumps(data)
    seen = levels(data)
    assert levels(pickle.loads(early)) == seen
    assert levels(pickle.loads(pickle.dumps(data))) == seen
    assert len(pickle.dumps(data)) < 20_000, "open files, mapped memory or arrays must not travel"


def _levels(data: ImageDataset, out) -> None:
    out.put(levels(data))


def test_read_in_a_fork_after_reading_here(kind, spec):
    data = open_dataset(spec)
    seen = levels(data)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_levels, args=(data, queue))
    child.start()
    assert queue.get(timeout=30) == seen
    child.join(30)
    assert child.exitcode == 0
    assert levels(data) == seen


def test_read_in_threads(kind, spec):
    from concurrent.futures import ThreadPoolExecutor

    data = open_dataset(spec)
    seen = levels(data)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: levels(data.subset([i]))[0], [*range(6)] * 8))
    assert found == seen * 8


def test_limits_reach_every_source(spec):
    data = open_dataset(spec, limits=ImageLimits(min_side=17))
    with pytest.raises(ImageError, match="min_side=17") as caught:
        data[2]
    assert caught.value.name == data.name(2)
    with pytest.raises(ImageError, match="min_side=17"):
        data.picture(2).size  # noqa: B018


def test_what_vanished_is_an_image_error_with_its_name(kind, spec, tmp_path):
    data = open_dataset(spec)
    if kind in ("remote_tars", "lmdb"):
        pytest.skip("its bytes are in the cache, or in an open file; their other faults are tested elsewhere")
    shutil.rmtree(tmp_path)
    fresh = pickle.loads(pickle.dumps(data))
    with pytest.raises(ImageError) as caught:
        fresh[1]
    assert caught.value.name == data.name(1)
    assert "no such file" in caught.value.reason or "does not exist" in caught.value.reason


def test_a_missing_source_is_one_message(kind, spec, tmp_path):
    shutil.rmtree(tmp_path)
    with pytest.raises(DataError) as caught:
        open_dataset(spec)
    text = str(caught.value)
    assert str(tmp_path) in text
    assert any(word in text for word in ("does not exist", "has no", "nothing matches", "no such file"))


def test_there_are_no_splits_unless_the_source_has_some(spec):
    assert available_splits(spec) == ()
    with pytest.raises(DataError, match="has no splits"):
        open_dataset(spec, "train")


def _order(data: ImageDataset, count: int) -> Iterator[int]:
    order = data.order(3)
    return (order[p] for p in range(count))


def test_the_order_is_a_function_of_seed_and_position(kind, spec):
    data = open_dataset(spec)
    stream = list(_order(data, 60))
    assert [data.order(3)[p] for p in (59, 0, 31)] == [stream[59], stream[0], stream[31]]
    assert [pickle.loads(pickle.dumps(data.order(3)))[p] for p in range(60)] == stream
    if kind != "mixture":
        assert all(sorted(stream[k : k + 6]) == list(range(6)) for k in range(0, 60, 6))
