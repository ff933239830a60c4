"""The C header of an artifact: prototypes, port numbers, sizes. Names follow the model's, made fit
for C.

A port called ``fc1.w`` of the entry ``mlp_grad`` becomes ``MLP_GRAD_FC1_W``; its cotangent ends in
``_CT``, its tangent in ``_DOT``. Names that would collide are numbered.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from gradc.ir.plan.plan import ALIGNMENT, Plan, Port
from gradc.ir.tensor.core import DType, Role

_C_TYPE = {
    DType.F64: "double",
    DType.F32: "float",
    DType.BF16: "uint16_t",
    DType.F16: "uint16_t",
    DType.I64: "int64_t",
    DType.I32: "int32_t",
    DType.U32: "uint32_t",
    DType.BOOL: "uint8_t",
}
_SUFFIX = {Role.COTANGENT: "_ct", Role.TANGENT: "_dot", Role.SEED: "_seed"}

_TOP = """/* {name}: made by gradc {version}. Do not edit.
 *
 * Every entry takes an array of pointers, one per port in the order of its enum, and an arena that
 * the caller owns: ..._ARENA_BYTES bytes, aligned to {alignment}. Arrays are dense and row-major;
 * one that is written shares memory with no other.
 * Nothing is allocated and nothing is kept between calls: whatever an entry writes to is an array,
 * the arena, or a few kilobytes of stack. `threads` above 1 starts that many threads once
 * (pthread_create) and keeps them; with 1 no thread is ever made. Results do not depend on it. The
 * arena has room for ..._THREADS threads; a call that allows more uses so many. Calls from several
 * threads need an arena each. The result is 0.
 */
#ifndef GRADC_{guard}_H
#define GRADC_{guard}_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {{
#endif
"""

_END = """
#ifdef __cplusplus
}
#endif

#endif
"""


def c_name(text: str) -> str:
    """``text`` with everything that C does not allow in a name replaced."""
    return re.sub(r"[^0-9A-Za-z_]", "_", text)


def port_names(ports: Sequence[Port]) -> list[str]:
    """A C name per port, all different."""
    names: list[str] = []
    for port in ports:
        base = c_name(port.name + _SUFFIX.get(port.role, "")).upper()
        name, number = base, 2
        while name in names:
            name, number = f"{base}_{number}", number + 1
        names.append(name)
    return names


def header_text(name: str, version: str, entries: Sequence[Plan]) -> str:
    """The header of an artifact with these entries."""
    guard = c_name(name).upper()
    parts = [_TOP.format(name=name, version=version, guard=guard, alignment=ALIGNMENT)]
    parts += [_entry(plan) for plan in entries]
    return "".join(parts) + _END


def _entry(plan: Plan) -> str:
    prefix = plan.name.upper()
    lines = ["", f"/* ---- {plan.name} ---- */", "", "enum {"]
    names = port_names(plan.ports)
    for number, (name, port) in enumerate(zip(names, plan.ports, strict=True)):
        dims = "".join(f"[{size}]" for size in port.shape)
        what = f"{port.direction} {port.dtype.value} {_C_TYPE[port.dtype]}{dims} {port.role.value}"
        lines.append(f"  {prefix}_{name} = {number}, /* {what} */")
    lines += [f"  {prefix}_PORTS = {len(plan.ports)}", "};", ""]
    for name, port in zip(names, plan.ports, strict=True):
        count = 1
        for size in port.shape:
            count *= size
        lines.append(f"#define {prefix}_{name}_SIZE {count}")
    lines += [
        f"#define {prefix}_ARENA_BYTES {plan.arena_bytes}",
        f"#define {prefix}_ARENA_ALIGNMENT {ALIGNMENT}",
        f"#define {prefix}_THREADS {max(1, plan.threads)}",
        "",
        f"int32_t {plan.name}(void *const *ports, void *arena, int64_t threads);",
        "",
    ]
    return "\n".join(lines)
