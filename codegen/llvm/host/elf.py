"""Loading relocatable x86-64 ELF objects: all sections in one stretch of memory, relocated by us.

LLVM's own loader maps every section on its own. In a process that has mapped much else (PyTorch,
JAX) the kernel may put code and constants of one object further apart than the 2 GiB that its
instructions reach, and LLVM then aborts the process. Here the sections of an object lie side by
side, so that cannot happen; and nothing of LLVM is needed to load code from the cache.

Layout: code and stubs (readable, executable), constants and the offset table (readable), data
(writable); no page is ever writable and executable at once. Calls to functions outside go through
stubs.

Formulas of relocations: System V ABI, AMD64 supplement, table 4.9.

Non-goals: other machines and object formats (``jit.Library`` uses LLVM's loader there), exceptions,
debug information, thread-local data.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import struct
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

_HEADER: Final = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION: Final = struct.Struct("<IIQQQQIIQQ")
_SYMBOL: Final = struct.Struct("<IBBHQQ")
_RELOCATION: Final = struct.Struct("<QIIq")
_RELOCATABLE, _X86_64 = 1, 62
_SYMTAB, _RELA, _NOBITS = 2, 4, 8
_WRITE, _ALLOC, _EXECUTE = 1, 2, 4
_UNDEFINED, _ABSOLUTE, _RESERVED = 0, 0xFFF1, 0xFF00
_STUB: Final = 16  # jmp *0(%rip), then the address
_SLOT: Final = 8

# Relocation types: those that hold an address, an offset from the place, a call, an offset to a
# slot of the table.
_ABS64, _ABS32, _ABS32S = 1, 10, 11
_OFFSET32, _CALL32, _OFFSET64 = 2, 4, 24
_SLOTS = (9, 41, 42)


class LoadError(Exception):
    """Object code that cannot be loaded: damaged, of another kind, or asking for a symbol that is
    not there.
    """


@dataclass(slots=True)
class _Section:
    name: str
    kind: int
    flags: int
    start: int
    size: int
    link: int
    target: int  # of relocations: the section they change
    alignment: int
    place: int = 0  # in our memory


class _Symbol(NamedTuple):  # a dataclass would take a warm start 2 ms to make
    name: str
    section: int
    value: int


def is_loadable(code: bytes) -> bool:
    """Whether ``code`` is an object of the kind this module loads."""
    if len(code) < _HEADER.size or code[:7] != b"\x7fELF\x02\x01\x01":
        return False
    _, kind, machine, *_ = _HEADER.unpack_from(code)
    return bool(kind == _RELOCATABLE and machine == _X86_64)


class Image:
    """An object in memory, executable. It is unmapped when this object goes, but never while Python
    shuts down.
    """

    def __init__(self, code: bytes, imports: Mapping[str, int]) -> None:
        """Maps, relocates and protects ``code``; outside symbols come from ``imports``, then from
        the process.

        Raises:
            LoadError: if it cannot be loaded.
        """
        try:
            self._object = _Object(code)
        except (struct.error, ValueError, IndexError, UnicodeDecodeError) as problem:
            raise LoadError(f"object code is damaged: {problem}") from None
        layout = _Layout(self._object)
        self._base = _map(layout.size)
        # Freed with this object. At exit worker threads may still run the code: then nothing is
        # unmapped.
        weakref.finalize(self, _unmap, self._base, layout.size).atexit = False
        memory = (ctypes.c_char * layout.size).from_address(self._base)
        outside = {
            s.name: imports.get(s.name) or _process_address(s.name)
            for s in self._object.symbols
            if s.section == _UNDEFINED and s.name
        }
        try:
            _Linker(self._object, layout, memoryview(memory).cast("B"), self._base, outside).run()
        except (struct.error, ValueError, IndexError) as problem:
            raise LoadError(f"object code is damaged: {problem}") from None
        layout.protect(self._base)

    def address(self, name: str) -> int:
        """The address of a symbol that the object defines. Raises LoadError if there is none."""
        for symbol in self._object.symbols:
            if symbol.name == name and symbol.section not in (_UNDEFINED, _ABSOLUTE):
                return self._base + self._object.sections[symbol.section].place + symbol.value
        raise LoadError(f"object code has no symbol `{name}`")


class _Object:
    """The parsed file."""

    def __init__(self, code: bytes) -> None:
        self.code = code
        header = _HEADER.unpack_from(code)
        start, count, names = header[6], header[12], header[13]
        rows = [_SECTION.unpack_from(code, start + i * _SECTION.size) for i in range(count)]
        texts = rows[names][4]
        self.sections = [
            _Section(self._text(texts + r[0]), r[1], r[2], r[4], r[5], r[6], r[7], max(1, r[8]))
            for r in rows
        ]
        for section in self.sections:
            if section.kind != _NOBITS and section.start + section.size > len(code):
                raise ValueError(f"section {section.name} is cut short")
        self.symbols = self._symbols()

    def _text(self, at: int) -> str:
        return self.code[at : self.code.index(b"\0", at)].decode()

    def _symbols(self) -> list[_Symbol]:
        found = []
        for table in self.sections:
            if table.kind != _SYMTAB:
                continue
            texts = self.sections[table.link].start
            for at in range(table.start, table.start + table.size, _SYMBOL.size):
                name, _, _, section, value, _ = _SYMBOL.unpack_from(self.code, at)
                if _RESERVED <= section != _ABSOLUTE:
                    raise ValueError(f"a symbol lies in the reserved section {section:#x}")
                found.append(_Symbol(self._text(texts + name), section, value))
        return found

    def relocations(self, section: _Section) -> list[tuple[int, int, int, int]]:
        """(place, type, symbol, addend) of each entry of a table."""
        end = section.start + section.size
        return list(_RELOCATION.iter_unpack(self.code[section.start : end]))


class _Layout:
    """Where everything goes: three groups of sections, each on pages of its own."""

    def __init__(self, found: _Object) -> None:
        at = 0
        self._groups: list[tuple[int, int, int]] = []
        wanted = _wanted(found)
        for flags, protection in (
            (_EXECUTE, mmap.PROT_READ | mmap.PROT_EXEC),
            (0, mmap.PROT_READ),
            (_WRITE, None),
        ):
            first = at
            for section in found.sections:
                if section.flags & _ALLOC and section.flags & (_WRITE | _EXECUTE) == flags:
                    at = _up(at, section.alignment)
                    section.place = at
                    at += section.size
            if flags == _EXECUTE:
                self.stubs = at = _up(at, _STUB)
                at += _STUB * wanted
            elif flags == 0:
                self.slots = at = _up(at, _SLOT)
                at += _SLOT * wanted
            at = _up(at, mmap.PAGESIZE)
            if protection is not None and at > first:
                self._groups.append((first, at - first, protection))
        self.size = max(at, mmap.PAGESIZE)

    def protect(self, base: int) -> None:
        """Takes away the right to write, and gives that to execute, where it belongs."""
        for first, size, protection in self._groups:
            if _libc().mprotect(base + first, size, protection) != 0:
                raise LoadError("the system does not allow memory to be made executable")


def _wanted(found: _Object) -> int:
    """At most how many stubs and slots are needed: one for every symbol."""
    return len(found.symbols)


class _Linker:
    """Copies sections and applies relocations."""

    def __init__(
        self,
        found: _Object,
        layout: _Layout,
        memory: memoryview,
        base: int,
        outside: Mapping[str, int],
    ) -> None:
        self.object = found
        self.memory = memory
        self.base = base
        self.addresses = [self._address(symbol, outside) for symbol in found.symbols]
        self.stubs: dict[int, int] = {}
        self.slots: dict[int, int] = {}
        self.next_stub = layout.stubs
        self.next_slot = layout.slots

    def _address(self, symbol: _Symbol, outside: Mapping[str, int]) -> int:
        if symbol.section == _UNDEFINED:
            return outside.get(symbol.name, 0)
        if symbol.section == _ABSOLUTE:
            return symbol.value
        return self.base + self.object.sections[symbol.section].place + symbol.value

    def run(self) -> None:
        """Fills the memory."""
        for section in self.object.sections:
            if section.flags & _ALLOC and section.kind != _NOBITS:
                end = section.start + section.size
                place = section.place
                self.memory[place : place + section.size] = self.object.code[section.start : end]
        for table in self.object.sections:
            if table.kind == _RELA:
                target = self.object.sections[table.target]
                if target.flags & _ALLOC:
                    for offset, kind, symbol, addend in self.object.relocations(table):
                        self._apply(target.place + offset, kind, symbol, addend)

    def _apply(self, place: int, kind: int, symbol: int, addend: int) -> None:
        here, value = self.base + place, self.addresses[symbol]
        if kind == _OFFSET32 or kind == _CALL32:
            if self.object.symbols[symbol].section == _UNDEFINED:
                value = self._stub(symbol, value)
            self._write("<i", place, value + addend - here)
        elif kind in _SLOTS:
            self._write("<i", place, self._slot(symbol, value) + addend - here)
        elif kind == _ABS64:
            self._write("<Q", place, (value + addend) % 2**64)
        elif kind == _OFFSET64:
            self._write("<q", place, value + addend - here)
        elif kind == _ABS32:
            self._write("<I", place, value + addend)
        elif kind == _ABS32S:
            self._write("<i", place, value + addend)
        else:
            raise ValueError(f"relocation type {kind} is not known")

    def _write(self, form: str, place: int, value: int) -> None:
        if not 0 <= place <= len(self.memory) - struct.calcsize(form):
            raise ValueError("a relocation lies outside its section")
        struct.pack_into(form, self.memory, place, value)

    def _stub(self, symbol: int, value: int) -> int:
        """A jump to ``value``, near enough to be called."""
        if symbol not in self.stubs:
            struct.pack_into("<HIQ", self.memory, self.next_stub, 0x25FF, 0, value)
            self.stubs[symbol] = self.base + self.next_stub
            self.next_stub += _STUB
        return self.stubs[symbol]

    def _slot(self, symbol: int, value: int) -> int:
        """A word that holds ``value``, near enough to be read."""
        if symbol not in self.slots:
            struct.pack_into("<Q", self.memory, self.next_slot, value)
            self.slots[symbol] = self.base + self.next_slot
            self.next_slot += _SLOT
        return self.slots[symbol]


def _up(value: int, alignment: int) -> int:
    return -(-value // alignment) * alignment


@functools.cache
def _libc() -> ctypes.CDLL:
    """The process itself, with types for what maps memory."""
    libc = ctypes.CDLL(None, use_errno=True)
    size, pointer, number = ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int
    libc.mmap.restype = pointer
    libc.mmap.argtypes = (pointer, size, number, number, number, ctypes.c_long)
    libc.mprotect.argtypes = (pointer, size, number)
    libc.munmap.argtypes = (pointer, size)
    return libc


def _map(size: int) -> int:
    """The address of fresh writable memory. Raises LoadError."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    found = _libc().mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
    if found in (None, ctypes.c_void_p(-1).value):
        raise LoadError(f"no memory for {size} bytes of object code")
    return int(found)


def _unmap(base: int, size: int) -> None:
    _libc().munmap(base, size)


@functools.cache
def _process_address(name: str) -> int:
    """The address of a function of the process. Raises LoadError."""
    try:
        function = ctypes.CDLL(None)[name]
    except (OSError, AttributeError):
        raise LoadError(f"there is no function `{name}` in this process") from None
    return int(ctypes.cast(function, ctypes.c_void_p).value or 0)
