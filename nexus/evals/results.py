"""From what a task found to what people read: the entry of `eval.json`, and the rows of the table."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from nexus.evals.bootstrap import bootstrap_scores, percentile_interval
from nexus.evals.task import TaskResult

Entry = dict[str, Any]


def entry(result: TaskResult) -> Entry:
    """The result of one task as JSON holds it: value, interval, samples, chance, seeds, details, parts."""
    scores = bootstrap_scores(result.score, len(result.names), result.resamples, result.bootstrap_seed)
    found: Entry = {
        "metric": result.metric,
        "value": result.value,
        "unit": result.unit,
        "higher_is_better": result.higher_is_better,
        "interval": percentile_interval(scores),
        "resamples": result.resamples,
        "samples": len(result.names),
        "chance": result.chance,
    }
    if result.chance_means:
        found["chance_means"] = result.chance_means
    if result.split:
        found["split"] = result.split
    if len(result.seeds) > 1:
        found["seeds"] = list(result.seeds)
        found["seeds_std"] = float(torch.tensor(result.seeds, dtype=torch.float64).std())
    found |= result.details
    if result.parts:
        found["parts"] = {name: entry(part) for name, part in result.parts.items()}
    return found


ROW = ("metric", "value", "unit", "higher_is_better", "interval", "samples", "chance", "seeds_std", "top1")
"""Keys of an entry that the table shows, where they are there."""


def rows(task: str, sources: Mapping[str, Entry]) -> Iterator[Entry]:
    """The rows of one task: each of `sources` (the model, raw pixels), then the same for each part."""
    for features, found in sources.items():
        yield {"features": features, "task": task, **{key: found[key] for key in ROW if key in found}}
    first = next(iter(sources.values()))
    for name in first.get("parts", {}):
        below = {
            features: found["parts"][name]
            for features, found in sources.items()
            if name in found.get("parts", {})
        }
        yield from rows(f"{task}/{name}", below)
