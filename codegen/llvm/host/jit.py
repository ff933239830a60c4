"""From LLVM IR text to machine code, and from machine code to callable addresses.

Invariants: a module is parsed, verified and its outside symbols compared with ``OUTSIDE`` before
LLVM generates code, because what LLVM finds later kills the process. No IR passes run by default:
our loops are explicit vectors already. A ``Library`` keeps its code loaded as long as it is
referenced.

Non-goals: caching (``runtime.cache``), what the code means (``driver``).
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from gradc.codegen.llvm.host import elf
from gradc.codegen.llvm.isa import Isa, host

# Symbols that generated code may take from outside: libc, and the interpreter for the call wrapper.
# No mathematics: its bits would be those of the machine's own library.
_THREADS = ("pthread_create", "pthread_join", "pthread_sigmask", "sigfillset", "sched_yield")
_STACKS = ("pthread_attr_init", "pthread_attr_setstacksize", "pthread_attr_destroy")
_CLOCKS = ("clock_gettime",)  # of timed programs
LIBC = frozenset((*_THREADS, *_STACKS, *_CLOCKS, "syscall", "memcpy", "memmove", "memset"))
_OBJECTS = ("Py_IncRef", "Py_DecRef", "PyLong_FromLong", "PyErr_Clear")
_DICTS = ("PyDict_Size", "PyDict_GetItemWithError", "PyDict_Next", "PyDict_New", "PyDict_SetItem")
_TUPLES = ("PyTuple_New", "PyTuple_SetItem", "PyTuple_Size", "PyTuple_GetItem")
_CALLS = (
    "PyObject_Vectorcall",
    "PyUnicode_Compare",
    "PyObject_CallOneArg",
    "PyObject_GetAttr",
    "PyObject_SetAttr",
)
_GIL = ("PyEval_SaveThread", "PyEval_RestoreThread")
PYTHON = frozenset((*_GIL, *_OBJECTS, *_DICTS, *_TUPLES, *_CALLS))
OUTSIDE = LIBC | PYTHON | {"gradc_parallel", "gradc_exchange"}

# Functions longer than this (lines) get the fast register allocator: the good one is superlinear.
LONG_FUNCTION = 20_000


class CodegenError(Exception):
    """Generated code was refused by LLVM's parser or verifier, or asks for a symbol outside the
    list: our bug.
    """


def environment() -> tuple[str, ...]:
    """What object code depends on besides its source: versions of Python and LLVM, and the
    processor.
    """
    import llvmlite
    from llvmlite import binding

    native = host()
    llvm = ".".join(str(n) for n in binding.llvm_version_info)
    return (sys.version, llvmlite.__version__, llvm, native.triple, native.cpu, native.features)


def parse(text: str) -> Any:
    """The verified module of ``text``, in a context of its own.

    Raises:
        CodegenError: with LLVM's message and the line it is about.
    """
    from llvmlite import binding

    host()  # initialises LLVM
    try:
        module = binding.parse_assembly(text, binding.create_context())
        module.verify()
    except RuntimeError as problem:
        raise CodegenError(f"{problem}".strip()) from None
    strangers = sorted(
        function.name
        for function in module.functions
        if function.is_declaration
        and not function.name.startswith("llvm.")
        and function.name not in OUTSIDE
    )
    if strangers:
        raise CodegenError(f"outside symbols that are not allowed: {', '.join(strangers)}")
    return module


def linked(texts: Sequence[str]) -> str:
    """Several modules as one; what is internal to each is renamed where it collides.

    Raises:
        CodegenError: if one is not valid or two define the same symbol.
    """
    from llvmlite import binding

    host()
    context = binding.create_context()
    try:
        whole, *others = [binding.parse_assembly(text, context) for text in texts]
        for other in others:
            whole.link_in(other)
    except RuntimeError as problem:
        raise CodegenError(f"{problem}".strip()) from None
    return str(whole)


def optimise(module: Any, machine: Any, level: int) -> None:
    """LLVM's own pass pipeline at ``level`` 1..3; nothing at 0. Unrolling and vectorising stay
    off.
    """
    if level == 0:
        return
    from llvmlite import binding

    options = binding.create_pipeline_tuning_options(speed_level=level)
    options.loop_vectorization = False
    options.slp_vectorization = False
    options.loop_unrolling = False
    builder = binding.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)


def longest_function(text: str) -> int:
    """Lines of the longest function of a module."""
    longest = start = 0
    for number, line in enumerate(text.splitlines()):
        if line.startswith("define "):
            start = number
        elif line == "}":
            longest = max(longest, number - start)
    return longest


def compile_object(text: str, isa: Isa, *, level: int = 0) -> bytes:
    """Relocatable, position-independent object code of a module.

    Raises:
        CodegenError: if the module is not valid.
    """
    module = parse(text)
    machine = isa.machine(opt=0 if longest_function(text) > LONG_FUNCTION else 2)
    optimise(module, machine, level)
    with _plain_loops():
        return bytes(machine.emit_object(module))


@contextmanager
def _plain_loops() -> Iterator[None]:
    """Leaves loop strength reduction out: a third of the time to compile, and our addresses are
    reduced already.

    The switch is one of the process; other users of LLVM in it at most miss the pass meanwhile.
    """
    from llvmlite import binding

    binding.set_option("gradc", "-disable-lsr=true")
    try:
        yield
    finally:
        binding.set_option("gradc", "-disable-lsr=false")


def assembly(text: str, isa: Isa, *, level: int = 0) -> str:
    """The assembly of a module (emitted from a module of its own: emitting changes it)."""
    module = parse(text)
    machine = isa.machine(opt=0 if longest_function(text) > LONG_FUNCTION else 2)
    optimise(module, machine, level)
    with _plain_loops():
        return str(machine.emit_assembly(module))


@functools.cache
def _engine() -> Any:
    """The process's LLJIT. Never disposed of: worker threads and callers may still run its code at
    exit.
    """
    from llvmlite import binding

    engine = binding.create_lljit_compiler(host().machine(jit=True))
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(engine))
    return engine


_numbers = itertools.count()


class Library:
    """Loaded object code. Addresses stay valid as long as this object lives."""

    def __init__(self, code: bytes, exports: Sequence[str], imports: Mapping[str, int]) -> None:
        """Loads ``code``.

        Raises:
            CodegenError: if an export is missing or a symbol cannot be found.
        """
        self._kept: object
        if elf.is_loadable(code):
            try:
                image = elf.Image(code, imports)
                self._addresses = {name: image.address(name) for name in exports}
            except elf.LoadError as problem:
                raise CodegenError(str(problem)) from None
            self._kept = image
        else:
            self._kept = tracker = _linked_by_llvm(code, exports, imports)
            self._addresses = {name: int(tracker[name]) for name in exports}

    def __getitem__(self, name: str) -> int:
        """The address of an exported symbol."""
        return self._addresses[name]


def _linked_by_llvm(code: bytes, exports: Sequence[str], imports: Mapping[str, int]) -> Any:
    """LLVM's tracker of ``code``, loaded: for object formats that ``elf`` does not load. Raises
    CodegenError.
    """
    from llvmlite import binding

    builder = binding.JITLibraryBuilder().add_object_img(code).add_current_process()
    for name in exports:
        builder.export_symbol(name)
    for name, address in imports.items():
        builder.import_symbol(name, address)
    try:
        return builder.link(_engine(), f"gradc{next(_numbers)}")
    except RuntimeError as problem:
        raise CodegenError(f"object code could not be loaded: {problem}".strip()) from None
