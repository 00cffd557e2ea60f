"""The state of a run: networks, optimizer, scaler, step. Everything else is a function of seed and step."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from nexus import checkpoint
from nexus.log import logger
from nexus.models.ssl import DINOv2
from nexus.models.vision import ViTConfig, architecture
from nexus.training.config import ModelConfig, TrainConfig
from nexus.training.optim import build_optimizer
from nexus.training.run import RunFolder
from nexus.weights import initialise_from


@dataclass
class TrainState:
    """Everything a checkpoint holds, and the step that comes next."""

    model: DINOv2
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    step: int = 0
    tensors: dict[str, torch.Tensor] = field(init=False)

    def __post_init__(self) -> None:
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        self.tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        self.tensors.update(optimizer_tensors(self.optimizer, names))

    def save(self, folder: RunFolder, keep: int) -> None:
        """Write a checkpoint of this moment."""
        values = {"scaler": self.scaler.state_dict()}
        checkpoint.save(folder.checkpoints, self.step, self.tensors, values, keep)

    def restore(self, folder: RunFolder) -> None:
        """Go to the newest checkpoint, if there is one."""
        newest = folder.latest()
        if newest is None:
            return
        values = checkpoint.load(newest, self.tensors)
        self.scaler.load_state_dict(values["scaler"])
        self.step = values["step"]


def vit_config(model: ModelConfig, img_size: int) -> ViTConfig:
    """The backbone's architecture at the size of the global crops."""
    changes = {
        name: value for name, value in model.model_dump(exclude={"arch", "init"}).items() if value is not None
    }
    return architecture(model.arch, img_size=img_size, **changes)


def build_state(config: TrainConfig, device: torch.device) -> TrainState:
    """Model, optimizer and scaler at step 0."""
    torch.manual_seed(config.seed)
    vit = vit_config(config.model, config.crops.global_size)
    model = DINOv2.from_config(vit, config.objective, config.masks)
    if config.model.init:
        report = initialise_from(model.student_backbone, config.model.init)
        model.teacher_backbone.load_state_dict(model.student_backbone.state_dict())
        logger.info("%s", report)
    model.to(device).train()
    scaler = torch.amp.GradScaler(device.type, enabled=config.compute.precision == "fp16")
    return TrainState(model, build_optimizer(model, config.optim), scaler)


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: dict[nn.Parameter, str]) -> dict[str, Tensor]:
    """AdamW's moments and step counts by parameter name, allocated as zeros where no step was taken yet."""
    tensors: dict[str, Tensor] = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state[parameter]
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32)
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)
            for key, value in state.items():
                tensors[f"optimizer.{names[parameter]}.{key}"] = value
    return tensors
