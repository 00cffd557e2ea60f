"""Patch-PCA, curves, neighbours and small pictures."""

import base64
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.decomposition import PCA

from nexus.drawing.images import colors_to_image, data_uri, figure_uri, square, thumbnail, to_image
from nexus.drawing.tiles import PAPER, RIGHT, WRONG
from nexus.errors import ConfigError, RunError
from nexus.viz import (
    Neighbors,
    PcaBasis,
    Tile,
    curves_figure,
    fit_basis,
    nearest,
    neighbor_grid,
    patch_pca,
    read_metrics,
)
from nexus.viz.curves import LOSS_PANELS, RUN_PANELS, panel_figure, present

ROWS, COLS, DIM = 6, 8, 16


def planted(batch: int = 3, noise: float = 0.05) -> tuple[torch.Tensor, torch.Tensor]:
    """Features with one direction in the middle of the image and another one around it."""
    inside = torch.zeros(ROWS, COLS, dtype=torch.bool)
    inside[2:5, 2:6] = True
    thing, ground = torch.randn(2, DIM)
    table = torch.where(inside.flatten()[:, None], thing, ground)
    return table + noise * torch.randn(batch, ROWS * COLS, DIM), inside


def test_pca_separates_a_planted_region_with_the_middle_bright() -> None:
    features, inside = planted()
    colors = patch_pca(features, ROWS, COLS)
    assert colors.shape == (3, ROWS, COLS, 3)
    assert colors.min() >= 0
    assert colors.max() <= 1
    red = colors[..., 0]
    assert red[:, inside].min() > 0.8
    assert red[:, ~inside].max() < 0.2


def test_pca_axes_agree_with_scikit_learn() -> None:
    features = torch.randn(2, ROWS * COLS, DIM) * torch.linspace(3, 0.1, DIM)
    basis = fit_basis(features, ROWS, COLS)
    reference = PCA(3).fit(features.flatten(0, 1).double().numpy())
    cosines = np.abs((basis.axes.numpy() * reference.components_).sum(axis=1))
    np.testing.assert_allclose(cosines, 1, atol=1e-9)
    np.testing.assert_allclose(basis.mean.numpy(), reference.mean_, atol=1e-9)


def test_pca_colours_do_not_turn_with_the_features() -> None:
    """An eigenvector's sign is arbitrary; a picture's colours must not be."""
    features, _ = planted(noise=0.3)
    once = patch_pca(features, ROWS, COLS)
    torch.testing.assert_close(patch_pca(features.clone(), ROWS, COLS), once, rtol=0, atol=0)
    torch.testing.assert_close(patch_pca(-features, ROWS, COLS), once, rtol=0, atol=1e-5)
    turn = torch.linalg.qr(torch.randn(DIM, DIM)).Q
    torch.testing.assert_close(patch_pca(features @ turn, ROWS, COLS), once, rtol=0, atol=1e-4)


def test_pca_sign_without_a_middle_makes_the_largest_coordinate_positive() -> None:
    axes = fit_basis(torch.randn(4, 2, DIM), 1, 2).axes
    assert (axes.gather(1, axes.abs().argmax(dim=1, keepdim=True)) > 0).all()


@pytest.mark.parametrize("size", [30.0, 3000.0])
def test_pca_is_robust_to_rare_tokens_of_high_norm(size: float) -> None:
    features, inside = planted()
    clean = fit_basis(features, ROWS, COLS).axes[0].float()
    far = torch.randn(DIM)
    far -= far @ clean * clean
    features[0, 1] += size * far
    features[2, 9] -= size * far
    assert fit_basis(features, ROWS, COLS).axes[0].float() @ clean > 0.99
    red = patch_pca(features, ROWS, COLS)[1, ..., 0]
    assert red[inside].min() > 0.8
    assert red[~inside].max() < 0.2


def test_pca_keeps_a_far_region_that_is_not_rare() -> None:
    features, inside = planted(noise=0.01)
    features = features * torch.where(inside.flatten()[:, None], 20.0, 1.0)
    red = patch_pca(features, ROWS, COLS)[..., 0]
    assert red[:, inside].min() - red[:, ~inside].max() > 0.6


def test_a_saved_basis_gives_the_same_colours(tmp_path) -> None:
    features, _ = planted()
    basis = fit_basis(features, ROWS, COLS)
    basis.save(tmp_path / "basis.npz")
    alone = patch_pca(features[1:2], ROWS, COLS, PcaBasis.load(tmp_path / "basis.npz"))
    torch.testing.assert_close(alone, patch_pca(features, ROWS, COLS)[1:2], rtol=0, atol=0)


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_pca_of_features_without_spread_is_grey(dim: int) -> None:
    colors = patch_pca(torch.full((2, 12, dim), 3.7), 3, 4)
    torch.testing.assert_close(colors, torch.full((2, 3, 4, 3), 0.5))


def test_pca_names_the_mistake() -> None:
    with pytest.raises(ConfigError, match=r"17 patch tokens do not fill 4 x 4.*without CLS"):
        patch_pca(torch.randn(1, 17, DIM), 4, 4)
    with pytest.raises(ConfigError, match="width 16, these have width 8"):
        patch_pca(torch.randn(1, 4, 8), 2, 2, fit_basis(torch.randn(1, 4, DIM), 2, 2))


