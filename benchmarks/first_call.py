"""How long a user waits for the first result: `python -m benchmarks.first_call MODEL CONTENDER THREADS`.

Prints JSON: seconds from the model to its first loss and gradients, in a fresh process, imports not
counted, with an empty cache and again with the cache that the first left behind. JAX keeps no cache on
disk unless asked, so it is asked.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from importlib import import_module

from benchmarks.cases import CASES

LIBRARY = {"gradc": "gradc.runtime.api", "torch": "torch", "torch.compile": "torch", "jax": "jax"}


def first_result(model: str, contender: str, threads: int) -> float:
    """Seconds from the model to its first result, in this process."""
    import_module(LIBRARY[contender])
    makers = import_module("benchmarks.contenders").MAKERS
    started = time.perf_counter()
    makers[contender](CASES[model], threads).step()
    return time.perf_counter() - started


def in_fresh_process(model: str, contender: str, threads: str, cache: str) -> float:
    """The same in a process of its own whose caches lie in the folder `cache`."""
    environment = os.environ | {
        "XDG_CACHE_HOME": cache,
        "TORCHINDUCTOR_CACHE_DIR": cache,
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command = [sys.executable, "-m", "benchmarks.first_call", model, contender, threads, "here"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def main(arguments: list[str]) -> None:
    model, contender, threads = arguments[:3]
    if arguments[3:] == ["here"]:
        print(first_result(model, contender, int(threads)))
        return
    with tempfile.TemporaryDirectory() as cache:
        cold = in_fresh_process(model, contender, threads, cache)
        warm = in_fresh_process(model, contender, threads, cache)
    print(json.dumps({"cold_seconds": cold, "warm_seconds": warm}))


if __name__ == "__main__":
    main(sys.argv[1:])
