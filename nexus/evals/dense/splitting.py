"""Training images held out to choose a setting with."""

import torch


def held_out_rows(count: int, share: float, seed: int) -> tuple[list[int], list[int]]:
    """Rows to fit on and rows to choose by: a seeded draw of `share`, at least one image on either side."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    held = min(max(1, round(share * count)), max(1, count - 1))
    return sorted(order[held:] or order), sorted(order[:held])
