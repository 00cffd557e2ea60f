"""How an illness shows: one function each, from the course of a run to the evidence in words, or None.

All limits stand at the head, with what lies on either side of them. "Patience" is how long a sign must last
before it counts: the start of a run may look ill and be none.
"""

import math
from collections.abc import Callable

from nexus.health.course import Course

SHARE, FEWEST, UNKNOWN = 0.03, 15, 1000
"""Patience: 3 % of the run, at least 15 steps; 1,000 steps where the length of the run is not known."""
FREEZE_SHARE, FREEZE_UNKNOWN = 0.05, 2000
"""The last layer may be frozen for 5 % of the run (official: 1 %); 2,000 steps if the length is unknown."""
BAD_SHARE, BAD_WINDOW = 0.5, 10
"""Half of the last ten steps not finite: fp16 finds its scale within a few."""
SLOW = 50
"""Steps that a sign must last which a healthy start, or another illness on its way, shows for a while."""
UNIFORM_GAP, UNIFORM_LOSS = 0.1, 0.02
"""Nats of entropy below ln K, and relative distance of the loss from ln K, that count as uniform."""
NOT_SHARP_GAP, NOT_SHARP_LOSS = 0.4, 0.05
"""The same where the teacher's temperature is not below the student's: nothing then leads away from uniform,
and some runs only creep up to it."""
ONE_HOT_SHARE, ONE_HOT_PROTOTYPES = 0.05, 2.0
"""Teacher entropy as a share of ln K, and prototypes in use, that count as one answer for all."""
FEW_PROTOTYPES = 0.06
"""Prototypes in use, as a share of what the probe could use at most: min(prototypes, images)."""
STILL_GAINING = 1.3
"""Growth of the effective rank since prototypes became few, above which features are learned all the same:
the healthy demo has five prototypes in use from step 30 to 90 and gains 1.55; the planted fault 1.1."""
LOST_DIRECTIONS, LOST_DISTANCE, ONE_DIRECTION = 0.75, 0.84, 1.5
"""Effective rank, and distance to the nearest neighbour, as shares of the first look: directions are lost
where both fall. Healthy runs of a few hundred steps lose a quarter of their rank and regain the distance; the
others lose a third and a fifth. And the rank that is a collapse in any case."""
SHORT = 100
"""Steps of a run that only tries something out."""
LOW_MOMENTUM = 0.8
"""Momentum of the teacher at the start; five steps of averaging."""
NOISE = 0.01
"""Relative distance of two answers of the teacher to the same crops; rounding is below 0.00001."""
DETAIL, COLOUR = 0.45, 0.88
"""Share of fine detail, and correlation of the coarse picture, that is left after augmentation. The presets
leave at least 0.56 and 0.96 on photographs, on drawn images, and at 32 to 224 pixels."""
NOTHING = 1e-10
"""A learning rate that moves nothing."""
COPIES = 1.0
"""Near-copies of an image in the data, on average."""


def patience(course: Course) -> int:
    """Steps that a sign must last."""
    return max(FEWEST, round(SHARE * course.total)) if course.total else UNKNOWN


def _lasts(course: Course, key: str, holds: Callable[[float], bool], steps: int) -> bool:
    """Whether the values of `key` have held for that many steps, the first and the last of them included."""
    return course.lasting(key, holds) >= max(steps, 2)


def not_finite(course: Course) -> str | None:
    """Most of the last steps could not be used."""
    precision = course.setting("compute.precision")
    where = f" in {precision}" if precision else ""
    flags = course.of("finite")
    if flags:
        bad = seen = 0.0
        for (step, share), before in zip(
            reversed(flags), [*[s for s, _ in reversed(flags)][1:], 0], strict=True
        ):
            bad, seen = bad + (1.0 - share) * (step - before), seen + (step - before)
            if seen >= BAD_WINDOW:
                break
        if bad >= BAD_SHARE * max(seen, BAD_WINDOW):
            return f"{bad:.0f} of the last {seen:.0f} steps were not finite{where}"
        return None
    broken = course.broken("loss")
    return f"the loss of the last {broken} lines is NaN or infinite{where}" if broken > 1 else None


