"""Memory against time of a 12-block GPT: gradc's Pareto front beside torch.utils.checkpoint and
jax.checkpoint.

    python -m benchmarks.memory [--blocks 12] [--tokens 256] [--against torch,jax] [--json FILE]
    [--svg FILE] python -m benchmarks.memory --results FILE [--svg FILE] [--markdown]

Every way runs in a process of its own. After two warm-up steps the peak of resident memory is reset
(/proc/self/clear_refs), one step runs, and the growth over the idle process is what the step
needed, results included; gradc's arena, which it keeps between calls, is counted as growth. Times
are medians of five steps. Linux only.
"""

import argparse
import ctypes
import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.cases import MODELS, Arrays
from benchmarks.chart import Mark, Series, scatter

WIDTH, HEADS, VOCABULARY, BATCH = 256, 8, 512, 4
WAYS = {
    "torch": ("torch", "torch checkpoint each block", "torch checkpoint every 3 blocks"),
    "jax": ("jax", "jax checkpoint each block", "jax checkpoint every 3 blocks"),
}


def dims(blocks: int, tokens: int) -> dict[str, int]:
    return {
        "B": BATCH,
        "T": tokens,
        "V": VOCABULARY,
        "D": WIDTH,
        "N": HEADS,
        "L": blocks,
    }


def net(blocks: int, tokens: int) -> Any:
    import gradc

    return gradc.load(MODELS / "gpt.grad", dims=dims(blocks, tokens))


def inputs(tokens: int) -> Arrays:
    rng = np.random.default_rng(1)
    shape = (BATCH, tokens)
    return {
        name: rng.integers(0, VOCABULARY, shape).astype(np.int32) for name in ("tokens", "targets")
    }


# --- the ways to compute loss and gradients


def gradc_step(blocks: int, tokens: int, budget: int | None) -> tuple[Callable[[], object], int]:
    """The step, and the bytes of the arena it keeps."""
    model = net(blocks, tokens)
    params, data = model.init(0), inputs(tokens)
    compiled = model.value_and_grad(budget=budget, threads=2)
    compiled(params, **data)
    arena = int(compiled.entry(data).native.signature.arena_bytes)
    return lambda: compiled(params, **data), arena


def torch_step(blocks: int, tokens: int, group: int) -> Callable[[], object]:
    """Blocks in groups of ``group`` under torch.utils.checkpoint; 0 is without."""
    import torch
    from torch.nn import functional as fn
    from torch.utils.checkpoint import checkpoint

    from benchmarks.twins_torch import attention, dense, is_transposed, layernorm

    torch.set_num_threads(2)
    values = net(blocks, tokens).init(0)
    p = {
        name: torch.tensor(a.T.copy() if is_transposed(name) else a, requires_grad=True)
        for name, a in values.items()
    }
    data = {name: torch.tensor(a, dtype=torch.int64) for name, a in inputs(tokens).items()}

    def some(h: Any, first: int, last: int) -> Any:
        for i in range(first, last):
            b = f"blocks.{i}"
            h = h + attention(p, f"{b}.attn", layernorm(p, f"{b}.ln1", h))
            up = dense(p, f"{b}.up", layernorm(p, f"{b}.ln2", h))
            h = h + dense(p, f"{b}.down", fn.gelu(up))
        return h

    def step() -> object:
        h = fn.embedding(data["tokens"], p["wte"]) + p["wpe"]
        for i in range(0, blocks, group or blocks):
            if group:
                h = checkpoint(some, h, i, min(i + group, blocks), use_reentrant=False)
            else:
                h = some(h, 0, blocks)
        logits = fn.linear(layernorm(p, "lnf", h), p["wte"])
        loss = fn.cross_entropy(logits.flatten(0, 1), data["targets"].flatten())
        return loss, torch.autograd.grad(loss, list(p.values()))

    return step


def jax_step(blocks: int, tokens: int, group: int) -> Callable[[], object]:
    """The same under jax.checkpoint, compiled."""
    import jax

    from benchmarks.twins_jax import attention, cross_entropy, dense, layernorm

    values = net(blocks, tokens).init(0)
    p = {name: jax.numpy.asarray(a) for name, a in values.items()}
    data = {name: jax.numpy.asarray(a) for name, a in inputs(tokens).items()}

    def some(p: Any, h: Any, first: int, last: int) -> Any:
        for i in range(first, last):
            b = f"blocks.{i}"
            h = h + attention(p, f"{b}.attn", layernorm(p, f"{b}.ln1", h))
            up = dense(p, f"{b}.up", layernorm(p, f"{b}.ln2", h))
            h = h + dense(p, f"{b}.down", jax.nn.gelu(up, approximate=False))
        return h

    def loss(p: Any, d: Any) -> Any:
        h = p["wte"][d["tokens"]] + p["wpe"]
        for i in range(0, blocks, group or blocks):
            last = min(i + (group or blocks), blocks)
            run = jax.checkpoint(some, static_argnums=(2, 3)) if group else some
            h = run(p, h, i, last)
        return cross_entropy(layernorm(p, "lnf", h) @ p["wte"].T, d["targets"])

    gradient = jax.jit(jax.value_and_grad(loss))
    return lambda: jax.block_until_ready(gradient(p, data))


# --- measuring


