"""The whole configuration of a training run, one tree; `nexus train a.b=c` reaches every leaf.

The defaults are those of the official ViT-L/16 recipe, but for its stochastic depth of 0.3. What a user
leaves out is not taken from them but chosen for the data and the machine at hand, and said: see
`nexus.training.auto`. Sections that change results come first; `compute` and those below it should not.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from nexus.config import Config, Share
from nexus.data.crops.config import CropConfig
from nexus.data.loader import DataConfig
from nexus.data.masking import MaskConfig
from nexus.models.ssl import ObjectiveConfig
from nexus.schedules import Schedule, cosine, linear_then_constant
from nexus.training.acceleration import Checkpointing
from nexus.training.optim import OptimConfig
from nexus.training.parallel import Parallel
from nexus.training.step import StepValues


class ModelConfig(Config):
    """The backbone. Fields left out come from the architecture's name."""

    arch: str = "vit_large_patch16"
    """Architecture: `vit_{tiny,small,base,large,giant}_patch{P}[_reg{R}][_swiglu]`; `--model` sets it."""
    depth: PositiveInt | None = None
    """Number of blocks, where it differs from the architecture's."""
    embed_dim: PositiveInt | None = None
    """Width of a token, where it differs from the architecture's."""
    num_heads: PositiveInt | None = None
    """Attention heads, where they differ from the architecture's."""
    num_register_tokens: NonNegativeInt | None = None
    """Register tokens, where they differ from the architecture's."""
    ffn_layer: str | None = None
    """`mlp`, `swiglu` or `swiglufused`, where it differs from the architecture's."""
    in_chans: PositiveInt = 3
    """Channels of the images; found out from the data where `data.channels=native`."""
    drop_path_rate: Share = 0.0
    """Share of residual branches skipped in training (exact counts); official: 0.3 to 0.4 for large ones."""
    init_values: NonNegativeFloat = 1e-5
    """Initial LayerScale; 0 builds none."""
    init: str = ""
    """Weight file to start from (backbone only); `--init` sets it."""


class TeacherConfig(Config):
    """How the teacher follows the student, and how sharp its targets are."""

    momentum: Share = 0.992
    """EMA momentum at the start."""
    momentum_end: Share = 1.0
    """EMA momentum at the end of its cosine."""
    temp_start: PositiveFloat = 0.04
    """Teacher temperature at the start."""
    temp: PositiveFloat = 0.07
    """Teacher temperature after the warm-up."""
    temp_warmup_steps: NonNegativeInt = 37_500
    """Steps over which the temperature rises."""


class ScheduleConfig(Config):
    """How long to train and with how many images a step."""

    steps: PositiveInt = 125_000
    """Optimizer steps; `--steps` sets it."""
    batch_size: PositiveInt = 2048
    """Images per step over all devices and micro-batches."""
    accumulation: PositiveInt = 1
    """Micro-batches per step; targets, centre and KoLeo see all of them, as one large batch would."""


class ComputeConfig(Config):
    """Device and precision."""

    device: str = "cuda"
    """`cpu`, `cuda`, `cuda:1` or `mps`."""
    devices: PositiveInt = 1
    """Processes, one for each device; `--devices` sets it, and torchrun or SLURM have the last word."""
    parallel: Parallel = "ddp"
    """How several processes share the model: `ddp`, each holds all of it, or `fsdp`, each holds a slice."""
    timeout: PositiveFloat = 1800.0
    """Seconds that the processes wait for each other before the run ends with an error."""
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    """Arithmetic of the networks; losses are always computed in fp32."""
    threads: NonNegativeInt = 0
    """CPU threads of the training process; 0: one for each core."""
    compile: bool = False
    """Compile the blocks with torch.compile; where that is impossible the log says why."""
    checkpointing: Checkpointing = "none"
    """What the backward pass computes again: nothing, all but matrix products (`selective`), or `full`."""


class CheckpointConfig(Config):
    """When the state of the run is saved."""

    every: PositiveInt = 3750
    """Steps between checkpoints."""
    keep: PositiveInt = 2
    """Newest checkpoints that are kept."""


