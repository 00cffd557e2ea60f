"""The contract of an evaluation: what a task is given, and what it gives back.

Adding one is a file and a line. The file holds a `Config`, a function, and a `Task`::

    def run(context: EvalContext, config: CountingConfig) -> TaskResult:
        train, test, split = context.labelled()
        features = context.features(train)                            # frozen, extracted once, cached
        ...
        return TaskResult(metric="top1", value=..., names=..., score=...)

    TASK = Task("counting", "how many things are in an image", CountingConfig, run)

The line goes into `nexus/evals/registry.py`. Everything else is done for all tasks alike: the interval, the
same task on raw pixels, `--task counting counting.key=value`, `eval.json`, the table, `nexus compare`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from nexus.config import Config
from nexus.evals.context import EvalContext

RESAMPLES = 1000

Score = Callable[[Int[Tensor, " picked"]], float]
"""The headline metric over a multiset of test images, given by their rows."""


@dataclass(frozen=True)
class EvalPicture:
    """Something a person wants to see: a confusion matrix, a predicted mask beside the truth."""

    title: str
    caption: str
    image: Image.Image


def no_pictures() -> Iterable[EvalPicture]:
    """Of a task that has none."""
    return ()


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """What a task found out about one backbone.

    `score` must give `value` when it is asked about every test image once (but for a mean over seeds, it is
    the same function), from what was counted per image, so that a thousand resamples take seconds: hits, or
    one confusion matrix an image. It is compared between models with the same rows, so the order of `names`
    must not depend on the backbone.
    """

    metric: str
    """Of the headline: `top1`, `mIoU`, `RMSE`, `mask AP`, `mAP`, ..."""
    value: float
    """Of the headline, over all test images; with several seeds their mean."""
    names: tuple[str, ...]
    """One for each test image (or query), in the order that `score` counts them."""
    score: Score
    higher_is_better: bool = True
    unit: str = "%"
    """`%` for a share in 0..1, which people read times 100; else the unit of the value, such as `m`."""
    chance: float | None = None
    """The value that guessing gives; None where nobody can say."""
    chance_means: str = ""
    """What that guess is, in a few words: "one of 10 classes", "the mean depth everywhere"."""
    split: str = ""
    """One sentence: which images were learned from, which were tested."""
    unreadable: tuple[str, ...] = ()
    """Names of images that were left out because they cannot be read."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Everything else that goes into `eval.json`: numbers, texts, lists and dictionaries of these."""
    pictures: Callable[[], Iterable[EvalPicture]] = no_pictures
    """Draws when it is called; nobody calls it who only wants numbers."""
    seeds: tuple[float, ...] = ()
    """The headline of each training seed, where something is trained."""
    resamples: int = RESAMPLES
    """Of the bootstrap; fewer where one score takes long. The result says how many."""
    bootstrap_seed: int = 0
    parts: Mapping[str, "TaskResult"] = field(default_factory=dict)
    """Further results of the same task with a row of their own: one for each head, or shifted test set."""


@dataclass(frozen=True)
class Task:
    """An evaluation by name."""

    name: str
    about: str
    """A few words for lists and error messages."""
    config: type[Config]
    """Its settings, each with a sentence; the defaults are the protocol."""
    run: Callable[[EvalContext, Any], TaskResult]
    """`run(context, config)`; the backbone is in eval mode, on `context.device`, and nothing of it is trained
    unless the task says so. It must leave the weights as they were."""
    on_labelled: bool = False
    """Whether all it asks for are `context.labelled()` and `context.features` of these, not mirrored: a
    training run of several processes then computes them together."""
    layers: Callable[[Any], int] = lambda config: 1
    """How many last blocks it will ask `context.features` for; all tasks share one extraction."""


def mean_score(values: Float[Tensor, " samples"]) -> Score:
    """The score of a metric that is a mean over images, such as accuracy."""
    kept = values.detach().double().cpu()

    def score(picked: Int[Tensor, " picked"]) -> float:
        return float(kept[picked].mean())

    return score


def over_seeds(results: Sequence[TaskResult]) -> TaskResult:
    """Results of several training seeds as one: mean value and mean score, `seeds` the value of each.

    Details and pictures are those of the first seed.
    """
    first = results[0]
    if len(results) == 1:
        return first
    scores = [result.score for result in results]
    values = tuple(result.value for result in results)
    mean = sum(values) / len(values)
    headline = {first.metric: mean} if first.metric in first.details else {}
    return replace(
        first,
        value=mean,
        score=lambda picked: sum(score(picked) for score in scores) / len(scores),
        seeds=values,
        details={**first.details, **headline},
    )
