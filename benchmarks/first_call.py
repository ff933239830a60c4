"""How long a user waits for the first result: `python -m benchmarks.first_call MODEL CONTENDER
THREADS`.

Prints JSON: seconds from the model to its first loss and gradients, by the clock and of the
processor (all threads), in a fresh process, imports not counted, with an empty cache and again with
the cache that the first left behind (JAX keeps no cache on disk unless asked, so it is asked); and
by how many MiB the peak of resident memory grew from after the imports to after three steps, in the
second of these processes.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from importlib import import_module

from benchmarks.cases import CASES

# What is imported before the clock starts; gradc loads its passes and LLVM late, and they count as
# imports too.
LIBRARIES = {
    "gradc": (
        "gradc.runtime.api",
        "gradc.passes.budget",
        "gradc.codegen.llvm.driver",
        "llvmlite.binding",
    ),
    "torch": ("torch",),
    "torch.compile": ("torch",),
    "jax": ("jax",),
}


def peak_mib() -> float:
    """The largest resident size this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def first_result(model: str, contender: str, threads: int) -> tuple[float, float, float]:
    """Seconds from the model to its first result in this process, those of the processor, and
    growth of the peak in MiB.
    """
    for library in LIBRARIES[contender]:
        import_module(library)
    makers = import_module("benchmarks.contenders").MAKERS
    before = peak_mib()
    started, worked = time.perf_counter(), time.process_time()
    made = makers[contender](CASES[model], threads)
    made.step()
    seconds, work = time.perf_counter() - started, time.process_time() - worked
    for _ in range(2):
        made.step()
    return seconds, work, peak_mib() - before


def in_fresh_process(model: str, contender: str, threads: str, cache: str) -> list[float]:
    """The same in a process of its own whose caches lie in the folder `cache`."""
    environment = os.environ | {
        "XDG_CACHE_HOME": cache,
        "TORCHINDUCTOR_CACHE_DIR": cache,
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command = [sys.executable, "-m", "benchmarks.first_call", model, contender, threads, "here"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found: list[float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(arguments: list[str]) -> None:
    model, contender, threads = arguments[:3]
    if arguments[3:] == ["here"]:
        print(json.dumps(first_result(model, contender, int(threads))))
        return
    with tempfile.TemporaryDirectory() as cache:
        cold, cold_work, _ = in_fresh_process(model, contender, threads, cache)
        warm, warm_work, peak = in_fresh_process(model, contender, threads, cache)
    found = {"cold_seconds": cold, "warm_seconds": warm, "peak_mib": peak}
    print(json.dumps({**found, "cold_cpu": cold_work, "warm_cpu": warm_work}))


if __name__ == "__main__":
    main(sys.argv[1:])
