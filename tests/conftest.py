"""Shape and type checking of all of nexus while tests run; two threads at most; no network."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from jaxtyping import install_import_hook

import tests.typechecker  # noqa: F401  (the hook below names it)

install_import_hook("nexus", "tests.typechecker.check").__enter__()

import itertools

import pytest
import torch

_NUMBERS = itertools.count()


@pytest.fixture(autouse=True)
def _deterministic() -> None:
    """Each test starts from the same random state."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test finds what another one, or a user, has kept; the folder is made by whoever needs it."""
    name = f"cache-{next(_NUMBERS)}"
    monkeypatch.setenv("NEXUS_CACHE", str(tmp_path_factory.getbasetemp() / name))