def metrics_file(folder, steps: int = 120):
    lines = [
        {"step": step, "loss": 9 - step / 60, "loss/ibot": 4.0, "uniform/ibot": 4.2, "lr": 1e-3}
        for step in range(steps)
    ]
    path = folder / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_metrics_survive_a_truncated_line_a_repeat_and_values_that_are_not_finite(tmp_path) -> None:
    path = metrics_file(tmp_path, steps=3)
    with path.open("a") as stream:
        stream.write('{"step": 1, "loss": 7.0}\n{"step": 3, "loss": NaN}\n{"step": 4, "lo')
    records = read_metrics(tmp_path)
    assert [record["step"] for record in records] == [0, 1, 2, 3]
    assert records[1] == {"step": 1, "loss": 7.0}
    steps = panel_figure(records, LOSS_PANELS[0]).axes[0].lines[0].get_xdata()
    assert list(steps) == [0, 1, 2]


def test_metrics_that_are_missing_are_named(tmp_path) -> None:
    with pytest.raises(RunError, match=r"metrics\.jsonl does not exist"):
        read_metrics(tmp_path)


def test_curves_draw_what_is_there_beside_its_reference(tmp_path) -> None:
    records = read_metrics(metrics_file(tmp_path))
    assert [panel.key for panel in present(records, LOSS_PANELS)] == ["loss", "loss/ibot"]
    assert [panel.key for panel in present(records, RUN_PANELS)] == ["lr"]
    loss, ibot, rate = curves_figure(records).axes
    np.testing.assert_allclose(ibot.lines[-1].get_ydata(), 4.2)
    np.testing.assert_allclose(rate.lines[-1].get_ydata(), 1e-3)
    assert len(rate.lines) == 1, "a schedule is drawn as it is"
    # The trend of a straight line is that line, up to its ends.
    np.testing.assert_allclose(loss.lines[-1].get_ydata(), loss.lines[0].get_ydata(), atol=1e-9)


@pytest.mark.parametrize("records", [[], [{"step": 0}], [{"step": 0, "loss": 1.0}]])
def test_curves_of_hardly_anything(records) -> None:
    assert figure_uri(curves_figure(records)).startswith("data:image/svg+xml;base64,")


def test_figures_are_reproducible_and_free_of_global_state(tmp_path) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    records = read_metrics(metrics_file(tmp_path))
    first, second = (figure_uri(panel_figure(records, LOSS_PANELS[0])) for _ in range(2))
    assert first == second
    assert dict(matplotlib.rcParams) == before


def test_nearest_by_a_naive_loop() -> None:
    bank = torch.randn(20, DIM)
    queries = bank[[3, 7]] * 5 + 0.1 * torch.randn(2, DIM)
    index, values = nearest(queries, bank, 4)
    for query, found, similar in zip(queries, index.tolist(), values.tolist(), strict=True):
        cosines = [float(torch.cosine_similarity(query, row, dim=0)) for row in bank]
        order = sorted(range(20), key=lambda row: -cosines[row])[:4]
        assert found == order
        np.testing.assert_allclose(similar, [cosines[row] for row in order], atol=1e-6)


def test_nearest_leaves_out_the_image_itself() -> None:
    bank = torch.randn(5, DIM)
    index, _ = nearest(bank, bank, 4, own=torch.arange(5))
    for row, found in enumerate(index.tolist()):
        assert sorted([row, *found]) == [0, 1, 2, 3, 4]
    with pytest.raises(ConfigError, match="5 neighbours asked of 4 images"):
        nearest(bank, bank, 5, own=torch.arange(5))


def test_neighbor_grid_frames_right_green_and_wrong_red() -> None:
    blue = Image.new("RGB", (40, 60), (0, 0, 255))
    row = Neighbors(Tile(blue, "hat"), [Tile(blue, "shoe")], [Tile(blue, "hat"), Tile(blue, "shoe")])
    grid = neighbor_grid([row, row])
    colors = {color: count for count, color in grid.getcolors(maxcolors=1 << 16)}
    assert colors[WRONG] == 2 * colors[RIGHT]
    assert grid.getpixel((grid.width - 1, grid.height - 1)) == PAPER
    assert neighbor_grid([]).size > (0, 0)


def test_small_pictures() -> None:
    pixels = torch.zeros(3, 2, 4)
    pixels[0] = 2.0
    assert to_image(pixels).getpixel((3, 1)) == (255, 0, 0)
    assert to_image(torch.full((1, 2, 2), 7, dtype=torch.uint8)).getpixel((0, 0)) == (7, 7, 7)
    colors = torch.tensor([[[1.0, 0, 0], [0, 1.0, 0]]])
    assert colors_to_image(colors, 3).getpixel((3, 2)) == (0, 255, 0)
    tall = Image.new("RGB", (30, 90))
    assert square(tall, 20).size == (20, 20)
    assert thumbnail(tall, 45).size == (15, 45)
    for kind in ("JPEG", "PNG", "WEBP"):
        content = base64.b64decode(data_uri(tall, kind).split(",")[1])
        assert Image.open(io.BytesIO(content)).format == kind
