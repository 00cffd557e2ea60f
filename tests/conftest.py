"""Shape and type checking of all of nexus while tests run; two threads at most; no network.

What numba compiles is kept among pytest's own files, for all tests and all sessions.
"""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from jaxtyping import install_import_hook

import tests.typechecker  # noqa: F401  (the hook below names it)

install_import_hook("nexus", "tests.typechecker.check").__enter__()

import itertools

import hypothesis
import pytest
import torch

_NUMBERS = itertools.count()

# The same examples each time where a failure stops everybody; at home hypothesis goes on searching.
hypothesis.settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    hypothesis.settings.load_profile("ci")


def pytest_configure(config: pytest.Config) -> None:
    """The loops of nexus.data.crops.native are compiled once for all tests, and the processes they start."""
    if hasattr(config, "cache"):
        os.environ.setdefault("NUMBA_CACHE_DIR", str(config.cache.mkdir("compiled-loops")))


@pytest.fixture(autouse=True)
def _deterministic() -> None:
    """Each test starts from the same random state."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test finds what another one, or a user, has kept; the folder is made by whoever needs it."""
    name = f"cache-{next(_NUMBERS)}"
    monkeypatch.setenv("NEXUS_CACHE", str(tmp_path_factory.getbasetemp() / name))
