"""What the light paths load: the start-up times of the command line follow from the modules it
imports.

Times are printed (run with -s), not asserted: they belong to the machine. The sets of modules do
not.
"""

import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "examples" / "digits" / "mlp.grad"
HEAVY = {
    "flint",
    "jax",
    "lark",
    "llvmlite",
    "matplotlib",
    "mpi4py",
    "numba",
    "numpy",
    "onnx",
    "rich",
    "safetensors",
    "sympy",
    "torch",
}


def loaded(*arguments: str) -> set[str]:
    """The modules that `python ARGUMENTS` imports, from -X importtime; the wall time is printed."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - started
    print(f"python {' '.join(arguments)}: {1000 * seconds:.0f} ms")
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rsplit("|", 1)[1].strip() for line in lines}


def tops(modules: set[str]) -> set[str]:
    return {name.split(".")[0] for name in modules}


def test_the_probe_sees_imports() -> None:
    """A probe that saw nothing would let everything pass."""
    assert {"json", "json.decoder"} <= loaded("-c", "import json")


def test_import_gradc_loads_only_the_face() -> None:
    modules = loaded("-c", "import gradc; gradc.__version__")
    assert {name for name in modules if name.startswith("gradc")} == {"gradc", "gradc._version"}
    assert not tops(modules) & HEAVY


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_and_version_load_nothing_heavy(flag: str) -> None:
    modules = loaded("-m", "gradc", flag)
    assert not tops(modules) & HEAVY
    assert not {name for name in modules if name.startswith(("gradc.passes", "gradc.codegen"))}


def test_check_loads_only_the_front_end() -> None:
    modules = loaded("-m", "gradc", "check", str(MODEL))
    assert not tops(modules) & (HEAVY - {"lark"})
    assert not {name for name in modules if name.startswith("gradc.codegen")}
    assert not {name for name in modules if name.startswith("gradc.passes")}
    runtime = {name for name in modules if name.startswith("gradc.runtime.")}
    # Modules found by name, as subcommands are, are not in the listing; what they import is.
    assert runtime == {
        f"gradc.runtime.{name}" for name in ("cli", "console", "files", "files.read", "needs")
    }


@pytest.mark.parametrize("arguments", [("explain", "GC0602"), ("explain", "--help")])
def test_explaining_a_code_loads_no_compiler(arguments: tuple[str, ...]) -> None:
    modules = loaded("-m", "gradc", *arguments)
    assert not tops(modules) & (HEAVY - {"lark", "numpy"})
    assert not {name for name in modules if name.startswith(("gradc.passes", "gradc.codegen"))}


WARM = f"""
import numpy as np, gradc
net = gradc.load({str(MODEL)!r})
x, y = np.zeros((2, *net.inputs["x"].shape[1:]), np.float32), np.zeros(2, np.int32)
net.value_and_grad()(net.init(0), x=x, y=y)
import sys
from gradc.frontend.syntax.parse import grammar
sys.stderr.write(f"import time: 0 | 0 | {{'parsed' if grammar.cache_info().misses else ''}}\\n")
"""


def test_a_warm_call_loads_no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in the cache is called without the passes that made it, proofs or reports, and its
    program is not parsed again.
    """
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cold = loaded("-c", WARM)
    warm = loaded("-c", WARM)
    unwanted = ("lower", "fuse", "place", "budget", "pipeline", "prove", "hazards")
    packages = tuple(f"gradc.passes.{name}" for name in unwanted)
    writers = ("gradc.codegen.llvm.driver", "gradc.codegen.symbolic", "gradc.runtime.reports")
    assert {name for name in cold if name.startswith(packages)}
    assert "llvmlite.binding" in cold
    assert "parsed" in cold and "parsed" not in warm
    assert not {name for name in warm if name.startswith((*packages, *writers))}
    assert not tops(warm) & (HEAVY - {"lark", "llvmlite", "numpy"})
    # The cache knows what machine this is, where the system describes its processor.
    assert "llvmlite.binding" not in warm or not Path("/proc/cpuinfo").exists()
