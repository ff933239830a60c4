"""The vocabulary of kernel texts: every name that a text may use besides Python's own few.

A kernel text is one Python function of typed pointers, with functions before it that it calls. It
is compiled by Numba (``toolchain``) and run by lockstep lanes of NumPy arrays (``simulate``); both
give each name the meaning that this table states. A text contains nothing else than

* assignments to names and to tuples of names, calls of verbs and of its own functions;
* ``for i in range(...)`` with one to three arguments, ``while``, ``if``/``else``; functions other
  than the kernel end in one ``return``;
* the operators ``+ - *`` and comparisons on f32, f64 and i64; ``& | ^`` on bool; ``+`` and ``[n]``
  with a literal n on tuples. No ``/``, ``//``, ``%``, ``**``, ``and``, ``or``, ``not``.
  Arithmetic of 32-bit integers is verbs only: Numba widens what operators make of them;
* literals: plain integers are i64, ``True`` and ``False`` bool; all others are wrapped,
  ``f32(0.5)``, ``u32(7)``. NaN and infinity are ``f32(NAN)``, ``f32(INF)``, ``f32(-INF)``.

Types of values: f32, f64, i32, u32, i64, u16, u8, bool. Elements in memory: f32, f64, i32, u32,
i64, u16 (the bits of bf16 and f16), u8 (bool as 0 or 1).

Nothing is contracted or reassociated: ``a * b + c`` rounds twice, ``fma`` once. Denormals are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gradc.ir.tensor.algebra import VERBS
from gradc.ir.tensor.core import DType

Kind = Literal["scalar", "cast", "bits", "position", "memory", "threads", "tuple"]

# Bytes of an element in memory.
MEMORY_BYTES = {"f64": 8, "f32": 4, "i64": 8, "i32": 4, "u32": 4, "u16": 2, "u8": 1}
# What a value of a program's type is in a text, and what it is in memory.
VALUE_TYPES: dict[DType, str] = {
    DType.F64: "f64",
    DType.F32: "f32",
    DType.BF16: "f32",
    DType.F16: "f32",
    DType.I64: "i64",
    DType.I32: "i32",
    DType.U32: "u32",
    DType.BOOL: "bool",
}
MEMORY_TYPES: dict[DType, str] = {
    **VALUE_TYPES,
    DType.BF16: "u16",
    DType.F16: "u16",
    DType.BOOL: "u8",
}
WARP = 32
GROUP = 128  # threads that multiply together on sm_90a
LINES = 1024  # bytes after which chunks of 16 are swapped alike again, however they are
MOST_SHARED = 48 << 10  # bytes of static shared memory of one text
MOST_DYNAMIC = 227 << 10  # and of dynamic shared memory, of which a device may have less
MOST_THREADS = 1024
# Names that are no calls: literals inside of casts.
CONSTANTS = ("NAN", "INF")


@dataclass(frozen=True, slots=True)
class TextVerb:
    """A name of the vocabulary: the types that it takes, the type of what it gives, its meaning.

    ``T`` is one type throughout; ``n`` a literal; ``type`` one of the casts' names; ``T[n]`` a
    tuple of n values; ``pointer`` an element's place, T its element's type. ALIGNED: the address is
    a multiple of 16 bytes, or of four elements where those are fewer.
    """

    name: str
    takes: tuple[str, ...]
    gives: str
    kind: Kind
    meaning: str


def _scalars() -> list[TextVerb]:
    """The verbs of the algebra that a processor has, under their names there."""
    says = {
        "div": "correctly rounded quotient of floats",
        "max": "the larger, of equals the second; NaN if either is",
        "min": "the smaller, of equals the second; NaN if either is",
        "gate": "a * b, but 0 where a is 0; integers: a * b",
        "neg": "negated; of floats the sign bit alone is turned",
        "abs": "absolute value; of floats the sign bit is cleared",
        "sign": "-1, 0 or 1 of x's type; 0 for both zeros; NaN for NaN",
        "floor": "toward minus infinity; integers: x",
        "round": "to the nearest integer, ties to even; integers: x",
        "sqrt": "correctly rounded",
        "rsqrt": "1 / sqrt(x), rounded twice",
        "floordiv": "floor(a / b) (floats: floor of the rounded quotient); integers: 0 for b = 0",
        "mod": "a - floordiv(a, b) * b; integers: 0 for b = 0",
        "shl": "shifted left by b modulo the width",
        "shr": "shifted right by b modulo the width, the sign kept where there is one",
        "mulhi": "the upper 32 bits of the product of two u32",
        "fma": "a * b + c, rounded once",
        "select": "the second where the first holds, else the third; both are computed",
    }
    found = []
    for verb in VERBS.values():
        if verb.name in FUNCTIONS:
            continue
        takes = ("bool" if verb.is_condition else "T", *("T",) * (verb.arity - 1))
        gives = "bool" if verb.result == "bool" else "T"
        meaning = says.get(verb.name, verb.name)
        found.append(TextVerb(verb.name, takes, gives, "scalar", meaning))
    return found


# Verbs of the algebra that are no instructions: a text holds functions for them (codegen.maths).
FUNCTIONS = ("exp", "expm1", "log", "log1p", "sin", "cos", "tan", "tanh", "erf", "pow")

_CASTS = (
    ("f64", "the nearest f64; bool: 0 or 1"),
    ("f32", "the nearest f32; bool: 0 or 1"),
    ("i32", "of floats toward zero, saturating, NaN gives 0; of integers the low 32 bits"),
    ("u32", "of floats toward zero, saturating, NaN gives 0; of integers the low 32 bits"),
    ("i64", "of floats toward zero, saturating, NaN gives 0; i32 with, u32 and bool without sign"),
    ("u16", "the low 16 bits of an integer"),
    ("u8", "the low 8 bits of an integer; bool: 0 or 1"),
)


def _tensor_verbs() -> list[TextVerb]:
    """What tensor cores take. A pair is two elements of bf16 or f16 in one register; of a matrix of
    8 x 8, lane n has elements 2 (n % 4) and the next of row n // 4.
    """
    verb, pointer = TextVerb, ("pointer", "i64")
    tiles = ("f32[4 m n]", "pair[4 m]", "pair[2 n]")
    product = (
        "m x n sums of 16 x 8, each with 16 products an element more, of left fragments of 16 x 16 "
        "and right ones of 16 x 8; products are exact, sums f32 in an order of the processor's own"
    )
    rows = "four matrices of 8 x 8 of shared p: row r of matrix j begins where lane 8 j + r says"
    return [
        verb("matrices", pointer, "pair[4]", "memory", f"{rows}; ALIGNED"),
        verb("turned_matrices", pointer, "pair[4]", "memory", f"{rows}, transposed; ALIGNED"),
        verb("mma_bf16", tiles, "f32[4 m n]", "tuple", product),
        verb("mma_f16", tiles, "f32[4 m n]", "tuple", product),
    ]


def _group_verbs() -> list[TextVerb]:
    """Products that 128 threads begin together and wait for (sm_90a). Of 64 x 64 sums thread n of a
    group has, for every eight columns, two neighbours from column 2 (n % 4) on of row
    16 (n / 32) + n % 32 / 4, and of that eight rows on. A factor's 64 places by 16 steps of k begin
    at element i of p: k is fast, in lines of 32 elements whose chunk c of line p is at
    c ^ (p / 2 % 4); if the number after it is 1 places are, in lines of 64: c ^ (k % 8).
    """
    verb = TextVerb
    factor = ("pointer", "i64", "n")
    product = "64 x 64 sums, each with 16 products an element more; as mma_ for order; in flight"
    return [
        verb("shared_lines", ("type", "n"), "pointer", "memory", "shared from a multiple of 1024"),
        verb("publish", (), "none", "threads", "after a barrier groups see what this has written"),
        verb("ready", ("f32[32]",), "f32[32]", "threads", "sums as a group's products take them"),
        verb("group_bf16", ("f32[32]", *factor, *factor), "f32[32]", "tuple", product),
        verb("group_f16", ("f32[32]", *factor, *factor), "f32[32]", "tuple", product),
        verb("commit_products", (), "none", "threads", "products since the last are a batch"),
        verb(
            "wait_products",
            ("f32[32]", "n"),
            "f32[32]",
            "threads",
            "the sums, once all batches but the last n are there",
        ),
    ]


def _memory_verbs() -> list[TextVerb]:
    verb = TextVerb
    pointer = ("pointer", "i64")
    four = ("T",) * 4
    return [
        verb("load", pointer, "T", "memory", "element i of p"),
        verb("store", (*pointer, "T"), "none", "memory", "element i of p becomes x"),
        verb("load4", pointer, "T[4]", "memory", "elements i to i + 3 of p; ALIGNED"),
        verb("store4", (*pointer, *four), "none", "memory", "elements i to i + 3, likewise"),
        verb(
            "load_runs",
            (*pointer, "n", "n"),
            "T[n]",
            "memory",
            "fours, n apart, n in all; ALIGNED",
        ),
        verb("store_runs", (*pointer, "n", "T[m]"), "none", "memory", "m elements, likewise"),
        verb(
            "copy_async",
            (*pointer, *pointer, "n", "bool"),
            "none",
            "memory",
            "n elements from j on of global q come to i on of shared p, zeros if the last does not "
            "hold: 4, 8 or 16 bytes, ALIGNED; in flight until their group is waited for",
        ),
        verb("commit_copies", (), "none", "memory", "copies since the last are a group"),
        verb("wait_copies", ("n",), "none", "memory", "all groups but the last n have arrived"),
        verb("shared", ("type", "n"), "pointer", "memory", "n elements that a block's threads own"),
        verb(
            "dynamic",
            ("type", "n", "n"),
            "pointer",
            "memory",
            "n such elements from byte n of dynamic shared memory on, a multiple of 16",
        ),
        verb("local", ("type", "n"), "pointer", "memory", "n elements that this thread owns"),
    ]


def _all() -> list[TextVerb]:
    verb = TextVerb
    return [
        *_scalars(),
        *(verb(name, ("any",), name, "cast", meaning) for name, meaning in _CASTS),
        verb("f32_bits", ("f32",), "u32", "bits", "its bits"),
        verb("f32_of", ("u32",), "f32", "bits", "the f32 of these bits"),
        verb("f64_bits", ("f64",), "i64", "bits", "its bits"),
        verb("f64_of", ("i64",), "f64", "bits", "the f64 of these bits"),
        verb("bf16_bits", ("float",), "u16", "bits", "nearest bf16 of an f32 or f64, once rounded"),
        verb("bf16_value", ("u16",), "f32", "bits", "the f32 that equals a bf16"),
        verb("f16_bits", ("float",), "u16", "bits", "nearest f16 of an f32 or f64, once rounded"),
        verb("f16_value", ("u16",), "f32", "bits", "the f32 that equals an f16"),
        verb("block", (), "i64", "position", "number of this block in the grid"),
        verb("thread", (), "i64", "position", "number of this thread in its block"),
        *_memory_verbs(),
        verb("barrier", (), "none", "threads", "waits for all threads of the block"),
        verb(
            "shuffle_xor", ("T", "n"), "T", "threads", "x of the thread whose number differs in n"
        ),
        *_tensor_verbs(),
        *_group_verbs(),
        verb("zeros", ("type", "n"), "T[n]", "tuple", "n zeros"),
        verb("outer", ("T[m n]", "T[m]", "T[n]"), "T[m n]", "tuple", "a[n i + j] + x[i] y[j]: fma"),
        verb("each_sum", ("T[n]", "T[n]"), "T[n]", "tuple", "a[i] + b[i]"),
        verb(
            "turned", ("T[m]", "n"), "T[m]", "tuple", "x[n], x[n + 1], ..., the first n at the end"
        ),
    ]


TEXT_VERBS: dict[str, TextVerb] = {verb.name: verb for verb in _all()}
