"""The whole objective: against finite differences, against a naive step, and its rules."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nexus.data.batch import Batch, Masks
from nexus.data.masking import BlockMasker, MaskConfig
from nexus.models.ssl import DINOv2, ObjectiveConfig, passes
from nexus.models.vision import architecture

SMALL = {"out_dim": 24, "hidden_dim": 16, "bottleneck_dim": 8}


def model_of(*, dtype: torch.dtype = torch.float32, **objective: object) -> DINOv2:
    vit = architecture("vit_tiny_patch8", img_size=32, depth=2, embed_dim=16, num_heads=2, init_values=0.5)
    model = DINOv2.from_config(vit, ObjectiveConfig(**{**SMALL, **objective}), MaskConfig())
    with torch.no_grad():  # tokens and teacher that are not degenerate
        for parameter in model.student_backbone.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        for parameter in model.teacher_backbone.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.to(dtype).train()


def batch_of(images: int = 3, locals_: int = 2, dtype: torch.dtype = torch.float32) -> Batch:
    grid = BlockMasker(MaskConfig(), 4, 4).batch(2 * images, np.random.default_rng(0))
    return Batch(
        torch.randn(2 * images, 3, 32, 32, dtype=dtype),
        torch.randn(locals_ * images, 3, 16, 16, dtype=dtype),
        Masks.from_grid(grid),
        images,
    )


def naive_loss(model: DINOv2, batch: Batch, temp: float) -> Tensor:
    """The objective of the paper with loops over crops, images and patches."""
    images, student_temp = batch.images, model.objective.student_temp
    globals_ = batch.global_crops.split(images)
    locals_ = batch.local_crops.split(images) if batch.local_crops.shape[0] else ()
    grids = batch.masks.grid.split(images)
    teacher, patch_targets = [], []
    for crop in globals_:
        features = model.teacher_backbone.forward_features(crop)
        logits = model.teacher_head(features["x_norm_clstoken"])
        teacher.append(F.softmax((logits - model.center) / temp, dim=-1))
        logits = model.teacher_head(features["x_norm_patchtokens"])
        patch_targets.append(F.softmax(logits / temp, dim=-1))
    student, ibot, koleo = [], 0.0, 0.0
    for crop, grid, target in zip(globals_, grids, patch_targets, strict=True):
        features = model.student_backbone.forward_features(crop, masks=grid)
        student.append(model.student_head(features["x_norm_clstoken"]))
        logits = model.student_head(features["x_norm_patchtokens"])
        for image in range(images):
            hidden = grid[image].nonzero().flatten().tolist()
            for patch in hidden:
                log_q = F.log_softmax(logits[image, patch] / student_temp, dim=-1)
                ibot = ibot - (target[image, patch] * log_q).sum() / len(hidden) / (2 * images)
        cls = F.normalize(features["x_norm_clstoken"], dim=-1)
        for i in range(images):
            j = max(
                (k for k in range(images) if k != i), key=lambda k: float(cls[i].detach() @ cls[k].detach())
            )
            distance = F.pairwise_distance(cls[i : i + 1], cls[j : j + 1], eps=1e-8)
            koleo = koleo - torch.log(distance + 1e-8).sum() / images
    for crop in locals_:
        student.append(model.student_head(model.student_backbone(crop)[:, 0]))
    dino, pairs = 0.0, 0
    for t, probs in enumerate(teacher):
        for s, logits in enumerate(student):
            if s != t:
                log_q = F.log_softmax(logits / student_temp, dim=-1)
                dino, pairs = dino - (probs * log_q).sum(-1).mean(), pairs + 1
    return dino / pairs + ibot + 0.1 * koleo


@pytest.mark.parametrize("apart", [{"cpu"}, set()], ids=["apart", "together"])
@pytest.mark.parametrize("locals_", [0, 1, 3])
def test_equals_the_naive_objective(locals_: int, apart: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "APART", apart)
    model, batch = model_of(), batch_of(locals_=locals_)
    expected = naive_loss(model, batch, 0.05)
    loss, metrics = model(batch, teacher_temp=0.05)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    terms = sum(value for key, value in metrics.items() if key.startswith("loss/"))
    torch.testing.assert_close(terms, loss.detach())


@pytest.mark.parametrize("centering", ["centering", "sinkhorn_knopp"])
def test_gradient_equals_finite_differences(centering: str) -> None:
    """Directional derivative of the whole objective in float64, through every trainable parameter."""
    model = model_of(dtype=torch.float64, centering=centering)
    batch = batch_of(dtype=torch.float64)
    parameters = [p for p in model.parameters() if p.requires_grad]
    directions = [torch.randn_like(p) for p in parameters]
    state = copy.deepcopy(model.state_dict())

    def loss_at(step: float) -> Tensor:
        model.load_state_dict(state)
        with torch.no_grad():
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.add_(direction, alpha=step)
        return model(batch, teacher_temp=0.05)[0]

    loss_at(0.0).backward()
    slope = sum(float((p.grad * d).sum()) for p, d in zip(parameters, directions, strict=True))
    with torch.no_grad():
        numeric = float(loss_at(1e-8) - loss_at(-1e-8)) / 2e-8
    assert slope == pytest.approx(numeric, rel=3e-5)


def test_every_trainable_parameter_gets_a_gradient_and_no_teacher_parameter() -> None:
    model = model_of(separate_patch_head=True)
    model(batch_of(), teacher_temp=0.05)[0].backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == name.startswith("student_"), name
        if parameter.grad is not None:
            assert parameter.grad.abs().sum() > 0, name


def test_teacher_starts_as_the_student_and_follows_it() -> None:
    vit = architecture("vit_tiny_patch8", img_size=32, depth=2, embed_dim=16, num_heads=2)
    model = DINOv2.from_config(
        vit.model_copy(update={"drop_path_rate": 0.3}), ObjectiveConfig(**SMALL), MaskConfig()
    )
    pairs = [
        (model.student_backbone, model.teacher_backbone),
        (model.student_head, model.teacher_head),
    ]
    for student, teacher in pairs:
        for a, b in zip(student.parameters(), teacher.parameters(), strict=True):
            assert torch.equal(a, b)
    with torch.no_grad():
        for p in model.student_backbone.parameters():
            p.add_(1.0)
    before = model.teacher_backbone.cls_token.clone()
    model.update_teacher(0.9)
    torch.testing.assert_close(model.teacher_backbone.cls_token, before + 0.1, rtol=1e-5, atol=1e-6)
    model.train()
    assert not any(module.training for module in model.teacher_backbone.modules())
    assert not any(module.training for module in model.teacher_head.modules())
    assert model.student_backbone.training


def test_centre_moves_once_a_step_by_the_mean_over_micro_batches() -> None:
    whole, parts = model_of(), model_of()
    parts.load_state_dict(whole.state_dict())
    crops = [torch.randn(4, 3, 32, 32) for _ in range(2)]
    no_masks = Masks.from_grid(torch.zeros(8, 16, dtype=torch.bool))
    half_masks = Masks.from_grid(torch.zeros(4, 16, dtype=torch.bool))
    empty = torch.zeros(0, 3, 16, 16)
    whole.ask([Batch(torch.cat(crops), empty, no_masks, 4)], teacher_temp=0.05)
    halves = slice(0, 2), slice(2, 4)
    parts.ask(
        [Batch(torch.cat([crop[half] for crop in crops]), empty, half_masks, 2) for half in halves],
        teacher_temp=0.05,
    )
    assert whole.center.abs().sum() > 0
    torch.testing.assert_close(parts.center, whole.center)


def test_uniform_references_are_what_a_uniform_student_scores() -> None:
    model = model_of(koleo_weight=0.0)
    with torch.no_grad():
        for head in (model.student_head, model.teacher_head):
            head.last_layer.weight_g.zero_()
    loss, metrics = model(batch_of(), teacher_temp=0.05)
    for name in ("dino_global", "dino_local", "ibot"):
        torch.testing.assert_close(metrics[f"loss/{name}"], metrics[f"uniform/{name}"])
    assert float(metrics["teacher/entropy"]) == pytest.approx(math.log(24), rel=1e-5)
    uniform = sum(metrics[f"uniform/{name}"] for name in ("dino_global", "dino_local", "ibot"))
    torch.testing.assert_close(loss.detach(), uniform)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_finite_and_close(dtype: torch.dtype) -> None:
    model, batch = model_of(), batch_of()
    expected, _ = model(batch, teacher_temp=0.05)
    model.center.zero_()
    with torch.autocast("cpu", dtype=dtype):
        loss, metrics = model(batch, teacher_temp=0.05)
    assert all(torch.isfinite(value) for value in metrics.values())
    torch.testing.assert_close(loss, expected, rtol=0.05, atol=0.05)


def test_identical_images_in_half_precision_stay_finite() -> None:
    """Duplicates make KoLeo's distance 0; the official code gives inf in fp16 here."""
    model = model_of()
    crop = torch.randn(1, 3, 32, 32).expand(4, -1, -1, -1)
    masks = Masks.from_grid(torch.zeros(4, 16, dtype=torch.bool))
    batch = Batch(crop, torch.zeros(0, 3, 16, 16), masks, 2)
    with torch.autocast("cpu", dtype=torch.float16):
        loss, _ = model(batch, teacher_temp=0.05)
    assert torch.isfinite(loss)