def no_learning_rate(course: Course) -> str | None:
    """The learning rate was never above 0, or is not for a tenth of the run."""
    rates = course.of("lr")
    steps = patience(course)
    if any(rate > NOTHING for _, rate in rates):
        steps = max(steps, course.length // 10)
    if not _lasts(course, "lr", lambda rate: rate <= NOTHING, steps):
        return None
    return f"lr=0 for the last {course.lasting('lr', lambda rate: rate <= NOTHING):,} steps"


def last_layer_frozen(course: Course) -> str | None:
    """The rate of the last layer is 0 for longer than any recipe freezes it."""
    allowed = max(FEWEST, FREEZE_SHARE * course.total) if course.total else FREEZE_UNKNOWN
    frozen = course.lasting("last_layer_lr", lambda lr: lr <= 0.0)
    if frozen >= allowed and (course.last("lr") or 0.0) > 0.0:
        share = f", {frozen / course.length:.0%} of the run" if course.total else ""
        return f"last_layer_lr=0 for {frozen:,} steps{share}; official recipes freeze it for 1 %"
    return None


def ibot_only(course: Course) -> str | None:
    """There is an iBOT term and no DINO term."""
    if not course.last("loss/ibot"):
        return None
    terms = [course.last("loss/dino_global"), course.last("loss/dino_local")]
    return None if any(terms) else "loss/ibot is there, the DINO loss is 0 or absent"


def teacher_not_in_eval(course: Course) -> str | None:
    """Two answers to the same crops differ."""
    noise = course.last("health/teacher_noise")
    if noise is not None and noise > NOISE:
        return f"two answers of the teacher to the same crops differ by {noise:.1%}"
    return None


def momentum_too_low(course: Course) -> str | None:
    """It averages over a few steps only."""
    momentum = course.first("momentum")
    if momentum is None or momentum >= LOW_MOMENTUM:
        return None
    return f"momentum {momentum:g} averages over {1 / (1 - momentum):.1f} steps"


def momentum_too_high(course: Course) -> str | None:
    """It averages over more steps than there are."""
    momentum = course.first("momentum")
    if momentum is None or not course.total or course.total < SHORT:
        return None
    horizon = math.inf if momentum >= 1.0 else 1.0 / (1.0 - momentum)
    if horizon <= course.total:
        return None
    steps = "for ever" if math.isinf(horizon) else f"over {horizon:,.0f} steps"
    return f"momentum {momentum:g} averages {steps}, and the run has {course.total:,}"


def uniform_collapse(course: Course) -> str | None:
    """Entropy and loss lie at ln K and do not leave it; the loss alone where there is no entropy."""
    steps = max(SLOW, patience(course))
    near, below = (NOT_SHARP_LOSS, NOT_SHARP_GAP) if _not_sharp(course) else (UNIFORM_LOSS, UNIFORM_GAP)

    def at_uniform(share: float) -> bool:
        return abs(share - 1.0) < near

    if not _lasts(course, "dino", at_uniform, steps):
        return None
    loss = f"DINO loss at {course.last('dino'):.3f} of ln K"
    if "gap" not in course:
        return f"{loss} for {course.lasting('dino', at_uniform):,} steps"
    if not _lasts(course, "gap", lambda gap: gap < below, steps) or _rises(course):
        return None
    return f"teacher entropy {course.last('gap'):.2g} nats below ln K, {loss}{_temperatures(course)}"


def _not_sharp(course: Course) -> bool:
    """Whether the teacher's temperature is known not to be below the student's."""
    teacher, student = course.last("teacher_temp"), course.setting("objective.student_temp")
    return teacher is not None and isinstance(student, int | float) and teacher >= student


def _rises(course: Course) -> bool:
    """Whether the gap grows again, as where a slow start ends."""
    gaps = [gap for _, gap in course.of("gap")]
    return gaps[-1] > 1.5 * min(gaps) + 0.02


def _temperatures(course: Course) -> str:
    teacher, student = course.last("teacher_temp"), course.setting("objective.student_temp")
    if teacher is None:
        return ""
    beside = f", student {student:g}" if isinstance(student, int | float) else ""
    return f" (teacher temperature {teacher:g}{beside})"


def one_hot_collapse(course: Course) -> str | None:
    """Entropy at 0, and one prototype takes all."""
    answers = course.last("health/prototypes")
    if answers is not None and answers >= ONE_HOT_PROTOTYPES:
        return None
    steps = max(SLOW, patience(course))
    if "gap" in course:
        entropy, top = course.last("teacher/entropy"), course.last("uniform/entropy")
        if entropy is None or not top:
            return None
        limit = ONE_HOT_SHARE * top
        if not _lasts(course, "teacher/entropy", lambda value: value < limit, steps):
            return None
        if answers is None and (course.last("dino") or 1.0) > ONE_HOT_SHARE:
            return None
        used = f", {answers:.1f} prototypes in use" if answers is not None else ""
        return f"teacher entropy {entropy:.3f} of {top:.2f}{used}"
    if not _lasts(course, "dino", lambda share: share < ONE_HOT_SHARE, steps):
        return None
    return f"DINO loss at {course.last('dino'):.3f} of ln K"


def dying_prototypes(course: Course) -> str | None:
    """A few prototypes, but more than one, share all answers."""
    rows, top = course.last("health/images"), course.last("uniform/entropy")
    used_now = course.last("health/prototypes")
    if not rows or not top or used_now is None or used_now < ONE_HOT_PROTOTYPES:
        return None
    few = FEW_PROTOTYPES * min(rows, math.exp(top))
    lasted = course.lasting("health/prototypes", lambda used: used < few)
    if lasted < max(SLOW, patience(course)):
        return None
    since = course.of("health/prototypes")[-1][0] - lasted + 1
    ranks = [rank for step, rank in course.of("health/effective_rank") if step >= since]
    if ranks and ranks[-1] > STILL_GAINING * ranks[0]:
        return None
    return f"{used_now:.1f} prototypes in use for {rows:.0f} images"


def dimensional_collapse(course: Course) -> str | None:
    """Directions get lost and neighbours come closer; or there is hardly more than one direction."""
    rank, rank_now = course.first("health/effective_rank"), course.last("health/effective_rank")
    near, near_now = course.first("health/nearest"), course.last("health/nearest")
    if rank is None or rank_now is None:
        return None
    steps = max(SLOW, patience(course))
    if _lasts(course, "health/effective_rank", lambda value: value < ONE_DIRECTION, steps):
        return f"effective rank {rank_now:.2f}"
    if near is None or near_now is None:
        return None
    fewer = _lasts(course, "health/effective_rank", lambda value: value < LOST_DIRECTIONS * rank, steps)
    closer = _lasts(course, "health/nearest", lambda value: value < LOST_DISTANCE * near, steps)
    if not (fewer and closer):
        return None
    return (
        f"effective rank {rank:.1f} at the start and {rank_now:.1f} now, nearest neighbours at {near:.3f} "
        f"and {near_now:.3f}"
    )


def blur_too_strong(course: Course) -> str | None:
    """Little detail is left."""
    detail = course.last("health/detail")
    if detail is None or detail >= DETAIL:
        return None
    return f"blur leaves {detail:.0%} of the fine detail of a typical crop"


def colour_too_strong(course: Course) -> str | None:
    """Little of the coarse picture is left."""
    colour = course.last("health/colour")
    if colour is None or colour >= COLOUR:
        return None
    return f"a typical crop correlates by {colour:.2f} with itself before its colours were changed"


def duplicate_heavy(course: Course) -> str | None:
    """A sample of the images holds many pairs that look the same."""
    copies = course.last("health/copies")
    if copies is None or copies < COPIES:
        return None
    return f"an image has about {copies:.1f} near-copies in the data"
