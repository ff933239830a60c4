"""Mutation fuzz of the front end: programs that are almost right must get diagnostics and nothing
else.

    python -m tests.support.fuzz_programs --count 100000 --seed 0        # prints each failure,
    minimised

Three kinds of mutants are made from the programs of the house, and more often from parts of them
(a declaration with what it names, which takes a tenth of the time): of bytes, of tokens, and of the
syntax tree (which still parses, so the checks behind the parser get their share). A failure is
an exception other than DiagnosticError, a diagnostic that cannot be rendered or points outside the
text, or more than ``TIME_LIMIT`` seconds of processor time. Minimised failures belong into
``tests/corpus``."""

from __future__ import annotations

import argparse
import random
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from gradc.frontend.program import Program, loads
from gradc.frontend.syntax import tree as s
from gradc.frontend.syntax.diagnostics import Diagnostic, DiagnosticError
from gradc.frontend.syntax.parse import parse_text
from gradc.frontend.syntax.source import decode
from gradc.frontend.syntax.unparse import unparse
from gradc.frontend.syntax.walk import walk
from gradc.ir.diagnostics.render import render_all
from gradc.ir.diagnostics.source import Sources

ROOT = Path(__file__).resolve().parent.parent.parent
TIME_LIMIT = 2.0
_TOKEN = re.compile(
    r"[A-Za-z_]\w*|\d[\w.]*|\"[^\"\n]*\"|#[^\n]*|\s+|[-=/<>!]=|->|//|\.\.\.|.", re.DOTALL
)
_VOCABULARY = [
    "model",
    "layer",
    "fn",
    "dim",
    "use",
    "param",
    "state",
    "output",
    "return",
    "yield",
    "if",
    "else",
    "for",
    "in",
    "scan",
    "carry",
    "truncate",
    "checkpoint",
    "pullback",
    "optimizer",
    "schedule",
    "initializer",
    "import",
    "and",
    "or",
    "not",
    "true",
    "false",
    "apply",
    "update",
    "at",
    "sample",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ",",
    ":",
    ";",
    "=",
    "~",
    "->",
    "+",
    "-",
    "*",
    "/",
    "//",
    "%",
    "@",
    "^",
    "<",
    "<=",
    "==",
    "!=",
    "...",
    ".",
    "T",
    "0",
    "1",
    "-1",
    "2",
    "1e-5",
    "1e999",
    "9223372036854775807",
    '"ij,jk->ik"',
    '""',
    "#",
    "\n",
    "**",
    "+=",
    "float",
    "int",
    "bool",
    "f16",
    "None",
    "True",
    "self",
    "inf",
    "pi",
    "training",
    "mean",
    "sum",
    "softmax",
    "reshape",
    "split",
    "concat",
    "where",
    "einsum",
    "dropout",
    "dense",
    "axis",
    "keepdims",
    "B",
    "D",
    "x",
    "y",
    "h",
]


@dataclass(frozen=True)
class Failure:
    """What went wrong with one mutant."""

    text: str
    reason: str


@cache
def seeds() -> tuple[str, ...]:
    """The programs that mutants are made of, the standard library among them."""
    found: list[str] = []
    for folder in ("tests/programs", "examples", "frontend/stdlib"):
        for path in sorted((ROOT / folder).rglob("*.grad")):
            found.append(path.read_text(encoding="utf-8"))
    return tuple(found)


_NAMED = (s.Model, s.Function, s.Layer, s.Optimizer, s.Schedule, s.Initializer)


@cache
def parts() -> tuple[s.Program, ...]:
    """Each declaration of the programs, with those of its file that it names, directly or not."""
    found = []
    for tree in _trees():
        named = {d.name.text: d for d in tree.declarations if isinstance(d, _NAMED)}
        for first, declaration in named.items():
            wanted, todo = {first}, [declaration]
            while todo:
                words = {n.text for n in walk(todo.pop()) if isinstance(n, s.Name)}
                new = words & named.keys() - wanted
                todo += [named[word] for word in sorted(new)]
                wanted |= new
            kept = (
                d for d in tree.declarations if not isinstance(d, _NAMED) or d.name.text in wanted
            )
            found.append(replace(tree, declarations=tuple(kept)))
    return tuple(found)