def test_switching_terms_off() -> None:
    model = model_of(ibot_weight=0.0, koleo_weight=0.0)
    loss, metrics = model(batch_of(), teacher_temp=0.05)
    assert {key for key in metrics if key.startswith("loss/")} == {
        "loss/dino_global",
        "loss/dino_local",
    }
    loss.backward()
    assert model.student_backbone.mask_token.grad is None


# -- several micro-batches ----------------------------------------------------------------------------


def joined(first: Batch, second: Batch) -> Batch:
    """Two micro-batches as one batch."""

    def crops(a: Tensor, b: Tensor, count: int) -> Tensor:
        return torch.cat([part for pair in zip(a.chunk(count), b.chunk(count), strict=True) for part in pair])

    grid = crops(first.masks.grid, second.masks.grid, 2)
    return Batch(
        crops(first.global_crops, second.global_crops, 2),
        crops(first.local_crops, second.local_crops, first.local_count),
        Masks.from_grid(grid),
        first.images + second.images,
    )


@pytest.mark.parametrize("centering", ["centering", "sinkhorn_knopp"])
@pytest.mark.parametrize("separate", [False, True])
def test_micro_batches_equal_the_large_batch(centering: str, separate: bool) -> None:
    """Loss, every gradient and the centre: targets and KoLeo's neighbours are those of the whole step."""
    model = model_of(centering=centering, separate_patch_head=separate, dtype=torch.float64)
    for part in (model.centering, model.patch_centering):
        if centering == "centering":
            part.center.normal_(std=0.1)
    state = copy.deepcopy(model.state_dict())
    halves = batch_of(dtype=torch.float64), batch_of(dtype=torch.float64)
    loss, _ = model(joined(*halves), teacher_temp=0.05)
    loss.backward()
    expected = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    centre = model.center.clone()
    model.zero_grad(set_to_none=True)
    model.load_state_dict(state)

    losses = []
    for batch, asked in zip(halves, model.ask(halves, teacher_temp=0.05), strict=True):
        loss_of_part, _ = model(batch, asked=asked)
        (loss_of_part / 2).backward()
        losses.append(loss_of_part.detach())
    torch.testing.assert_close(torch.stack(losses).mean(), loss.detach(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(model.center, centre)
    for name, parameter in model.named_parameters():
        if name in expected:
            torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-6, atol=1e-9)
    alone = sum(model(batch, teacher_temp=0.05)[0].detach() for batch in halves) / 2
    assert abs(float(alone - loss.detach())) > 1e-4, "neighbours across micro-batches matter here"


@pytest.mark.parametrize("accumulation", [1, 2])
def test_all_crops_together_give_what_each_size_by_itself_gives(
    accumulation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loss and every gradient, with stochastic depth: the same seed draws the same images."""
    model = model_of(dtype=torch.float64)
    for block in model.student_backbone.blocks:
        block.drop_path_rate = 0.5
    batches, state = [batch_of(4, 3, torch.float64) for _ in range(accumulation)], model.state_dict()
    state, results = copy.deepcopy(state), []
    for apart in ({"cpu"}, set()):
        monkeypatch.setattr(passes, "APART", apart)
        model.load_state_dict(state)
        model.zero_grad(set_to_none=True)
        torch.manual_seed(5)
        losses = []
        for batch, asked in zip(batches, model.ask(batches, teacher_temp=0.05), strict=True):
            loss, _ = model(batch, asked=asked)
            loss.backward()
            losses.append(loss.detach())
        results.append((losses, [p.grad.clone() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("apart", [{"cpu"}, set()], ids=["apart", "together"])
def test_the_first_look_draws_the_same_stochastic_depth(
    apart: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """KoLeo's features of the first and of the second pass are the same, whatever was drawn between."""
    monkeypatch.setattr(passes, "APART", apart)
    model = model_of()
    for block in model.student_backbone.blocks:
        block.drop_path_rate = 0.5
    halves = batch_of(), batch_of()
    seen: list[Tensor] = []
    read = model.student_backbone.read_list

    def recording(crops, *args):
        pairs = read(crops, *args)
        if len(crops[0]) == 6 and crops[0].shape[-1] == 32:
            seen.append(pairs[0][0].detach())
        return pairs

    model.student_backbone.read_list = recording
    for batch, asked in zip(halves, model.ask(halves, teacher_temp=0.05), strict=True):
        model(batch, asked=asked)
    assert len(seen) == 4
    torch.testing.assert_close(seen[0], seen[2])
    torch.testing.assert_close(seen[1], seen[3])
