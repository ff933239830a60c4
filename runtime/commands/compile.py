"""``gradc compile FILE``: a shared object with header and manifest, or the text of any stage on the
way.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from gradc.codegen.backend import backend
from gradc.frontend.syntax.unparse import dump
from gradc.ir.diagnostics.diagnostic import did_you_mean
from gradc.ir.tensor.core import Function
from gradc.passes.budget import run_within
from gradc.passes.pipeline import STEPS, Run, text_of
from gradc.runtime.cli import REFUTED
from gradc.runtime.commands.common import chosen_outputs, chosen_wrt, load_model
from gradc.runtime.commands.flags import add_compile, add_model, add_outputs
from gradc.runtime.console import Console
from gradc.runtime.files.data import fail, make_folder, write_text
from gradc.runtime.files.read import read_program
from gradc.runtime.model.forward import restricted
from gradc.runtime.model.model import Model
from gradc.runtime.model.remedies import remedies
from gradc.runtime.native.compile import (
    Options,
    compile_options,
    machine_warnings,
    pipeline_options,
    quoting,
)
from gradc.runtime.render.graph import graph_dot, graph_svg

ARTIFACT = ("object", "shared", "header", "cubin")
# What is written where nothing is asked for.
USUAL = {"cuda": ("cubin",)}
TEXTS = (
    *("ast", "ir", "adjoint", "opt", "loops", "plan", "llvm", "asm", "cuda", "ptx", "sass"),
    *("sympy", "dot", "svg"),
)
SUFFIX = {
    **{kind: kind for kind in ("loops", "plan", "ptx", "sass", "dot", "svg")},
    "llvm": "ll",
    "asm": "s",
    "cuda": "cuda.py",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_compile(parser)
    add = parser.add_argument
    add("-o", "--out", metavar="DIR", help="where to write; without it, --emit prints to stdout")
    add("--name", metavar="NAME", help="base name of the files (the model's)")
    add(
        "--emit",
        default="",
        metavar="KINDS",
        help=f"comma-separated: {', '.join((*TEXTS, *ARTIFACT))} (object,shared,header)",
    )
    add("--wrt", default="params", help="params, inputs, or names separated by commas")
    add("--forward", action="store_true", help="the forward program only")
    add_outputs(parser)
    add("--optimizer", metavar="CALL", help="compile a whole training step with this optimiser")
    add("--schedule", metavar="CALL", help="learning-rate schedule of the step")
    add("--clip-norm", type=float, metavar="X", help="limit on the gradients' norm in the step")
    add("--isa", metavar="NAME", help="instruction set to compile for (this machine's)")
    add("--dump-after", metavar="PASS", action="append", default=[], help="a pass, or all")
    add("--dump-dir", metavar="DIR", default="gradc-dump", help="for --dump-after (gradc-dump)")
    add("--certify", action="store_true", help="verify first; the manifest names the certificate")
    add("--verify-each", action="store_true", help="check the IR after every pass")
    add("--time-passes", action="store_true", help="milliseconds per pass, on stderr")
    add("--json", action="store_true", help="the manifest on stdout")


def _certificate(options: argparse.Namespace, console: Console) -> dict[str, str] | None:
    """Verifies the gradients and writes the certificate beside the object; None if something is
    refuted.
    """
    # Proofs load much that compiling does not need.
    from gradc.runtime.reports.verify import verify_model

    model = load_model(options)
    wrt = chosen_wrt(options)
    report = verify_model(
        model,
        wrt=wrt if isinstance(wrt, str) else tuple(wrt),
        budget=options.budget,
        target=options.target,
        machine_code=True,
    )
    path = Path(options.out) / f"{options.name or model.name}.certificate.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    report.to_json(path)
    console.message(f"wrote {path}")
    if not report.ok:
        console.message("not compiled: something is refuted, `gradc verify` says what")
        return None
    return {"digest": report.digest, "file": path.name}


def run(options: argparse.Namespace, console: Console) -> int:
    """Runs the pipeline and emits what is asked for."""
    kinds = [k.strip() for k in options.emit.split(",") if k.strip()]
    unknown = [k for k in kinds if k not in (*TEXTS, *ARTIFACT)]
    if unknown:
        help = f"kinds are {', '.join((*TEXTS, *ARTIFACT))}"
        raise fail("GC0564", f"--emit {unknown[0]}: there is no such kind", help)
    _check_steps(options.dump_after)
    backend(options.target).target(1, options.isa)
    if not kinds:
        kinds = list(USUAL.get(options.target.partition(":")[0], ARTIFACT[:3]))
    if options.out is None and (options.certify or any(k in ARTIFACT for k in kinds)):
        raise fail("GC0564", "give -o DIR to write objects, or --emit a stage of text to print")
    proof = _certificate(options, console) if options.certify else {}
    if proof is None:
        return REFUTED
    model = load_model(options)
    make, dims = partial(_programs, options), _dims(options, model)
    source, derive, gradient = make(model, dims)
    chosen = compile_options(budget=options.budget, threads=options.threads, target=options.target)
    console.findings(machine_warnings(chosen.budget), model.program.report.sources)
    with quoting(model.program.report.sources), remedies(model, dims, chosen, make):
        done = _pipeline(source, derive, gradient, chosen, options)
    if options.time_passes:
        console.message(done.timing())
    for kind in kinds:
        if kind in TEXTS:
            _emit_text(kind, _text(kind, model, source, derive, done, options), options, console)
    if any(k in ARTIFACT for k in kinds):
        _emit_artifact(model, done, kinds, options, console, proof)
    return 0


def _check_steps(names: list[str]) -> None:
    """Raises DiagnosticError GC0564 for a pass that there is not."""
    known = [step.name for step in STEPS]
    for name in names:
        if name not in (*known, "all"):
            help = did_you_mean(name, known) or f"the passes are {', '.join(known)}"
            raise fail("GC0564", f"--dump-after {name}: there is no such pass", help)


def _dims(options: argparse.Namespace, model: Model) -> Mapping[str, int]:
    """All dimensions; chosen outputs need no others than theirs."""
    if options.outputs is None:
        return model.lower().dims
    if not options.forward:
        raise fail("GC0564", "--outputs chooses results of the forward program: add --forward")
    return model.forward(chosen_outputs(options)).part().dims


Derive = Callable[[Function], Function]


def _programs(
    options: argparse.Namespace, model: Model, dims: Mapping[str, int]
) -> tuple[Function, Derive, Derive | None]:
    """The model's function, what turns it into the one to compile, and the derivative alone if that
    is more.
    """
    if options.forward:
        function = model.lower(dims, training=False).function
        outputs = chosen_outputs(options)
        if outputs is not None:
            function = restricted(function, outputs)
        return function, lambda f: f, None
    function = model.lower(dims, training=True).function
    if options.optimizer:
        step = model.train_step(
            options.optimizer,
            schedule=options.schedule,
            clip_norm=options.clip_norm,
            guard=False,  # C has nobody to raise to
        )
        program = step.program(dims)
        return program.source, program.derive, program.gradient
    return function, model.gradient_of(chosen_wrt(options)), None


def _pipeline(
    source: Function,
    derive: Derive,
    gradient: Derive | None,
    chosen: Options,
    options: argparse.Namespace,
) -> Run:
    asked = pipeline_options(
        derive,
        chosen,
        options.isa,
        gradient=gradient,
        verify=2 if options.verify_each else 1,
        dump_after=tuple(options.dump_after),
        dump_to=make_folder(Path(options.dump_dir)) if options.dump_after else None,
    )
    return run_within(source, asked, chosen.budget)


def _text(
    kind: str,
    model: Model,
    source: Function,
    derive: Derive,
    done: Run,
    options: argparse.Namespace,
) -> str:
    if kind == "ast":
        return dump(read_program(options.file).files[-1]) + "\n"
    if kind == "ir":
        return text_of(source)
    if kind == "adjoint":
        return text_of(derive(source))
    if kind == "opt":
        return text_of(done.after("dce"))
    if kind in ("loops", "plan"):
        return text_of(done.after("to-loops" if kind == "loops" else "scratch"))
    if kind == "sympy":
        return model.to_sympy().derivative_text(model.select(chosen_wrt(options)))
    if kind in ("dot", "svg"):
        return graph_dot(source) if kind == "dot" else graph_svg(source, model.name)
    chosen = backend(options.target)
    target = chosen.target(max(1, done.plan.threads), options.isa)
    return chosen.show(kind, done.plan, target)


def _emit_text(kind: str, text: str, options: argparse.Namespace, console: Console) -> None:
    if options.out is None:
        console.result(text.rstrip("\n"))
        return
    folder = make_folder(Path(options.out))
    name = options.name or options.entry or Path(options.file).stem
    suffix = SUFFIX.get(kind, f"{kind}.txt")
    path = folder / f"{name}.{suffix}"
    write_text(path, text)
    console.message(f"wrote {path}")


def _emit_artifact(
    model: Model,
    done: Run,
    kinds: list[str],
    options: argparse.Namespace,
    console: Console,
    proof: dict[str, str],
) -> None:
    name = options.name or model.name
    if not name.isidentifier():
        raise fail("GC0564", f"--name {name}: must be a C identifier")
    wanted = (*(k for k in kinds if k in ARTIFACT), "manifest")
    text = "".join(source.text for source in model.program.report.sources)
    chosen = backend(options.target)
    written = chosen.write(
        [done.plan],
        name,
        make_folder(Path(options.out)),
        chosen.target(max(1, done.plan.threads), options.isa),
        kinds=wanted,
        source=text.encode(),
        extra={
            "model": model.name,
            "precision": model.precision,
            **({"certificate": proof} if proof else {}),
        },
    )
    for path in written.values():
        console.message(f"wrote {path}")
    manifest = json.loads(written["manifest"].read_text(encoding="utf-8"))
    for note in manifest["notes"]:
        console.message(f"note: {note}")
    if options.json:
        console.json(manifest)
