"""What the processor can do, and lesser feature sets of it for tests and for artifacts that travel.

The host's features come from LLVM, never from its CPU name alone (which can name an older part). A
lesser set is the host's architecture with the features above it switched off, so its code runs on
the host as well.
"""

from __future__ import annotations

import functools
import platform
from dataclasses import dataclass
from typing import Any

from gradc.codegen.llvm import amx
from gradc.ir.target.costs import CPU, Costs
from gradc.ir.target.target import Target
from gradc.ir.tensor.core import DType

_AVX = ("avx", "avx2", "fma", "f16c", "sse3", "ssse3", "sse4.1", "sse4.2")
_AVX2 = (*_AVX, "bmi", "bmi2", "lzcnt", "movbe", "popcnt", "xsave")
_AVX512 = (*_AVX2, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
# Instructions that exist without VEX alone: among AVX code one of them makes every loop that LLVM
# puts it into 8 times slower (insertq, in masks that are narrowed, on Zen 3).
_LEGACY = ("sse4a",)
COMPUTE_BYTES = {
    DType.F64: 8,
    DType.F32: 4,
    DType.BF16: 4,
    DType.F16: 4,
    DType.I64: 8,
    DType.I32: 4,
    DType.U32: 4,
    DType.BOOL: 4,
}


@dataclass(frozen=True, slots=True)
class Isa:
    """A target: triple, CPU name for tuning, feature string, and the facts code generation asks
    for.
    """

    name: str
    triple: str
    cpu: str
    features: str
    vector_bytes: int  # of one register
    registers: int  # vector registers
    fma: bool
    masks: bool  # masked loads and stores cost nothing
    half: bool  # conversion between f16 and f32
    rounds: bool  # floor and rint
    pairs: bool = False  # dot products of bf16 pairs
    matrix: bool = False  # a matrix unit for them, which this process may use (``amx``)
    # Bytes of the caches of one core, the nearest first: what they have at least, not what this
    # machine has, so that its code is that of others.
    caches: tuple[int, int] = (32 << 10, 256 << 10)
    costs: Costs = CPU

    def lanes(self, dtype: DType) -> int:
        """Elements of one register, as computed (bf16 and f16 compute in f32)."""
        return max(1, self.vector_bytes // COMPUTE_BYTES[dtype])

    def target(self, threads: int) -> Target:
        """What the passes need to know, for launches of at most ``threads`` threads."""
        return Target(
            "cpu",
            self.name,
            threads,
            self.vector_bytes,
            self.registers,
            self.caches,
            row_bytes=self.caches[0] // 2,
            leaves_out=True,
            costs=self.costs,
        )

    @property
    def attributes(self) -> str:
        """Function attributes that every function of a module for this target carries."""
        width = self.vector_bytes * 8
        return (
            f'nounwind "prefer-vector-width"="{width}" "min-legal-vector-width"="{width}" '
            f'"target-cpu"="{self.cpu}" "target-features"="{self.features}"'
        )

    def machine(self, opt: int = 2, jit: bool = False, pic: bool = True) -> Any:
        """An llvmlite TargetMachine for this target."""
        binding = _binding()
        return binding.Target.from_triple(self.triple).create_target_machine(
            cpu=self.cpu,
            features=self.features,
            opt=opt,
            reloc="pic" if pic else "default",
            codemodel="jitdefault" if jit else "default",
            jit=jit,
        )


@functools.cache
def _binding() -> Any:
    """llvmlite's binding with its targets initialised."""
    from llvmlite import binding

    try:
        binding.initialize()  # needed before llvmlite 0.45, refused after
    except RuntimeError:
        pass
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    return binding


@functools.cache
def host() -> Isa:
    """The processor this runs on, with every feature LLVM finds."""
    binding = _binding()
    features = dict(binding.get_host_cpu_features())
    off = _LEGACY if amx.is_permitted() else (*_LEGACY, *amx.FEATURES)
    found = {name: on and name not in off for name, on in features.items()}
    names = ",".join(f"{'+' if on else '-'}{name}" for name, on in sorted(found.items()))
    triple, cpu = binding.get_process_triple(), binding.get_host_cpu_name()
    if platform.machine() not in ("x86_64", "AMD64"):
        return Isa("native", triple, cpu, names, 16, 32, True, False, True, True)
    wide = all(found.get(name) for name in ("avx512f", "avx512bw", "avx512dq", "avx512vl"))
    middle = bool(found.get("avx2") and found.get("fma"))
    return Isa(
        "native",
        triple,
        cpu,
        names,
        64 if wide else 32 if middle else 16,
        32 if wide else 16,
        middle,
        wide,
        bool(found.get("f16c")),
        bool(found.get("sse4.1")),
        wide and bool(found.get("avx512bf16")),
        wide and all(found.get(name) for name in ("avx512bf16", *amx.FEATURES)),
    )


def available() -> tuple[str, ...]:
    """The names ``select`` takes here: ``native`` and, on x86-64, the sets that this host can
    run.
    """
    native = host()
    if "x86_64" not in native.triple:
        return ("native",)
    names = ["native", "sse2"]
    if native.fma and native.half:
        names.append("avx2")
        if native.masks:
            names.append("avx512")
    return tuple(names)


@functools.cache
def select(name: str = "native") -> Isa:
    """The target called ``native``, ``sse2``, ``avx2`` or ``avx512``. Raises ValueError for one not
    available.
    """
    native = host()
    if name not in available():
        raise ValueError(
            f"instruction set {name!r} is not available here: {', '.join(available())}"
        )
    if name == "native":
        return native
    features, width = {"sse2": ((), 16), "avx2": (_AVX2, 32), "avx512": (_AVX512, 64)}[name]
    text = ",".join(f"+{feature}" for feature in features)
    wide, modern = name == "avx512", name != "sse2"
    return Isa(
        name, native.triple, "x86-64", text, width, 32 if wide else 16, modern, wide, modern, modern
    )
