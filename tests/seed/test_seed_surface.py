"""The seed document's imports, constructors and loop, as written; only sizes, paths, devices differ."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from nexus.data.deduplication import deduplicate_images
from nexus.data.quality import ImageQualityFilter
from nexus.errors import ConfigError
from nexus.models.ssl import DINOv2, MultiCropAugmentation, ObjectiveConfig
from nexus.models.ssl.base import BaseSSL
from nexus.models.ssl.dinov2 import DINOv2Head
from nexus.models.vision import VisionTransformer

CONFIG = {
    "backbone": "vit_base_patch14",
    "img_size": 28,
    "patch_size": 14,
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 2,
    "out_dim": 64,
    "batch_size": 4,
    "epochs": 2,
    "lr": 0.0005,
    "weight_decay": 0.04,
    "warmup_epochs": 1,
}


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(4):
            pixels = rng.integers(0, 255, (40, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    return tmp_path


def build_model() -> DINOv2:
    return DINOv2(
        backbone=CONFIG["backbone"],
        img_size=CONFIG["img_size"],
        patch_size=CONFIG["patch_size"],
        embed_dim=CONFIG["embed_dim"],
        depth=CONFIG["depth"],
        num_heads=CONFIG["num_heads"],
        out_dim=CONFIG["out_dim"],
    )


def get_lr(epoch, warmup_epochs, total_epochs, base_lr, min_lr=1e-6):
    if epoch < warmup_epochs:
        return base_lr * epoch / warmup_epochs
    progress = (epoch - warmup_epochs) / (total_epochs - warmup_epochs)
    return min_lr + (base_lr - min_lr) * 0.5 * (1 + torch.cos(torch.tensor(progress * 3.14159)))


def test_the_training_loop_as_written(image_folder: Path, tmp_path: Path) -> None:
    model = build_model()
    model.total_epochs = CONFIG["epochs"]
    transform = MultiCropAugmentation(
        global_crops_scale=(0.4, 1.0),
        local_crops_scale=(0.05, 0.4),
        local_crops_number=3,
        global_size=28,
        local_size=14,
    )
    dataset = ImageFolder(str(image_folder), transform=transform)
    dataloader = DataLoader(
        dataset, batch_size=CONFIG["batch_size"], shuffle=True, num_workers=0, drop_last=True
    )
    param_groups = []
    for name, param in model.student_backbone.named_parameters():
        layer_id = int(name.split(".")[1]) if "blocks" in name else -1
        lr_scale = 0.75 ** (12 - layer_id) if layer_id >= 0 else 1.0
        param_groups.append(
            {
                "params": param,
                "lr": CONFIG["lr"] * lr_scale,
                "weight_decay": CONFIG["weight_decay"],
            }
        )
    optimizer = torch.optim.AdamW(param_groups, lr=CONFIG["lr"])
    teacher_before = model.teacher_backbone.blocks[0].mlp.fc1.weight.clone()
    for epoch in range(CONFIG["epochs"]):
        model.epoch = epoch
        model.train()
        lr = get_lr(epoch, CONFIG["warmup_epochs"], CONFIG["epochs"], CONFIG["lr"])
        for param_group in optimizer.param_groups:
            param_group["lr"] = lr * (param_group.get("lr_scale", 1.0))
        for images, _ in dataloader:
            loss, metrics = model(images)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.student_backbone.parameters(), 3.0)
            torch.nn.utils.clip_grad_norm_(model.student_head.parameters(), 3.0)
            optimizer.step()
            model.update_teacher()
            line = (
                f"{metrics['loss']:.4f} {metrics['teacher_temp']:.4f} {metrics['ema_momentum']:.4f} "
                f"{metrics['center_norm']:.4f}"
            )
            assert all(math.isfinite(float(value)) for value in line.split())
    assert not torch.equal(teacher_before, model.teacher_backbone.blocks[0].mlp.fc1.weight)
    path = tmp_path / "checkpoint.pth"
    torch.save(
        {
            "epoch": epoch,
            "student_backbone": model.student_backbone.state_dict(),
            "student_head": model.student_head.state_dict(),
            "teacher_backbone": model.teacher_backbone.state_dict(),
            "teacher_head": model.teacher_head.state_dict(),
            "optimizer": optimizer.state_dict(),
            "center": model.center,
        },
        path,
    )
    assert torch.load(path, weights_only=True)["center"].shape == (1, 64)


def test_vision_transformer_gives_cls_then_patches() -> None:
    vit = VisionTransformer(img_size=28, patch_size=14, embed_dim=32, depth=1, num_heads=2)
    tokens = vit(torch.randn(2, 3, 28, 28))
    assert tokens[:, 0].shape == (2, 32)
    assert tokens[:, 1:].shape == (2, 4, 32)


def test_all_keywords_of_the_seed_are_accepted() -> None:
    model = DINOv2(
        backbone="vit_base_patch14",
        img_size=28,
        patch_size=14,
        embed_dim=32,
        depth=1,
        num_heads=2,
        out_dim=32,
        student_temp=0.1,
        teacher_temp_schedule=(0.04, 0.07),
        warmup_teacher_temp_epochs=30,
        center_momentum=0.9,
        ema_momentum_schedule=(0.996, 1.0),
        local_crops_number=8,
        local_crops_scale=(0.05, 0.4),
        global_crops_scale=(0.4, 1.0),
    )
    assert isinstance(model, BaseSSL)
    attributes = {
        "student_temp": 0.1,
        "teacher_temp_start": 0.04,
        "teacher_temp_end": 0.07,
        "warmup_teacher_temp_epochs": 30,
        "center_momentum": 0.9,
        "ema_start": 0.996,
        "ema_end": 1.0,
        "local_crops_number": 8,
        "local_crops_scale": (0.05, 0.4),
        "global_crops_scale": (0.4, 1.0),
        "epoch": 0,
    }
    assert {name: getattr(model, name) for name in attributes} == attributes
    assert MultiCropAugmentation(local_crops_number=3).local_crops_number == 3
    assert model.get_ema_momentum(0) == pytest.approx(0.996)
    assert model.get_ema_momentum(model.total_epochs) == pytest.approx(1.0)
    assert DINOv2Head(16, hidden_dim=8, out_dim=12)(torch.randn(2, 16)).shape == (2, 12)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("official", {0: 0.04, 15: 0.055, 30: 0.07, 99: 0.07}),
        ("linear", {0: 0.04, 50: 0.055, 100: 0.07}),
        ("seed", {0: 0.04, 29: 0.04, 30: 0.04, 65: 0.055, 100: 0.07}),
    ],
)
def test_all_three_temperature_schedules(rule: str, expected: dict[int, float]) -> None:
    model = build_model()
    model.teacher_temp_rule = rule
    for epoch, value in expected.items():
        assert model.get_teacher_temp(epoch) == pytest.approx(value)


def test_temperatures_may_be_changed_between_steps() -> None:
    torch.manual_seed(0)
    model = build_model()
    model.student_backbone.eval()
    crops = [torch.randn(2, 3, 28, 28) for _ in range(2)]

    def dino() -> float:
        model.centering.center.zero_()
        return float(model(crops)[1]["loss/dino_global"])

    before = dino()
    model.student_temp = 100.0  # a student that says nothing
    assert dino() == pytest.approx(math.log(64), rel=1e-3)
    assert dino() != pytest.approx(before, rel=1e-3)


def test_update_center_takes_raw_logits() -> None:
    model = build_model()
    logits = torch.randn(5, 64)
    model.update_center(logits)
    torch.testing.assert_close(model.center, 0.1 * logits.mean(0, keepdim=True))


def test_the_momentum_is_a_number_and_has_item() -> None:
    """The seed takes `.item()` of it for its metrics and formats it with `:.6f`."""
    model = build_model()
    momentum = model.get_ema_momentum(50)
    assert isinstance(momentum, float)
    assert f"{momentum:.6f}" == f"{momentum.item():.6f}" == "0.996000"
    parameter = torch.ones(2)
    assert ((1 - momentum) * parameter).dtype == parameter.mul_(momentum).dtype == torch.float32


def test_the_centre_is_read_saved_and_put_back() -> None:
    model = build_model()
    saved = torch.randn(1, 64)
    model.center = saved
    assert torch.equal(model.center, saved)
    model.center = model.center * 0.9 + torch.ones(1, 64) * 0.1
    torch.testing.assert_close(model.state_dict()["centering.center"], saved * 0.9 + 0.1)
    assert not model.center.requires_grad
    other = DINOv2(
        img_size=28,
        embed_dim=32,
        depth=1,
        num_heads=2,
        out_dim=8,
        objective=ObjectiveConfig(centering="sinkhorn_knopp"),
    )
    with pytest.raises(ConfigError, match="no centre to set"):
        other.center = torch.zeros(1, 8)


def test_the_augmentation_takes_the_seeds_arguments_in_its_order() -> None:
    crops = MultiCropAugmentation((0.4, 1.0), (0.05, 0.4), 3, 28, 14)
    found = crops.config
    assert (found.global_scale, found.local_scale) == ((0.4, 1.0), (0.05, 0.4))
    assert (found.local_number, found.global_size, found.local_size) == (3, 28, 14)
    image = Image.new("RGB", (40, 48), (90, 20, 200))
    assert [tuple(crop.shape) for crop in crops(image)] == [(3, 28, 28)] * 2 + [(3, 14, 14)] * 3
    assert crops.global_transform(image).shape == (3, 28, 28)
    assert crops.local_transform(image).shape == (3, 14, 14)
    with pytest.raises(ConfigError, match="no local crops"):
        MultiCropAugmentation(local_crops_number=0).local_transform(image)


def test_the_data_are_cleaned_as_written_though_they_have_a_transform(image_folder: Path) -> None:
    """`dataset` is the training loop's: an `ImageFolder` whose items are lists of crops."""
    Image.open(image_folder / "a" / "0.png").save(image_folder / "b" / "again.png")
    Image.new("RGB", (10, 40)).save(image_folder / "b" / "small.png")
    transform = MultiCropAugmentation(local_crops_number=1, global_size=28, local_size=14)
    dataset = ImageFolder(str(image_folder), transform=transform)
    dataset = deduplicate_images(dataset, threshold=0.95)
    assert len(dataset) == 9
    quality_filter = ImageQualityFilter(min_resolution=32, max_aspect_ratio=3.0, check_corrupted=True)
    dataset = quality_filter.filter(dataset)
    assert len(dataset) == 8
    images, _ = next(iter(DataLoader(dataset, batch_size=2)))
    assert [tuple(crop.shape) for crop in images] == [(2, 3, 28, 28)] * 2 + [(2, 3, 14, 14)]