class LogConfig(Config):
    """What is written while training."""

    every: PositiveInt = 10
    """Steps between lines of metrics.jsonl."""
    profile: bool = False
    """Record three steps after the third, in the run folder's `profile`; `--profile` sets it."""
    max_bad_steps: PositiveInt = 10
    """Training stops after this many steps in a row with a loss or gradient that is not finite."""


class OnlineEvalConfig(Config):
    """Evaluations of the teacher while it trains; k-NN, where there are labels, unless others are named."""

    every: NonNegativeInt = 12_500
    """Steps between evaluations; 0: never."""
    data: str = ""
    """Data to evaluate on; left out: the training data, if they have labels."""
    tasks: Annotated[tuple[str, ...], Field(min_length=1)] = ("knn",)
    """Tasks of `nexus eval`; those on labelled images share the work between the processes."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Settings of the tasks, as in online_eval.settings.linear.min_steps=200."""
    max_images: PositiveInt = 2000
    """Most images of either side, the bank and the queries; without splits a fifth of them are queries."""


class HealthConfig(Config):
    """Watching whether the run learns: docs/health.md."""

    every: NonNegativeInt = 500
    """Steps between looks at the features of the probe; 0: never, and only the steps are watched."""
    images: Annotated[int, Field(ge=8)] = 128
    """Training images of the probe, two crops each; a smaller data set is taken whole."""
    policy: Literal["off", "warn", "stop"] = "warn"
    """What a fatal illness leads to: nothing, one warning by name, or a saved run that stops with code 4."""


class TrainConfig(Config):
    """One run."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of weights, order, crops and masks; the same seed gives the same run."""
    model: ModelConfig = ModelConfig()
    """The backbone."""
    objective: ObjectiveConfig = ObjectiveConfig()
    """Losses, heads, centering."""
    crops: CropConfig = CropConfig()
    """Crops and augmentation."""
    masks: MaskConfig = MaskConfig()
    """Masked patches."""
    data: DataConfig = DataConfig()
    """Images."""
    schedule: ScheduleConfig = ScheduleConfig()
    """Length and batch."""
    optim: OptimConfig = OptimConfig()
    """Optimizer."""
    teacher: TeacherConfig = TeacherConfig()
    """Teacher."""
    compute: ComputeConfig = ComputeConfig()
    """Device and precision."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """Checkpoints."""
    log: LogConfig = LogConfig()
    """Logging."""
    online_eval: OnlineEvalConfig = OnlineEvalConfig()
    """Evaluation while training."""
    health: HealthConfig = HealthConfig()
    """Health while training."""

    @model_validator(mode="after")
    def _batch_divides(self) -> "TrainConfig":
        batch, turns, devices = self.schedule.batch_size, self.schedule.accumulation, self.compute.devices
        parts = turns * devices
        if batch % parts:
            several = f"compute.devices={devices} times " if devices > 1 else ""
            raise ValueError(
                f"schedule.batch_size={batch} cannot be split into {several}schedule.accumulation={turns} "
                f"equal micro-batches; use schedule.batch_size={max(round(batch / parts), 1) * parts}"
            )
        return self


class Schedules:
    """Every scheduled value of a resolved configuration, by step."""

    def __init__(self, config: TrainConfig) -> None:
        optim, teacher, total = config.optim, config.teacher, config.schedule.steps
        self.freeze = optim.freeze_last_layer_steps
        self.lr = Schedule(
            base=optim.peak_lr(config.schedule.batch_size),
            final=optim.min_lr,
            total=total,
            warmup=min(optim.warmup_steps, total),
        )
        self.weight_decay = cosine(optim.weight_decay, optim.weight_decay_end, total)
        self.momentum = cosine(teacher.momentum, teacher.momentum_end, total)
        self.teacher_temp = linear_then_constant(
            teacher.temp_start, teacher.temp, teacher.temp_warmup_steps, total
        )

    def at(self, step: int) -> StepValues:
        """The values of one step, counted from 0."""
        lr = self.lr.at(step)
        return StepValues(
            lr=lr,
            last_layer_lr=0.0 if step < self.freeze else lr,
            weight_decay=self.weight_decay.at(step),
            momentum=self.momentum.at(step),
            teacher_temp=self.teacher_temp.at(step),
        )
