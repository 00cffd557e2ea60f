"""Fair timing on a shared machine: rounds interleaved, CPU time, medians."""

import statistics
import time
from collections.abc import Callable, Mapping


def interleaved(
    candidates: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 1
) -> dict[str, float]:
    """Median CPU seconds of one call of each candidate; the candidates take turns."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(warmup + rounds):
        for name, call in candidates.items():
            began = time.process_time()
            call()
            if turn >= warmup:
                times[name].append(time.process_time() - began)
    return {name: statistics.median(values) for name, values in times.items()}


def table(seconds: Mapping[str, float], items: int, unit: str) -> str:
    """A Markdown table of rates and of ratios to the first candidate."""
    first = next(iter(seconds.values()))
    lines = [f"| variant | {unit} per CPU second | ratio |", "|---|---|---|"]
    for name, value in seconds.items():
        lines.append(f"| {name} | {items / value:.1f} | {first / value:.2f} |")
    return "\n".join(lines)