def test_wrong_values_are_refused_in_words() -> None:
    with pytest.raises(ConfigError, match="out_dim=0 should be more than 0"):
        DINOv2(img_size=28, embed_dim=32, depth=1, num_heads=2, out_dim=0)
    model = build_model()
    model.teacher_temp_rule = "sed"
    with pytest.raises(ConfigError, match="unknown teacher_temp_rule 'sed'; did you mean 'seed'"):
        model.get_teacher_temp(3)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([(2, 28)], "1 crops given; the list starts with two global crops"),
        ([(2, 28), (3, 28)], r"global crops are \(2, 3, 28, 28\) and \(3, 3, 28, 28\)"),
        ([(2, 28), (2, 42)], r"global crops are .*; all of a kind need one shape"),
        ([(2, 28), (2, 28), (2, 14), (2, 28)], r"local crops are \(2, 3, 14, 14\) and \(2, 3, 28, 28\)"),
        ([(2, 28), (2, 28), (1, 14)], "with the same images in every crop"),
    ],
)
def test_crops_that_do_not_fit_together(shapes: list[tuple[int, int]], message: str) -> None:
    model = build_model()
    with pytest.raises(ConfigError, match=message):
        model([torch.randn(count, 3, side, side) for count, side in shapes])


class OwnMethod(BaseSSL):
    """As the seed document builds its class on ours: two networks, two methods, nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.student_backbone = VisionTransformer(
            img_size=28, patch_size=14, embed_dim=32, depth=1, num_heads=2
        )
        self.student_head = DINOv2Head(32, hidden_dim=8, out_dim=12)
        self.teacher_backbone = VisionTransformer(
            img_size=28, patch_size=14, embed_dim=32, depth=1, num_heads=2
        )
        for p in self.teacher_backbone.parameters():
            p.requires_grad = False

    def forward(self, images):
        loss = self.student_head(self.student_backbone(images[0])[:, 0]).square().mean()
        return loss, {"loss": loss.item()}

    def update_teacher(self):
        pass


def test_a_method_of_ones_own_needs_no_more_than_the_seed_shows() -> None:
    method = OwnMethod()
    loss, _ = method([torch.randn(2, 3, 28, 28)])
    loss.backward()
    assert set(method.trained_networks()) == {"student_backbone", "student_head"}
    assert method.inference_backbone is method.teacher_backbone
