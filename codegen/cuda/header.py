"""A C header that calls a Program's cubin through the driver API: its kernels, its launches in
order, its ports; the way from Python to programs of others.

Invariants: a host needs the cubin, this header and ``cuda.h``, and links ``libcuda``.
Non-goals: memory of a call: arena and ports are the caller's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

from gradc._version import __version__
from gradc.codegen.cuda.program import Exchange, Launch, Place, Program, Step
from gradc.ir.diagnostics.diagnostic import DiagnosticError, error

_TEMPLATE = """\
/* {name}: {kernels} kernels for {architecture}, made by gradc {version}.
 *
 * Load {name}.cubin, give {name}_load the module, and {name}_call an arena of
 * {NAME}_ARENA_BYTES and one device pointer per port:
 *
{ports}
 *
 * {name}_call only asks for launches, in order of the stream: it can be captured into a CUDA graph.
 */
#ifndef GRADC_{NAME}_H
#define GRADC_{NAME}_H

#include <stddef.h>
#include <stdint.h>
#include <cuda.h>

#define {NAME}_ARENA_BYTES ((size_t){arena})
#define {NAME}_PORTS {port_count}
#define {NAME}_KERNELS {kernels}

static const size_t {name}_port_bytes[{NAME}_PORTS] = {{{port_bytes}}};
static const char *const {name}_kernel_names[{NAME}_KERNELS] = {{
{kernel_names}
}};

/* The kernels of a module, with leave to have as much dynamic shared memory as they need: where a
 * device has less, CUDA_ERROR_INVALID_VALUE.
 */
static inline CUresult {name}_load(CUmodule module, CUfunction kernels[{NAME}_KERNELS])
{{
    CUresult status = CUDA_SUCCESS;
    for (int n = 0; n < {NAME}_KERNELS && status == CUDA_SUCCESS; n++)
        status = cuModuleGetFunction(&kernels[n], module, {name}_kernel_names[n]);
{allowed}    return status;
}}

static inline CUresult {name}_launch(CUfunction kernel, unsigned grid, unsigned threads,
                                     unsigned shared, uint64_t *pointers, size_t size,
                                     CUstream stream)
{{
    void *extra[] = {{CU_LAUNCH_PARAM_BUFFER_POINTER, pointers, CU_LAUNCH_PARAM_BUFFER_SIZE, &size,
                     CU_LAUNCH_PARAM_END}};
    return cuLaunchKernel(kernel, grid, 1, 1, threads, 1, 1, shared, stream, NULL, extra);
}}

/* One call. */
static inline CUresult {name}_call(const CUfunction kernels[{NAME}_KERNELS], CUdeviceptr arena,
                                   const CUdeviceptr ports[{NAME}_PORTS], CUstream stream)
{{
    CUresult status = CUDA_SUCCESS;
    (void)arena;
    (void)ports;
{body}
    return status;
}}

#endif
"""


def header_text(program: Program, name: str, architecture: str) -> str:
    """The header of ``program``, whose functions begin with ``name``.

    Raises:
        DiagnosticError: GC0599 for a program of several ranks.
    """
    ports = program.signature.ports
    sizes = [str(prod(port.shape) * port.dtype.itemsize) for port in ports]
    lines = [
        f" *   {n}: {p.name}, {p.direction}, {p.dtype.value}{list(p.shape)}"
        for n, p in enumerate(ports)
    ]
    return _TEMPLATE.format(
        name=name,
        NAME=name.upper(),
        architecture=architecture,
        version=__version__,
        arena=program.arena_bytes,
        kernels=len(program.texts),
        allowed="".join(_allowed(program)),
        kernel_names="\n".join(f'    "{text.name}",' for text in program.texts),
        ports="\n".join(lines),
        port_count=len(ports),
        port_bytes=", ".join(sizes),
        body="\n".join(_steps(program, name, program.steps, 0)),
    )


def _allowed(program: Program) -> Iterator[str]:
    """Asks for dynamic shared memory of the kernels that need it."""
    attribute = "CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES"
    for number, text in enumerate(program.texts):
        if text.dynamic_bytes:
            yield "    if (status == CUDA_SUCCESS)\n"
            yield f"        status = cuFuncSetAttribute(kernels[{number}], {attribute},\n"
            yield f"                                    {text.dynamic_bytes});\n"


def _steps(program: Program, name: str, steps: Sequence[Step], depth: int) -> Iterator[str]:
    indent = "    " * (depth + 1)
    for step in steps:
        if isinstance(step, Launch):
            yield from _launch(program, name, step, indent)
            continue
        if isinstance(step, Exchange):
            message = f"a host in C exchanges nothing with other ranks, and `{name}` does"
            help = "compile it without ranks, or train with gradc"
            raise DiagnosticError([error("GC0599", message, None, help=help)])
        counter = f"t{depth}"
        yield f"{indent}for (int64_t {counter} = 0; {counter} < {step.trips}; {counter}++) {{"
        if step.counter is not None:
            for half in ("", " >> 32"):
                place = f"{_place(step.counter)} + {4 if half else 0}"
                word = f"(unsigned)((uint64_t){counter}{half})"
                yield f"{indent}    status = cuMemsetD32Async({place}, {word}, 1, stream);"
                yield f"{indent}    if (status != CUDA_SUCCESS)"
                yield f"{indent}        return status;"
        yield from _steps(program, name, step.body, depth + 1)
        yield f"{indent}}}"


def _launch(program: Program, name: str, launch: Launch, indent: str) -> Iterator[str]:
    text = program.texts[launch.text]
    places = [_place(place) for place in launch.arguments]
    yield f"{indent}{{   /* {text.name} */"
    yield f"{indent}    uint64_t pointers[] = {{"
    yield from (f"{indent}        {place}," for place in places)
    yield f"{indent}    }};"
    shape = f"{launch.grid}, {text.threads}, {text.dynamic_bytes}"
    size = "sizeof pointers" if places else "0"
    call = f"{name}_launch(kernels[{launch.text}], {shape}, pointers, {size}, stream);"
    yield f"{indent}    status = {call}"
    yield f"{indent}    if (status != CUDA_SUCCESS)"
    yield f"{indent}        return status;"
    yield f"{indent}}}"


def _place(place: Place) -> str:
    base = "arena" if place.space == "arena" else f"ports[{place.number}]"
    moves = [f" + (uint64_t)({s} * t{n})" for n, s in enumerate(place.strides) if s]
    moves += [f" + (uint64_t)({s} * (t{n} % 2))" for n, s in enumerate(place.parity) if s]
    return f"{base} + {place.offset}{''.join(moves)}"
