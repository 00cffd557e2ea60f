"""The book of illnesses: what each is, how it shows, where it comes from, what helps.

It reads from the causes to the consequences. What is found first is named first, and an illness that
`explains` another hides it: a learning rate of 0 also leaves the output uniform, but that is not the point.
The limits come from `benchmarks/doctor.py`, which runs well and ill ones; docs/health.md says how far apart
those lie.
"""

from collections.abc import Callable
from dataclasses import dataclass

from nexus.health import symptoms
from nexus.health.course import Course


@dataclass(frozen=True)
class Illness:
    """One page of the book."""

    name: str
    what: str
    """What is going on."""
    sign: Callable[[Course], str | None]
    """The evidence in words if the course shows it, else None."""
    keys: tuple[str, ...]
    """The signs that show it."""
    cause: str
    cure: str
    fatal: bool = True
    """Whether training on is pointless; the others are warnings."""
    explains: tuple[str, ...] = ()
    """Illnesses that follow from this one and are not named beside it."""


BOOK = (
    Illness(
        name="not-finite",
        what="Losses or gradients are NaN or infinite, and those steps teach nothing.",
        sign=symptoms.not_finite,
        keys=("finite",),
        cause="half precision that overflows (fp16 ends at 65,504), or a learning rate too high",
        cure="Use compute.precision=bf16 or fp32; if it stays, lower optim.lr",
        explains=("no-learning-rate", "uniform-collapse", "one-hot-collapse", "dimensional-collapse"),
    ),
    Illness(
        name="no-learning-rate",
        what="The optimizer moves nothing.",
        sign=symptoms.no_learning_rate,
        keys=("lr",),
        cause="optim.lr=0, or a schedule that ends at 0 too early",
        cure="Set optim.lr, e.g. 4e-3 with the rule sqrt(batch / 1024)",
        explains=("last-layer-frozen", "uniform-collapse", "dimensional-collapse", "momentum-too-high"),
    ),
    Illness(
        name="last-layer-frozen",
        what="The prototypes never move, so the student cannot learn to answer.",
        sign=symptoms.last_layer_frozen,
        keys=("last_layer_lr",),
        cause="optim.freeze_last_layer_steps longer than the start of the run",
        cure="Set optim.freeze_last_layer_steps to a hundredth of the run, or 0",
        explains=("uniform-collapse",),
    ),
    Illness(
        name="ibot-only",
        what="Only hidden patches teach; the CLS token, which is what people use, is never asked anything.",
        sign=symptoms.ibot_only,
        keys=("dino", "loss/dino_global"),
        cause="objective.dino_weight=0",
        cure="Set objective.dino_weight=1",
        fatal=False,
        explains=("uniform-collapse", "one-hot-collapse", "dimensional-collapse", "dying-prototypes"),
    ),
    Illness(
        name="teacher-not-in-eval",
        what="The teacher answers the same question differently each time, so its targets are noise.",
        sign=symptoms.teacher_not_in_eval,
        keys=("health/teacher_noise",),
        cause="stochastic depth or dropout active in the teacher: it was put into training mode",
        cure="Call eval() on the teacher and never train(); our own trainer does",
        explains=("dimensional-collapse",),
    ),
    Illness(
        name="momentum-too-low",
        what="The teacher is nearly the student: it repeats errors instead of averaging them out.",
        sign=symptoms.momentum_too_low,
        keys=("momentum",),
        cause="teacher.momentum far below what the batch needs",
        cure="Set teacher.momentum=0.95 for runs of hundreds of steps, 0.992 for runs of many thousands",
        fatal=False,
    ),
    Illness(
        name="momentum-too-high",
        what="The teacher averages over more steps than the run has, so it stays where it began.",
        sign=symptoms.momentum_too_high,
        keys=("momentum",),
        cause="teacher.momentum of a long recipe in a short run",
        cure="Lower teacher.momentum: 1 / (1 - momentum) should be at most a fifth of the steps",
        explains=("uniform-collapse", "dimensional-collapse"),
    ),
    Illness(
        name="uniform-collapse",
        what="Every image gets the same flat answer: all prototypes are equally likely.",
        sign=symptoms.uniform_collapse,
        keys=("gap", "dino"),
        cause="targets that are not sharp: teacher.temp not below objective.student_temp",
        cure="Lower teacher.temp to 0.04, or to 0.02 in short runs; lower optim.lr if that is no help",
        explains=("dimensional-collapse", "dying-prototypes"),
    ),
    Illness(
        name="one-hot-collapse",
        what="Every image gets the same single prototype.",
        sign=symptoms.one_hot_collapse,
        keys=("teacher/entropy", "dino", "health/prototypes"),
        cause="no centring: nothing keeps one prototype from taking all",
        cure="Set objective.center_momentum=0.9, or objective.centering=sinkhorn_knopp",
        explains=("dimensional-collapse", "dying-prototypes"),
    ),
    Illness(
        name="dying-prototypes",
        what="A handful of prototypes answers for all images; the others are never chosen.",
        sign=symptoms.dying_prototypes,
        keys=("health/prototypes",),
        cause="a learning rate or a sharpness at which most prototypes fell behind early",
        cure="Lower optim.lr, raise teacher.temp_start, or set objective.centering=sinkhorn_knopp",
    ),
    Illness(
        name="dimensional-collapse",
        what="The features of all images lie in a few directions.",
        sign=symptoms.dimensional_collapse,
        keys=("health/effective_rank", "health/nearest"),
        cause="nothing that keeps features apart: KoLeo off, or too few images a step",
        cure="Set objective.koleo_weight=0.1 and a larger schedule.batch_size (schedule.accumulation counts)",
    ),
    Illness(
        name="blur-too-strong",
        what="Blur leaves so little of a crop that details cannot be learned.",
        sign=symptoms.blur_too_strong,
        keys=("health/detail",),
        cause="a blur made for larger images",
        cure="Look at `nexus data crops`; lower crops.blur_sigma, or the probabilities crops.blur_...",
        fatal=False,
    ),
    Illness(
        name="colour-too-strong",
        what="Colours change so much that a crop is no longer recognised.",
        sign=symptoms.colour_too_strong,
        keys=("health/colour",),
        cause="jitter, grey or solarisation far beyond the presets",
        cure="Look at `nexus data crops`; go back to a preset with --crops official, medical, ...",
        fatal=False,
    ),
    Illness(
        name="duplicate-heavy-data",
        what="The same image lies in the data many times, and pushing its copies apart teaches nothing.",
        sign=symptoms.duplicate_heavy,
        keys=("health/copies",),
        cause="frames of videos, re-uploads, or a folder that was copied into itself",
        cure="Keep one of each: nexus.data.deduplication.deduplicate_images, or `nexus data scan`",
        fatal=False,
    ),
)