@cache
def _pools() -> tuple[tuple[s.Program, ...], ...]:
    """What mutants are made of: parts with a model and other parts as often as each other, whole
    programs a quarter as often.
    """
    models = tuple(t for t in parts() if any(isinstance(d, s.Model) for d in t.declarations))
    others = tuple(t for t in parts() if t not in models)
    return (*[models] * 4, *[others] * 4, _trees())


@cache
def _text(tree: s.Program) -> str:
    return unparse(tree)


def _tree_of(rng: random.Random) -> s.Program:
    return rng.choice(rng.choice(_pools()))


def text_of(rng: random.Random) -> str:
    """What a mutant of bytes or words is made of: a program of the house, or a part of one."""
    return _text(_tree_of(rng))


# --- mutations


def mutate_bytes(rng: random.Random) -> bytes:
    """A program with a few of its bytes changed, moved, lost or repeated."""
    data = bytearray(text_of(rng).encode())
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(data) + 1)
        stop = min(len(data), start + rng.randint(0, 12))
        kind = rng.randrange(5)
        if kind == 0:
            data[start:stop] = b""
        elif kind == 1:
            data[start:start] = bytes(rng.randrange(256) for _ in range(rng.randint(1, 3)))
        elif kind == 2:
            data[start:start] = data[start:stop]
        elif kind == 3 and start < len(data):
            data[start] ^= 1 << rng.randrange(8)
        else:
            data[start:stop] = bytes(rng.choice(b"(){}[],;:=~.*^\n \t\"#'\\0") for _ in range(2))
    return bytes(data)


def mutate_tokens(rng: random.Random) -> bytes:
    """A program with a few of its words changed, moved, lost or repeated."""
    words = _TOKEN.findall(text_of(rng))
    for _ in range(rng.randint(1, 4)):
        position = rng.randrange(len(words))
        kind = rng.randrange(5)
        if kind == 0:
            del words[position : position + rng.randint(1, 3)]
        elif kind == 1:
            words.insert(position, f" {rng.choice(_VOCABULARY)} ")
        elif kind == 2:
            words[position] = rng.choice(_VOCABULARY)
        elif kind == 3:
            other = rng.randrange(len(words))
            words[position], words[other] = words[other], words[position]
        else:
            words[position:position] = words[position : position + rng.randint(1, 20)]
        words = words or [""]
    return "".join(words).encode()


@cache
def _trees() -> tuple[s.Program, ...]:
    return tuple(parse_text(text) for text in seeds())


@cache
def _pool() -> dict[type[s.Node], tuple[s.Node, ...]]:
    """Nodes of all programs by what they may stand in for."""
    kinds: tuple[type[s.Node], ...] = (
        s.Name,
        s.Expr,
        s.Statement,
        s.TypeExpr,
        s.Parameter,
        s.Method,
    )
    nodes = [node for tree in _trees() for node in walk(tree)]
    return {kind: tuple(n for n in nodes if isinstance(n, kind)) for kind in kinds}


def mutate_tree(rng: random.Random) -> bytes:
    """A program with a few parts of its tree exchanged for parts of other programs; it parses."""
    tree = _tree_of(rng)
    if rng.random() < 0.3:
        tree = replace(tree, declarations=tree.declarations + _tree_of(rng).declarations)
    for _ in range(rng.randint(1, 3)):
        nodes = [node for node in walk(tree) if _kind(node) is not None]
        if not nodes:
            break
        target = rng.choice(nodes)
        kind = _kind(target)
        assert kind is not None
        new: s.Node | None = rng.choice(_pool()[kind])
        if isinstance(target, s.IntLiteral):
            new = replace(target, value=rng.choice((0, 1, 2, 3, 7, 10**6, 2**31, 2**63 - 1)))
        if isinstance(target, s.Statement) and rng.random() < 0.3:
            new = None
        changed = exchanged(tree, target, new)
        assert isinstance(changed, s.Program)
        tree = changed
    return unparse(tree).encode()


def _kind(node: s.Node) -> type[s.Node] | None:
    for kind in (s.Name, s.Expr, s.Statement, s.TypeExpr, s.Parameter):
        if isinstance(node, kind):
            return kind
    return None


def exchanged(node: s.Node, target: s.Node, new: s.Node | None) -> s.Node:
    """``node`` with ``target`` (by identity) replaced by ``new``, or left out of its list."""
    changes: dict[str, Any] = {}
    for item in fields(node):
        value = getattr(node, item.name)
        if value is target and new is not None:
            changes[item.name] = new
        elif isinstance(value, s.Node):
            inner = exchanged(value, target, new)
            if inner is not value:
                changes[item.name] = inner
        elif isinstance(value, tuple):
            parts = tuple(_parts(value, target, new))
            if len(parts) != len(value) or any(
                a is not b for a, b in zip(parts, value, strict=True)
            ):
                changes[item.name] = parts
    return replace(node, **changes) if changes else node


