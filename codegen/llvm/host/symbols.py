"""Names that an entry cannot have outside: words of C and C++, symbols of the C library, gradc's
own.

An entry is called after its model. In a process of ours it gets another name where that would not
do (``inner_name``); in an artifact it is refused (``problem``), since the caller writes it.
"""

from __future__ import annotations

import ctypes
import functools
import re

_WORDS = frozenset(
    [
        "alignas",
        "alignof",
        "and",
        "and_eq",
        "asm",
        "atomic_cancel",
        "atomic_commit",
        "atomic_noexcept",
        "auto",
        "bitand",
        "bitor",
        "bool",
        "break",
        "case",
        "catch",
        "char",
        "char16_t",
        "char32_t",
        "char8_t",
        "class",
        "co_await",
        "co_return",
        "co_yield",
        "compl",
        "concept",
        "const",
        "const_cast",
        "consteval",
        "constexpr",
        "constinit",
        "continue",
        "decltype",
        "default",
        "delete",
        "do",
        "double",
        "dynamic_cast",
        "else",
        "enum",
        "explicit",
        "export",
        "extern",
        "false",
        "final",
        "float",
        "for",
        "friend",
        "goto",
        "if",
        "import",
        "inline",
        "int",
        "long",
        "module",
        "mutable",
        "namespace",
        "new",
        "noexcept",
        "not",
        "not_eq",
        "nullptr",
        "operator",
        "or",
        "or_eq",
        "override",
        "private",
        "protected",
        "public",
        "reflexpr",
        "register",
        "reinterpret_cast",
        "requires",
        "restrict",
        "return",
        "short",
        "signed",
        "sizeof",
        "static",
        "static_assert",
        "static_cast",
        "struct",
        "switch",
        "synchronized",
        "template",
        "this",
        "thread_local",
        "throw",
        "true",
        "try",
        "typedef",
        "typeid",
        "typename",
        "typeof",
        "typeof_unqual",
        "union",
        "unsigned",
        "using",
        "virtual",
        "void",
        "volatile",
        "wchar_t",
        "while",
        "xor",
        "xor_eq",
        "main",
        "errno",
        "stdin",
        "stdout",
        "stderr",
        "linux",
        "unix",
        "i386",
        "NULL",
        "EOF",
    ]
)
# Types and limits of <stdint.h>, which the header includes: ports of a model `int8` would be called
# as they are.
_STDINT = re.compile(
    r"u?int(_least|_fast)?(8|16|32|64)(_t|_c)?|u?int(max|ptr)(_t|_c)?|size|ptrdiff", re.IGNORECASE
)
# Reserved by C, or by the interpreter that loads the code.
_RESERVED = re.compile(r"__.*|_[A-Z].*|Py.*|_Py.*|gradc_.*|llvm.*|memcpy|memset|memmove|memcmp")


def problem(name: str) -> str:
    """Why ``name`` cannot be the symbol of an entry, or an empty string."""
    if not name.isidentifier() or not name.isascii():
        return "it is no identifier of C"
    if name in _WORDS:
        return "it is a word of C or C++"
    if _STDINT.fullmatch(name) or _RESERVED.fullmatch(name):
        return "it is reserved"
    if any(hasattr(library, name) for library in _libraries()):
        return "the C library has a symbol of this name"
    return ""


def inner_name(name: str) -> str:
    """``name``, or one like it that an entry can have."""
    if not problem(name):
        return name
    return "entry_" + re.sub(r"[^0-9A-Za-z_]", lambda found: f"u{ord(found[0]):x}", name)


@functools.cache
def _libraries() -> tuple[ctypes.CDLL, ...]:
    """The C library and its mathematics, where this system has them under their usual names."""
    found = []
    for name in ("libc.so.6", "libm.so.6", "libSystem.dylib"):
        try:
            found.append(ctypes.CDLL(name))
        except OSError:
            continue
    return tuple(found)
