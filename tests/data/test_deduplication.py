"""Near-duplicates: against naive loops, on generated images, and on photos with known copies."""

import csv
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from nexus.data.batch import Sample
from nexus.data.deduplication import deduplicate_images
from nexus.data.hashing import content_hash, perceptual_hash
from nexus.data.neighbors import Components, pairs_above, unit_rows
from nexus.errors import ConfigError, DataError, ImageError

NEARDUP = Path(__file__).resolve().parents[2] / "../shared/data/neardup-a"
SOLVED = {"jpeg5", "jpeg15", "resize25", "blur", "noise", "gray", "bright", "contrast"}
"""Transforms that a perceptual hash is meant to see through."""


def photo(seed: int, side: int = 96) -> Image.Image:
    """A picture with structure at many scales."""
    rng = np.random.default_rng(seed)
    noise = Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8))
    return noise.resize((side, side), Image.Resampling.BICUBIC)


class Source:
    """A data set of samples; `None` stands for an image that cannot be read."""

    def __init__(self, images: list) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        return f"{index}.png"

    def __getitem__(self, index: int) -> Sample:
        if self.images[index] is None:
            raise ImageError(self.name(index), "truncated PNG")
        return Sample(self.images[index], self.name(index), index, label=index % 2)


# ---- search and groups -------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 7, 50, 64])
@pytest.mark.parametrize("threshold", [-0.2, 0.3, 0.9])
def test_pairs_are_those_of_the_full_matrix(chunk: int, threshold: float) -> None:
    rows = unit_rows(torch.randn(50, 5))
    full = rows @ rows.T
    expected = {(i, j) for i in range(50) for j in range(i + 1, 50) if float(full[i, j]) >= threshold}
    found = [pair for i, j in pairs_above(rows, threshold, chunk=chunk) for pair in zip(i, j, strict=True)]
    assert len(found) == len(set(found))
    assert set(found) == expected


def naive_groups(count: int, links: list[tuple[int, int]]) -> list[list[int]]:
    groups = [{i} for i in range(count)]
    for i, j in links:
        a = next(g for g in groups if i in g)
        b = next(g for g in groups if j in g)
        if a is not b:
            groups.remove(b)
            a |= b
    return sorted(sorted(group) for group in groups if len(group) > 1)