def _status(field: str) -> int:
    """Bytes of a field of /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field} in /proc/self/status")


def measure(step: Callable[[], object], kept: int) -> dict[str, float]:
    """Growth of the peak over one step in bytes, and the median time of five in seconds."""
    for _ in range(2):
        step()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    idle = _status("VmRSS") - kept
    Path("/proc/self/clear_refs").write_text("5")
    held = step()
    peak = _status("VmHWM")
    del held
    times = []
    for _ in range(5):
        started = time.perf_counter()
        step()
        times.append(time.perf_counter() - started)
    return {"bytes": peak - idle, "seconds": statistics.median(times)}


def here(way: str, blocks: int, tokens: int) -> dict[str, float]:
    """Measures one way in this process."""
    if way.startswith("gradc"):
        budget = way.partition(":")[2]
        step, arena = gradc_step(blocks, tokens, int(budget) if budget else None)
        return {**measure(step, arena), "arena": arena}
    group = 1 if "each" in way else 3 if "every 3" in way else 0
    make = torch_step if way.startswith("torch") else jax_step
    return measure(make(blocks, tokens, group), 0)


def in_fresh_process(way: str, blocks: int, tokens: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.memory", "--here", way]
    command += ["--blocks", str(blocks), "--tokens", str(tokens)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"error": 1.0}
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def gradc_ways(blocks: int, tokens: int) -> list[str]:
    """No budget, and the budget of each point of the Pareto front."""
    from gradc.passes.budget import pareto
    from gradc.runtime.native.compile import compile_options, pipeline_options

    model = net(blocks, tokens)
    asked = pipeline_options(model.gradient_of("params"), compile_options())
    points = pareto(model.lower().function, asked)
    return ["gradc", *(f"gradc:{point.peak_bytes}" for point in points[1:])]


# --- showing


Rows = dict[str, dict[str, float]]


def shown(way: str) -> str:
    """The name of a row; budgets in MiB."""
    system, _, budget = way.partition(":")
    return f"{system}, budget {int(budget) / 2**20:.1f} MiB" if budget else way


def table(rows: Rows) -> Table:
    made = Table(title="One step: loss and all gradients", title_justify="left")
    made.add_column("way", no_wrap=True)
    for head in ("peak MiB", "ms", "planned arena MiB"):
        made.add_column(head, justify="right")
    for way, row in rows.items():
        if "error" in row:
            made.add_row(shown(way), "could not run")
            continue
        arena = f"{row['arena'] / 2**20:.1f}" if "arena" in row else ""
        figures = (f"{row['bytes'] / 2**20:.1f}", f"{1e3 * row['seconds']:.1f}", arena)
        made.add_row(shown(way), *figures)
    return made


def markdown(rows: Rows) -> str:
    """The table of docs/memory.md."""
    lines = ["| way | peak, MiB | step, ms | planned arena, MiB |", "|---|---|---|---|"]
    for way, row in rows.items():
        arena = f"{row['arena'] / 2**20:.1f}" if "arena" in row else ""
        if "error" not in row:
            figures = f"{row['bytes'] / 2**20:.1f} | {1e3 * row['seconds']:.0f} | {arena}"
            lines.append(f"| {shown(way)} | {figures} |")
    return "\n".join(lines)


def chart(rows: Rows) -> str:
    """Step time against memory: gradc's budgets as a line, the peers as points."""
    series = []
    for system in ("gradc", *WAYS):
        found = []
        for way, row in rows.items():
            if not way.startswith(system) or "error" in row:
                continue
            mib, ms = row["bytes"] / 2**20, 1e3 * row["seconds"]
            label = "no budget" if way == "gradc" else way.removeprefix(system).strip() or "plain"
            label = "" if ":" in way else label
            found.append(Mark(mib, ms, label, f"{shown(way)}: {mib:.1f} MiB, {ms:.1f} ms"))
        if system == "gradc":
            found.sort(key=lambda mark: -mark.x)
        if found:
            series.append(Series(system, found, is_front=system == "gradc"))
    title = "Loss and gradients of a GPT: time against memory"
    return scatter(title, "growth of peak memory over one step, MiB", "step, ms", series)


def measured(options: argparse.Namespace) -> Rows:
    """All ways, one after the other."""
    console = Console(stderr=True)
    with console.status("planning every budget"):
        ways = gradc_ways(options.blocks, options.tokens)
    for peer in filter(None, options.against.split(",")):
        ways += WAYS[peer]
    return {
        way: in_fresh_process(way, options.blocks, options.tokens)
        for way in track(ways, "measuring, each way in a process of its own", console=console)
    }


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--against", default="torch,jax")
    parser.add_argument("--json", metavar="FILE", type=Path)
    parser.add_argument("--svg", metavar="FILE", type=Path)
    parser.add_argument("--results", metavar="FILE", type=Path, help="show those of an earlier run")
    parser.add_argument("--markdown", action="store_true", help="print the table of docs/memory.md")
    parser.add_argument("--here", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.here:
        print(json.dumps(here(options.here, options.blocks, options.tokens)))
        return 0
    unknown = [peer for peer in filter(None, options.against.split(",")) if peer not in WAYS]
    if unknown:
        parser.error(f"no peer {', '.join(unknown)}; there are {', '.join(WAYS)}")
    rows: Rows = json.loads(options.results.read_text()) if options.results else measured(options)
    if options.markdown:
        print(markdown(rows))
    else:
        console = Console()
        (console if console.is_terminal else Console(width=100)).print(table(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")
    if options.svg:
        options.svg.write_text(chart(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
