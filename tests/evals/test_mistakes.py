"""Confusion against scikit-learn, the surest mistakes by hand, and what is drawn of them."""

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import confusion_matrix

from nexus.drawing.charts import bar_chart, matrix_chart
from nexus.drawing.text import fitted, font_of
from nexus.evals import KNNConfig, LinearConfig, evaluate
from nexus.evals.class_pictures import Neighbor, draw_classes, mistake_sheet
from nexus.evals.context import EvalContext
from nexus.evals.knn import run as run_knn
from nexus.evals.mistakes import Guesses, by_logits, by_votes
from nexus.features import View
from tests.evals.stubs import TinyBackbone

SPEC = "synthetic:n=60,size=32,classes=4"


def drawn(count, classes):
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(count, classes, generator=generator)
    truth = torch.randint(classes, (count,), generator=generator)
    return tuple(f"{i}.png" for i in range(count)), scores, truth


def square(row=0):
    """A colour that no other row has."""
    return Image.new("RGB", (30, 40), (10 * row, 100, 50))


def test_the_confusion_is_that_of_scikit_learn():
    names, scores, truth = drawn(300, 7)
    guesses = by_logits(names, scores, truth)
    expected = confusion_matrix(truth, scores.argmax(1), labels=range(7))
    assert np.array_equal(guesses.counts(7).numpy(), expected)
    told = guesses.told([f"class {i}" for i in range(7)])["confusion"]
    assert told["counts"] == expected.tolist()
    assert told["classes"][6] == "class 6"


def test_pairs_are_the_largest_cells_beside_the_diagonal():
    names, scores, truth = drawn(2000, 30)
    guesses = by_logits(names, scores, truth)
    cells = confusion_matrix(truth, scores.argmax(1), labels=range(30))
    np.fill_diagonal(cells, 0)
    pairs = guesses.pairs(10)
    assert [count for _, _, count, _ in pairs] == np.sort(cells.flatten())[::-1][:10].tolist()
    assert all(cells[a, b] == count for a, b, count, _ in pairs)
    assert all(images == int((truth == a).sum()) for a, _, _, images in pairs)
    told = guesses.told([str(i) for i in range(30)])
    assert "confusion" not in told
    assert len(told["confused"]) == 20


def test_the_surest_mistakes_come_first_and_an_image_once():
    logits = torch.tensor([[9.0, 0.0], [0.0, 3.0], [5.0, 0.0], [0.0, 1.0], [7.0, 0.0]])
    guesses = by_logits(("right", "b", "a", "c", "a"), logits, torch.tensor([0, 0, 1, 0, 1]))
    assert guesses.worst() == [4, 1, 3]
    assert guesses.worst(1) == [4]
    first = guesses.told(["zero", "one"])["mistakes"][0]
    sure = round(1 / (1 + np.exp(-7)), 4)
    assert first == {"name": "a", "truth": "one", "guess": "zero", "confidence": sure}


def test_votes_are_shares_and_closed_classes_have_none():
    votes = torch.tensor([[0.2, 0.1, 0.1], [-torch.inf, 0.3, 0.1]])
    guesses = by_votes(("a", "b"), votes, torch.tensor([0, 2]))
    assert guesses.guess.tolist() == [0, 1]
    torch.testing.assert_close(guesses.confidence, torch.tensor([0.5, 0.75]))


def test_what_is_not_finite_is_no_guess():
    wild = torch.tensor([[torch.nan, torch.inf], [torch.nan, 1.0], [0.0, torch.inf]])
    guesses = by_logits(("a", "b", "c"), wild, torch.tensor([0, 0, 1]))
    assert guesses.guess.tolist() == [-1, 1, 0]
    assert guesses.wrong.tolist() == [1, 2]
    assert int(guesses.counts(2).sum()) == 2
    assert torch.isfinite(guesses.confidence).all()