@pytest.mark.parametrize("limit", [0, 3, 1 << 22], ids=["fold-always", "fold-often", "fold-once"])
def test_groups_are_connected_components(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nexus.data.neighbors._MOST_EDGES", limit)
    rng = np.random.default_rng(0)
    for _ in range(20):
        links = rng.integers(0, 30, (14, 2))
        components = Components(30)
        for part in np.split(links, 7):
            components.link(part[:, 0], part[:, 1])
        pairs = [(int(i), int(j)) for i, j in links]
        assert [group.tolist() for group in components.groups()] == naive_groups(30, pairs)


# ---- hashes ------------------------------------------------------------------------------------------


def test_content_hash_tells_pixels_sizes_and_palettes_apart() -> None:
    image = photo(0)
    assert content_hash(image) == content_hash(image.copy())
    changed = image.copy()
    changed.putpixel((3, 4), (0, 0, 0))
    assert content_hash(image) != content_hash(changed)
    tall, wide = Image.new("L", (2, 8)), Image.new("L", (8, 2))
    assert content_hash(tall) != content_hash(wide)
    red, blue = (Image.new("P", (4, 4)) for _ in range(2))
    red.putpalette([255, 0, 0])
    blue.putpalette([0, 0, 255])
    assert content_hash(red) != content_hash(blue)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK", "1"])
def test_every_mode_can_be_hashed(mode: str) -> None:
    bits = perceptual_hash(photo(1).convert(mode))
    assert bits is not None
    assert bits.shape == (256,)
    assert bits.dtype == bool


# ---- deduplicate_images ------------------------------------------------------------------------------


def test_the_largest_of_a_group_is_kept_and_the_report_says_why() -> None:
    a, b = photo(0), photo(1)
    images = [a, b, a.resize((192, 192)), None, a.copy(), b.filter(ImageFilter.GaussianBlur(1))]
    view = deduplicate_images(Source(images), threshold=0.95)
    assert view.indices == [1, 2]
    assert [view[0].name, view.name(1)] == ["1.png", "2.png"]
    assert view[1].label == 0
    report = view.report
    assert [(group.kept, [c.index for c in group.copies]) for group in report.groups] == [
        (2, [0, 4]),
        (1, [5]),
    ]
    assert report.removed == (0, 4, 5)
    assert [(fault.name, fault.reason) for fault in report.unreadable] == [("3.png", "truncated PNG")]
    assert all(0.95 <= copy.similarity <= 1 for group in report.groups for copy in group.copies)
    assert report.sentence() == (
        "6 images: 3 copies of 2 pictures left out (0 with identical pixels), 1 unreadable, 2 kept"
    )


def test_similarity_is_the_share_of_equal_bits_and_the_threshold_is_inclusive() -> None:
    a = photo(0)
    b = a.rotate(3)
    bits = [perceptual_hash(image) for image in (a, b)]
    exact = 1 - float(np.mean(bits[0] != bits[1]))
    assert 0.5 < exact < 1
    view = deduplicate_images([a, b], threshold=exact)
    assert view.report.groups[0].copies[0].similarity == pytest.approx(exact)
    assert len(deduplicate_images([a, b], threshold=exact + 1 / 256)) == 2


def test_blank_images_are_copies_only_when_identical() -> None:
    blank = [Image.new("RGB", (64, 64), (value,) * 3) for value in (0, 128, 255, 128)]
    view = deduplicate_images(blank, threshold=0.5)
    assert view.indices == [0, 1, 2]
    assert view.report.groups[0].copies[0].identical


def test_chains_form_one_group() -> None:
    angles = torch.tensor([0.0, 0.3, 0.6, 2.0])
    rows = torch.stack([angles.cos(), angles.sin()], dim=1)
    images = [photo(i) for i in range(4)]
    view = deduplicate_images(images, threshold=0.9, embed=rows)
    assert view.indices == [0, 3]
    similarities = [copy.similarity for copy in view.report.groups[0].copies]
    assert similarities == pytest.approx([np.cos(0.3), np.cos(0.6)], abs=1e-6)
    assert similarities[1] < 0.9


def test_an_embedding_function_sees_batches_and_equals_its_table() -> None:
    images = [photo(i // 2).rotate(90 * (i % 2)) for i in range(150)]
    images[7] = None
    sizes = []

    def colours(pictures: list[Image.Image]) -> np.ndarray:
        sizes.append(len(pictures))
        return np.stack([_colours(picture) for picture in pictures])

    table = np.stack([np.zeros(6) if image is None else _colours(image) for image in images])
    view = deduplicate_images(Source(images), threshold=0.999999, embed=colours)
    assert sizes == [64, 64, 21]
    assert view.indices == deduplicate_images(Source(images), 0.999999, embed=table).indices
    assert [i for i in view.indices if i // 2 != 3] == [i for i in range(0, 150, 2) if i != 6]


def _colours(picture: Image.Image) -> np.ndarray:
    """Mean and deviation of every channel, centred: turning a picture changes nothing."""
    pixels = np.asarray(picture, dtype=np.float64)
    return np.concatenate([pixels.mean((0, 1)) - 128, pixels.std((0, 1)) - 50])


def test_torchvision_folders_give_their_items_back(tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    for label, seeds in (("cat", (0, 1)), ("dog", (0, 2))):
        (tmp_path / label).mkdir()
        for seed in seeds:
            photo(seed, 48).save(tmp_path / label / f"{seed}.png")
    (tmp_path / "dog" / "broken.png").write_bytes((tmp_path / "cat" / "0.png").read_bytes()[:900])
    folder = ImageFolder(str(tmp_path))
    view = deduplicate_images(folder, threshold=0.95)
    assert [(view[i][1], Path(view.name(i)).name) for i in range(len(view))] == [
        (0, "0.png"),
        (0, "1.png"),
        (1, "2.png"),
    ]
    assert view.report.groups[0].copies[0].identical
    assert Path(view.report.unreadable[0].name).name == "broken.png"


def test_threads_and_progress_change_nothing() -> None:
    images = [photo(i % 5) for i in range(20)]
    seen = []
    view = deduplicate_images(images, workers=2, progress=lambda done, count: seen.append((done, count)))
    assert view.indices == [0, 1, 2, 3, 4]
    assert seen == [(20, 20)]


def test_an_empty_data_set_stays_empty() -> None:
    assert len(deduplicate_images([])) == 0


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.01])
def test_impossible_thresholds_are_refused(threshold: float) -> None:
    with pytest.raises(ConfigError, match="threshold="):
        deduplicate_images([photo(0)], threshold)


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(DataError, match="a Tensor, not a PIL image"):
        deduplicate_images([torch.zeros(3, 8, 8)])
    with pytest.raises(DataError, match="none of the 2 images"):
        deduplicate_images(Source([None, None]))
    with pytest.raises(DataError, match=r"must be \(2, dim\)"):
        deduplicate_images([photo(0), photo(1)], embed=np.zeros((3, 4)))
    with pytest.raises(DataError, match="NaN"):
        deduplicate_images([photo(0)], embed=np.full((1, 4), np.nan))


# ---- photos with known copies ------------------------------------------------------------------------


def neardup() -> tuple[list[Image.Image], list[int], list[str]]:
    if not NEARDUP.exists():
        pytest.skip("needs shared/data/neardup-a beside the repository")
    with (NEARDUP / "manifest.csv").open() as file:
        rows = list(csv.DictReader(file))
    with tarfile.open(NEARDUP / "neardup-a-all.tar") as tar:
        images = [Image.open(io.BytesIO(tar.extractfile(row["file"]).read())).convert("RGB") for row in rows]
    return images, [int(row["group"]) for row in rows], [row["transform"] for row in rows]


def test_copies_of_photos_are_found_without_a_false_one() -> None:
    images, groups, transforms = neardup()
    for threshold, least in ((0.95, 0.85), (0.85, 1.0)):
        report = deduplicate_images(images, threshold).report
        for group in report.groups:
            truth = {groups[index] for index in (group.kept, *(copy.index for copy in group.copies))}
            assert len(truth) == 1, "two different photos in one group"
            assert truth != {-1}
        gone = set(report.removed) | {group.kept for group in report.groups}
        easy = [index for index, transform in enumerate(transforms) if transform in SOLVED]
        assert np.mean([index in gone for index in easy]) >= least
