"""The page that the demo leaves."""

import base64
import io
import math
import re
from collections import Counter
from html.parser import HTMLParser

import pytest
from PIL import Image

from nexus.demo.report import (
    PcaExample,
    ReportContent,
    Score,
    ScoreRow,
    Sheet,
    is_clear,
    render,
    verdict,
    write_report,
)
from nexus.viz import Neighbors, Tile

VOID = {"meta", "img", "source", "br", "hr", "link"}


class Page(HTMLParser):
    """Checks that tags nest, and gathers addresses, tags and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.addresses: list[str] = []
        self.images_without_alt = 0
        self.words = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs) -> None:
        self.tags[tag] += 1
        given = dict(attrs)
        self.addresses += [given[name] for name in ("src", "srcset", "href") if name in given]
        self.images_without_alt += tag == "img" and not given.get("alt")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        self.words += data


def row(name: str, knn: float, linear: float | None = None, total: int = 185) -> ScoreRow:
    return ScoreRow(name, Score(knn, total), None if linear is None else Score(linear, total))


def content(**changes) -> ReportContent:
    photo = Image.effect_noise((96, 128), 60).convert("RGB")
    tile = Tile(photo, "a<b>.jpg & co")
    records = [{"step": step, "loss": 8.0 - step, "lr": 1e-3, "uniform/ibot": 4} for step in range(4)]
    values = {
        "title": "demo <script>alert(1)</script>",
        "lead": "2,448 tiles",
        "rows": [
            row("raw pixels", 0.351, 0.297),
            row("untrained backbone", 0.270, 0.330),
            row("student", 0.443),
            row("teacher", 0.481, 0.530),
        ],
        "classes": 10,
        "facts": {"Steps": "2,000"},
        "metrics": records,
        "sheets": [Sheet(photo, 'evil"><img src=x>.jpg')],
        "pca": [PcaExample(photo, photo, photo)],
        "neighbors": [Neighbors(tile, [tile, Tile(photo, "other")], [tile])],
        "settings": {"data": "C:\\<photos>"},
        "commands": [("Go on", "nexus train < x")],
    }
    return ReportContent(**(values | changes))


def test_report_is_one_self_contained_page_that_escapes_names(tmp_path) -> None:
    path = write_report(tmp_path / "deep/report.html", content())
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.addresses
    assert all(address.startswith("data:image/") for address in page.addresses)
    assert "http://" not in text
    assert "https://" not in text
    assert not re.search(r"url\(|@import", text)
    assert page.tags["script"] == 0
    assert page.tags["section"] == 7
    assert page.images_without_alt == 0
    for written in ("<script>alert(1)</script>", "a<b>.jpg & co", "C:\\<photos>", 'evil"><img src=x>'):
        assert written in page.words
    assert path.stat().st_size < 3_000_000


def test_report_leaves_out_what_there_is_nothing_to_show_of() -> None:
    bare = ReportContent(title="t", lead="l", rows=[row("teacher", 0.5)], classes=10)
    page = Page(render(bare))
    assert page.tags["section"] == 1
    assert page.tags["img"] == 0
    assert "The teacher’s k-NN is 50.0\u202f%." in page.words


def test_report_is_reproducible() -> None:
    fixed = content()
    assert render(fixed) == render(fixed)


def test_whole_photos_keep_their_shape_and_patches_their_pixels() -> None:
    photo, patches = Image.new("RGB", (1152, 896)), Image.new("RGB", (108, 84))
    text = render(content(pca=[PcaExample(photo, patches, patches, "abbey")], sheets=(), neighbors=()))
    section = text.split('<div class="photos">')[1]
    photos = [
        Image.open(io.BytesIO(base64.b64decode(part)))
        for part in re.findall(r"data:image/[a-z]+;base64,([^\"]+)", section)[:3]
    ]
    assert [image.format for image in photos] == ["JPEG", "PNG", "PNG"]
    assert photos[0].width / photos[0].height == pytest.approx(1152 / 896, rel=0.01)
    assert photos[1].size == photos[2].size == (108, 84)
    assert ">abbey</figcaption>" in section


def test_neighbours_are_marked_and_counted() -> None:
    text = render(content())
    assert text.count('<li class="right">') == 2
    assert text.count('<li class="wrong">') == 1
    assert "1 of 2 right" in text
    assert "1 of 1 right" in text


@pytest.mark.parametrize(
    ("raw", "untrained", "teacher", "sentence"),
    [
        (0.351, 0.270, 0.481, "21 points above the untrained backbone and 13 points above raw pixels."),
        (
            0.450,
            0.270,
            0.481,
            "21 points above the untrained backbone and 3 points above raw pixels. "
            "The difference to raw pixels is within the noise of 185 images.",
        ),
        (
            0.481,
            0.470,
            0.481,
            "1 point above the untrained backbone and level with raw pixels. "
            "Both differences are within the noise of 185 images.",
        ),
        (
            0.351,
            0.470,
            0.481,
            "1 point above the untrained backbone and 13 points above raw pixels. "
            "The difference to the untrained backbone is within the noise of 185 images.",
        ),
        (0.481, 0.470, 0.250, "22 points below the untrained backbone and 23 points below raw pixels."),
    ],
)
def test_verdict_admits_noise(raw: float, untrained: float, teacher: float, sentence: str) -> None:
    rows = [row("raw pixels", raw), row("untrained backbone", untrained), row("teacher", teacher)]
    said = verdict(content(rows=rows))
    assert said == f"The teacher’s k-NN is {100 * teacher:.1f}\u202f%: {sentence}"


@pytest.mark.parametrize(("right", "total"), [(0, 20), (20, 20), (89, 185), (3, 185)])
def test_interval_solves_the_score_equation(right: int, total: int) -> None:
    """Wilson's bounds are the p for which |right/total - p| is z standard errors *of p*."""
    share = right / total
    for bound in Score(share, total).interval:
        assert 0 <= bound <= 1
        error = 1.959964 * math.sqrt(bound * (1 - bound) / total)
        assert math.isclose(abs(share - bound), error, abs_tol=1e-6)


def test_is_clear_needs_images() -> None:
    assert is_clear(Score(0.48, 1850), Score(0.42, 1850))
    assert not is_clear(Score(0.48, 185), Score(0.42, 185))
    assert not is_clear(Score(1.0, 5), Score(1.0, 5))
