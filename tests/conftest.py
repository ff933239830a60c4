"""What all tests share: the markers `gpu` and `mpi` skip where the machine lacks the thing, saying
so.
"""

import ctypes
import importlib.util
import shutil
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support import durations

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def root() -> Path:
    """The folder that holds pyproject.toml."""
    return ROOT


@cache
def missing_gpu() -> str:
    """Why no CUDA device can be used, or an empty string; asks the driver and loads nothing
    else.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no CUDA driver on this machine"
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return "the CUDA driver does not start"
    if count.value == 0:
        return "no CUDA device on this machine"
    return "" if importlib.util.find_spec("numba_cuda") else "numba-cuda is not installed"


@cache
def missing_mpi() -> str:
    """Why ranks cannot be started, or an empty string."""
    if find_spec("mpi4py") is None:
        return "mpi4py is not installed: pip install 'gradc[mpi]'"
    beside = Path(sys.executable).parent / "mpiexec"
    return "" if beside.exists() or shutil.which("mpiexec") else "mpiexec is not on the path"


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--bless` rewrites the golden files (tests/golden) from what the tests see; `--measure`
    writes tests/durations.tsv, by which tests are marked `slow`.
    """
    parser.addoption("--bless", action="store_true", default=False, help="rewrite golden files")
    parser.addoption(
        "--measure", action="store_true", default=False, help="write tests/durations.tsv"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Sets up `--measure`."""
    if config.getoption("--measure"):
        config.pluginmanager.register(durations.Measure())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what is slow, by what was measured."""
    durations.mark_slow(items)
    # Asked before any test loads the driver double, which has the driver's name from then on.
    if any(item.get_closest_marker("gpu") is not None for item in items):
        missing_gpu()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests whose marker names something this machine lacks."""
    for marker, missing in (("gpu", missing_gpu), ("mpi", missing_mpi)):
        if item.get_closest_marker(marker) is not None and missing():
            pytest.skip(missing())
