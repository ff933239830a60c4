"""``gradc doctor``: what this machine offers, and whether compiling works here."""

from __future__ import annotations

import argparse
import platform
import shutil
import sys
import time
from importlib.metadata import PackageNotFoundError, version

from gradc._version import __version__
from gradc.codegen.backend import backend
from gradc.runtime.commands.flags import add_target
from gradc.runtime.console import Console
from gradc.runtime.native.cache import ObjectCache
from gradc.runtime.native.compile import compile_options, usable_cores
from gradc.runtime.native.limits import described, limits
from gradc.runtime.tracing.transforms import value_and_grad

NEEDED = ("numpy", "llvmlite", "lark", "sympy", "python-flint", "rich", "safetensors")
OPTIONAL = ("torch", "jax", "numba-cuda", "nvidia-nvvm", "nvidia-nvjitlink")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_target(parser)
    parser.add_argument("--json", action="store_true", help="the findings as JSON")
    parser.add_argument(
        "--measure", action="store_true", help="measure peak and bandwidth again (a few seconds)"
    )


def run(options: argparse.Namespace, console: Console) -> int:
    """Prints versions and features; compiles and runs a small gradient. Status 1 if that fails."""
    works, detail = _self_test(options.target)
    info = ObjectCache().info()
    facts = {
        "gradc": __version__,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "cpu": backend("cpu").about(),
        "cores": str(usable_cores()),
        **{
            f"limits, {n} thread{'s' * (n > 1)}": described(
                limits(n, anew=options.measure, report=console.message)
            )
            for n in sorted({1, compile_options().thread_count})
        },
        "C compiler": shutil.which("cc") or "none (gradc compile then gives objects only)",
        "GPU": backend("cuda").about(),
        "cache": info.problem or f"{info.directory}, {info.entries} entries, {info.nbytes} bytes",
        "self-test": detail,
        **{name: _version(name) for name in NEEDED},
        **{f"{name} (optional)": _version(name) for name in OPTIONAL},
    }
    if options.json:
        console.json({"ok": works, **facts})
    else:
        for name, value in facts.items():
            console.result(f"{name:<22} {value}")
    return 0 if works else 1


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _self_test(target: str) -> tuple[bool, str]:
    """Compiles d(x^2)/dx and evaluates it at 3, past the cache."""
    started = time.perf_counter()
    try:
        value, slope = value_and_grad(lambda x: x * x, use_cache=False, target=target)(3.0)
    except Exception as problem:  # noqa: BLE001  (whatever is wrong here is the finding)
        return False, f"FAILED: {type(problem).__name__}: {problem}"
    milliseconds = 1e3 * (time.perf_counter() - started)
    works = (float(value), float(slope)) == (9.0, 6.0)
    shown = f"x*x at 3 gives {float(value):g} and {float(slope):g}"
    return works, f"{shown}, compiled in {milliseconds:.0f} ms" if works else f"FAILED: {shown}"