def _parts(value: Sequence[s.Node], target: s.Node, new: s.Node | None) -> Iterator[s.Node]:
    for part in value:
        if part is not target:
            yield exchanged(part, target, new)
        elif new is not None:
            yield new


MUTATIONS: tuple[Callable[[random.Random], bytes], ...] = (mutate_bytes, mutate_tokens, mutate_tree)


# --- the oracle


def examine(data: bytes) -> str:
    """What is wrong with how the front end takes ``data``; empty if nothing is."""
    return looked_at(data)[0]


def looked_at(data: bytes, limit: float = TIME_LIMIT) -> tuple[str, Program | None]:
    """What is wrong with how the front end takes ``data`` (more than ``limit`` seconds among it),
    and the program if it is right.
    """
    start = time.process_time()
    try:
        found, sources, program = _findings(data)
        reason = _badly_told(found, sources)
    except RecursionError:
        return "RecursionError", None
    except Exception:  # noqa: BLE001 - any exception at all is what is looked for
        return traceback.format_exc(limit=-6), None
    seconds = time.process_time() - start
    return reason or (f"took {seconds:.1f} s" if seconds > limit else ""), program


def _findings(data: bytes) -> tuple[Sequence[Diagnostic], Sources, Program | None]:
    """What checking ``data`` finds, errors or warnings, the texts that are quoted, the program if
    it is right.
    """
    try:
        source = decode(data, "mutant.grad")
        program = loads(source.text, "mutant.grad")
        found = program.check()
        for entry in program.models:
            dims = program.signature(entry).dims
            program.lower(entry, {name: 4 for name, value in dims.items() if value is None})
        return found, program.report.sources, program
    except DiagnosticError as problem:
        assert problem.diagnostics, "an error without a diagnostic"
        return problem.diagnostics, problem.sources, None


def _badly_told(found: Sequence[Diagnostic], sources: Sources) -> str:
    """Whether a diagnostic points outside its text or would upset a terminal."""
    for diagnostic in found:
        for span in (diagnostic.span, *(label.span for label in diagnostic.labels)):
            source = sources.get(span.file) if span is not None else None
            if span is None or source is None:
                continue
            if not 1 <= span.line <= span.end_line <= len(source.lines):
                return f"{diagnostic.code} points outside the text: {span!r}"
            if not 1 <= span.column <= len(source.line(span.line)) + 1:
                return f"{diagnostic.code} points outside its line: {span!r}"
        if diagnostic.severity == "error" and not diagnostic.message:
            return f"{diagnostic.code} says nothing"
    text = render_all(found, sources)
    bad = [c for c in text if not (c.isprintable() or c == "\n")]
    return f"{bad[0]!r} reaches the terminal" if bad else ""


def mutant(seed: int, kinds: Sequence[Callable[[random.Random], bytes]] = MUTATIONS) -> bytes:
    """The mutant that ``seed`` stands for."""
    return kinds[seed % len(kinds)](random.Random(seed))


def minimised(data: bytes, budget: int = 300) -> bytes:
    """A smaller input that fails too: lines are left out while the failure stays."""
    lines = data.split(b"\n")
    size = max(1, len(lines) // 2)
    while size >= 1 and budget > 0:
        position = 0
        while position < len(lines) and budget > 0:
            shorter = lines[:position] + lines[position + size :]
            budget -= 1
            if examine(b"\n".join(shorter)):
                lines = shorter
            else:
                position += size
        size //= 2
    return b"\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Run many mutants and print what fails; 1 if anything does."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    failures: dict[str, int] = {}
    for seed in range(options.seed, options.seed + options.count):
        data = mutant(seed)
        reason = examine(data)
        if not reason:
            continue
        place = reason.strip().split("\n")
        key = "\n".join(place[-3:])
        failures[key] = failures.get(key, 0) + 1
        if failures[key] == 1:
            print(f"--- seed {seed}: {reason}\n{minimised(data).decode(errors='replace')}\n")
    for key, count in failures.items():
        print(f"{count} x {key}")
    print(f"{options.count} mutants, {sum(failures.values())} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
