"""The state of a run: networks, optimizer, scaler, step. The rest is a function of seed and step."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from nexus import checkpoint
from nexus.log import logger
from nexus.models.ssl import DINOv2
from nexus.models.vision import ViTConfig, architecture
from nexus.training.acceleration import checkpoint_blocks, compile_blocks
from nexus.training.config import ModelConfig, TrainConfig
from nexus.training.metrics import RunningMeans
from nexus.training.optim import build_optimizer
from nexus.training.parallel import share
from nexus.training.run import RunFolder
from nexus.weights import initialise_from, tell_input


@dataclass
class TrainState:
    """Everything a checkpoint holds, and the step that comes next."""

    model: DINOv2
    forward: nn.Module
    """What is called in place of the model: see `nexus.training.parallel`."""
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    step: int = 0
    means: RunningMeans = field(default_factory=RunningMeans)
    tensors: dict[str, torch.Tensor] = field(init=False)

    def __post_init__(self) -> None:
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        self.tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        self.tensors.update(optimizer_tensors(self.optimizer, names))

    def snapshot(self, images: int) -> "Snapshot":
        """A copy of this moment on the CPU. `images` is the size of the data set."""
        values = {
            "scaler": self.scaler.state_dict(),
            "means": self.means.state_dict(),
            "images": images,
        }
        return Snapshot(self.step, {name: _copied(value) for name, value in self.tensors.items()}, values)

    def restore(self, folder: RunFolder, images: int) -> None:
        """Go to the newest sound checkpoint, if there is one."""
        values = checkpoint.load_newest(folder.checkpoints, self.tensors)
        if values is None:
            return
        if values["scaler"]:  # empty where the run was not in fp16 so far
            self.scaler.load_state_dict(values["scaler"])
        self.means.load_state_dict(values["means"])
        self.step = values["step"]
        if values["images"] != images:
            logger.warning(
                "the data held %d images when the run was saved and hold %d now: from here on it sees other "
                "images than it would have",
                values["images"],
                images,
            )


@dataclass(frozen=True)
class Snapshot:
    """What a checkpoint holds, apart from the training that goes on."""

    step: int
    tensors: dict[str, Tensor]
    values: dict[str, Any]


def _copied(value: Tensor) -> Tensor:
    value = value.detach()
    return value.clone() if value.device.type == "cpu" else value.cpu()


def vit_config(model: ModelConfig, img_size: int) -> ViTConfig:
    """The backbone's architecture at the size of the global crops."""
    changes = {
        name: value for name, value in model.model_dump(exclude={"arch", "init"}).items() if value is not None
    }
    return architecture(model.arch, img_size=img_size, **changes)


def build_state(config: TrainConfig, device: torch.device, *, resuming: bool = False) -> TrainState:
    """Model, optimizer and scaler at step 0; `model.init` is not read for a run that is `resuming`."""
    torch.manual_seed(config.seed)
    vit = vit_config(config.model, config.crops.global_size)
    model = DINOv2.from_config(vit, config.objective, config.masks)
    if config.model.init and not resuming:
        report = initialise_from(model.student_backbone, config.model.init)
        model.teacher_backbone.load_state_dict(model.student_backbone.state_dict())
        logger.info("%s", report)
    for backbone in (model.student_backbone, model.teacher_backbone):
        tell_input(backbone, config.data.normalization, config.data.look)
    model.to(device).train()
    checkpoint_blocks(model.student_backbone, config.compute.checkpointing)
    if config.compute.compile:
        for backbone in (model.student_backbone, model.teacher_backbone):
            compile_blocks(backbone, device)
    scaler = torch.amp.GradScaler(device.type, enabled=config.compute.precision == "fp16")
    forward = share(model, config.compute.parallel, device)
    return TrainState(model, forward, build_optimizer(model, config.optim), scaler)


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: dict[nn.Parameter, str]) -> dict[str, Tensor]:
    """Moments and step counts by parameter name, allocated as zeros where no step was taken yet."""
    tensors: dict[str, Tensor] = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state[parameter]
            if not state and group["muon"]:
                state["momentum_buffer"] = torch.zeros_like(parameter)
            elif not state:
                home = parameter.device if group["fused"] else "cpu"
                state["step"] = torch.zeros((), dtype=torch.float32, device=home)
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)
            for key, value in state.items():
                tensors[f"optimizer.{names[parameter]}.{key}"] = value
    return tensors