def test_tiles_are_those_of_the_mistakes_in_order_beside_their_neighbours():
    truth, guess = torch.zeros(9, dtype=torch.long), torch.ones(9, dtype=torch.long)
    sure = torch.tensor([0.3, 0.9, 0.1, 0.8, 0.2, 0.7, 0.4, 0.6, 0.5])
    guesses = Guesses(tuple(map(str, range(9))), truth, guess, sure)
    worst = guesses.worst()

    def neighbor(row):
        return Neighbor(row + 10, row % 2, square)

    pixels = np.asarray(mistake_sheet(guesses, worst, ("a", "b"), square, neighbor))
    lefts = {}
    for row in range(9):
        own, near = (
            np.argwhere((pixels[..., 0] == 10 * r) & (pixels[..., 1] == 100)) for r in (row, row + 10)
        )
        lefts[row] = tuple(own.min(0))
        assert near.min(0)[0] == own.min(0)[0], "beside each other"
        assert 0 < near.min(0)[1] - own.min(0)[1] < 260
        frame = pixels[near[:, 0].min() - 2, near[:, 1].min()]
        assert (frame[1] > frame[0]) == (row % 2 == 0), (
            "green where the class is that of the mistake, red else"
        )
    assert sorted(lefts, key=lefts.get) == worst == [1, 3, 5, 7, 8, 6, 0, 4, 2]


def test_many_classes_are_told_by_pairs():
    called = [f"class {i}" for i in range(25)]
    pictures = list(draw_classes(by_logits(*drawn(400, 25)), called, lambda row: square()))
    assert [picture.title for picture in pictures] == ["Most confused", "Worst mistakes"]
    assert "25 classes" in pictures[0].caption


def test_nobody_is_blamed_who_is_right():
    guesses = by_logits(("a", "b", "c"), torch.eye(3), torch.arange(3))
    assert [picture.title for picture in draw_classes(guesses, "abc", square)] == ["Confusion"]


def test_a_full_cell_is_darker_than_half_a_one():
    pixels = np.asarray(matrix_chart([[5, 0], [5, 5]], ["a", "b"]).convert("L"))
    dark = (pixels < 140).sum(axis=1)
    assert dark[: len(dark) // 2].max() > 2 * dark[len(dark) // 2 + 20 :].max()
    assert matrix_chart([[0] * 20] * 20, ["x" * 80] * 20).width < 1500


def test_names_that_are_too_long_end_in_an_ellipsis():
    font, name = font_of(14), "a very long name of a class"
    cut = fitted(name, 80, font)
    assert cut.endswith("…")
    assert font.getlength(cut) <= 80 < font.getlength(name)
    assert fitted("short", 80, font) == "short"
    assert bar_chart({"x" * 300: 0.5}, "t").width < 1200


SETTINGS = {
    "knn": {"knn": KNNConfig(k=(3,))},
    "linear": {"linear": LinearConfig(learning_rates=(0.1,), min_steps=5, max_steps=5)},
    "logreg": {"overrides": ["logreg.c=[1.0]"]},
    "attentive": {"overrides": ["attentive.min_steps=5", "attentive.max_steps=5"]},
}


@pytest.mark.parametrize("task", SETTINGS)
def test_every_classification_shows_them(task, tmp_path):
    found = evaluate(
        SPEC,
        TinyBackbone(),
        task,
        size=32,
        device="cpu",
        baseline=False,
        out=tmp_path,
        html=True,
        **SETTINGS[task],
    )
    counts = found[task]["confusion"]["counts"]
    right = sum(row[i] for i, row in enumerate(counts))
    assert sum(map(sum, counts)) == found[task]["samples"]
    assert right / found[task]["samples"] == pytest.approx(found[task]["top1"])
    assert len(found[task]["mistakes"]) == min(12, found[task]["samples"] - right)
    page = (tmp_path / "eval.html").read_text()
    assert "Confusion" in page
    assert ("Worst mistakes" in page) == bool(found[task]["mistakes"])


def test_of_few_shot_draws_the_first_is_shown():
    context = EvalContext(backbone=TinyBackbone().eval(), data=SPEC, view=View(size=32))
    first, both = (run_knn(context, KNNConfig(k=(3,), n_per_class=2, tries=tries)) for tries in (1, 2))
    assert both.details["confusion"] == first.details["confusion"]
    assert [picture.title for picture in both.pictures()] == ["Confusion", "Worst mistakes"]
