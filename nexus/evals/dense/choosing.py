"""Heads whose learning rate was chosen on held-out training images, then trained on all of these."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from torch import nn

from nexus.evals.dense.head_config import HeadConfig
from nexus.evals.dense.splitting import held_out_rows

log = logging.getLogger(__name__)

MOST_HELD_OUT = 200
"""Images that choose; predicting at every pixel takes long."""

Head = TypeVar("Head", bound=nn.Module)


def train_with_best_rate(
    config: HeadConfig,
    seeds: Sequence[int],
    name: str,
    images: int,
    fit: Callable[[Sequence[int], Sequence[int], Sequence[float]], list[Head]],
    worth: Callable[[list[Head], Sequence[int]], list[float]],
) -> tuple[tuple[Head, ...], dict[str, Any]]:
    """A head for each seed, trained on all `images`, and what was found out on the way.

    `fit(rows, seeds, rates)` trains heads on some images; `worth(heads, rows)` says how good each is on
    others: a score, or an error with a minus, NaN if it diverged. A single rate is taken as it is; of equal
    ones the larger.
    """
    rates = tuple(dict.fromkeys(config.learning_rates))
    rate, details = rates[0], {}
    if len(rates) > 1:
        kept, held = held_out_rows(images, config.held_out, seeds[0])
        scores = worth(fit(kept, [seeds[0]] * len(rates), rates), held[:MOST_HELD_OUT])
        rate = max((score == score, score, rate) for score, rate in zip(scores, rates, strict=True))[2]
        details["held_out"] = dict(zip(map(str, rates), map(abs, scores), strict=True))
        log.info("%s: learning rate %g is best on %d held-out training images", name, rate, len(held))
    heads = [fit(range(images), [seed], [rate])[0] for seed in seeds]
    return tuple(heads), {**details, "learning_rate": rate}
