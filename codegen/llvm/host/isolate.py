"""Compiles a module in a process of its own: ``python -m gradc.codegen.llvm.host.isolate TRIPLE CPU
FEATURES OPT < text``.

LLVM ends the process on some errors; here that process is not the user's. Needed for targets other
than the host, whose code generators have seen less of our IR, and for fuzzing. The object goes to
stdout.
"""

from __future__ import annotations

import subprocess
import sys

from gradc.codegen.llvm.host.jit import CodegenError, parse
from gradc.codegen.llvm.isa import Isa

# Targets besides the host, by the name that `--isa` takes. Vectors of 16 bytes exist on every one
# of them.
_VECTOR = "+m,+a,+f,+d,+c,+v"
FOREIGN = {
    isa.name: isa
    for isa in (
        Isa(
            name="aarch64",
            triple="aarch64-unknown-linux-gnu",
            cpu="generic",
            features="+neon",
            vector_bytes=16,
            registers=32,
            fma=True,
            masks=False,
            half=True,
            rounds=True,
        ),
        Isa(
            name="riscv64",
            triple="riscv64-unknown-linux-gnu",
            cpu="generic-rv64",
            features=_VECTOR,
            vector_bytes=16,
            registers=32,
            fma=True,
            masks=False,
            half=False,
            rounds=False,
        ),
    )
}


def compile_isolated(text: str, isa: Isa, *, timeout: float = 600.0) -> bytes:
    """Object code of ``text`` for any target of this LLVM.

    Raises:
        CodegenError: if the module is refused, or the compiler dies or takes longer than
            ``timeout`` seconds.
    """
    command = [sys.executable, "-m", "gradc.codegen.llvm.host.isolate", isa.triple, isa.cpu]
    try:
        done = subprocess.run(
            [*command, isa.features, "2"],
            input=text.encode(),
            capture_output=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise CodegenError(f"the compiler for {isa.name} took too long") from None
    if done.returncode != 0:
        reason = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        ended = f"signal {-done.returncode}" if done.returncode < 0 else "an error"
        raise CodegenError(f"the compiler for {isa.name} ended with {ended}: {reason[-1]}")
    return done.stdout


def main(arguments: list[str]) -> int:
    """Reads a module, writes its object."""
    from llvmlite import binding

    triple, cpu, features, opt = arguments
    text = sys.stdin.buffer.read().decode()
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    try:
        module = parse(text)
    except CodegenError as problem:
        print(problem, file=sys.stderr)
        return 1
    machine = binding.Target.from_triple(triple).create_target_machine(
        cpu=cpu, features=features, opt=int(opt), reloc="pic"
    )
    sys.stdout.buffer.write(machine.emit_object(module))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
