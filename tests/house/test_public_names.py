"""The front door: names, laziness, and functions that no submodule hides. In fresh interpreters."""

import subprocess
import sys

import pytest

import nexus
from tests.house.sources import modules

HEAVY = ("torch", "numpy", "torchvision", "PIL", "pydantic", "yaml", "rich", "matplotlib", "pyarrow")


def fresh(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_all_names_can_be_imported_and_nothing_else_is_promised() -> None:
    doors = ["convert", "doctor", "embed", "evaluate", "export", "load", "plan", "train"]
    assert sorted(nexus.__all__) == ["__version__", *doors]
    for name in nexus.__all__:
        assert getattr(nexus, name) is not None


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="trian"):
        nexus.trian  # noqa: B018


def test_importing_the_package_imports_nothing_heavy() -> None:
    loaded = fresh(f"import sys, nexus; print([name for name in {HEAVY} if name in sys.modules])")
    assert loaded == "[]"


def test_no_submodule_hides_a_door() -> None:
    """Importing `nexus.x` sets the attribute `x` of nexus, whatever it was before."""
    submodules = {name.split(".")[1] for name in modules() if "." in name}
    assert not submodules & set(nexus.__all__)


def test_the_doors_are_functions_after_their_modules_were_imported() -> None:
    code = (
        "import nexus, nexus.embedding, nexus.evals.evaluation, nexus.exporting.exporter\n"
        "import nexus.training.launch, nexus.weights\n"
        "print(*(type(getattr(nexus, name)).__name__ for name in nexus.__all__[1:]))"
    )
    assert fresh(code) == " ".join(["function"] * len(nexus.__all__[1:]))


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom nexus.cli import run\n"
        "codes = [run(words) for words in ([], ['--help'], ['train', '--help'], ['--version'])]\n"
        "heavy = [n for n in ('torch', 'numpy', 'torchvision', 'PIL', 'yaml') if n in sys.modules]\n"
        "print(codes, heavy)"
    )
    assert fresh(code).splitlines()[-1] == "[0, 0, 0, 0] []"
