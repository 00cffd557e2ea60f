"""Shape and type checking of all of nexus while tests run; two threads at most; no network."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from jaxtyping import install_import_hook

import tests.typechecker  # noqa: F401  (the hook below names it)

install_import_hook("nexus", "tests.typechecker.check").__enter__()

import pytest
import torch


@pytest.fixture(autouse=True)
def _deterministic() -> None:
    """Each test starts from the same random state."""
    torch.manual_seed(0)
