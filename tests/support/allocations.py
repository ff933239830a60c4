"""Counts every allocation of a process: a library to preload, which stands in for the allocator and
passes calls on.

A watched process finds ``seen_calls`` and ``seen_bytes`` with ``ctypes.CDLL(None)``.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gradc.runtime.native.cache import default_directory

ROOT = Path(__file__).resolve().parent.parent.parent

COUNTER = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
static long count, bytes;
#define REAL(type, name, ...) static type (*real)(__VA_ARGS__); \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)
#define NOTE(n) (__atomic_fetch_add(&count, 1, 5), __atomic_fetch_add(&bytes, (long)(n), 5))
extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
void *malloc(size_t n) { NOTE(n); return __libc_malloc(n); }
void *calloc(size_t n, size_t m) { NOTE(n * m); return __libc_calloc(n, m); }
void *realloc(void *p, size_t n) { NOTE(n); return __libc_realloc(p, n); }
int posix_memalign(void **p, size_t a, size_t n) {
    REAL(int, "posix_memalign", void **, size_t, size_t); NOTE(n); return real(p, a, n); }
void *aligned_alloc(size_t a, size_t n) {
    REAL(void *, "aligned_alloc", size_t, size_t); NOTE(n); return real(a, n); }
void *mmap(void *p, size_t n, int r, int f, int d, long o) {
    REAL(void *, "mmap", void *, size_t, int, int, int, long);
    NOTE(n); return real(p, n, r, f, d, o); }
long seen_calls(void) { return count; }
long seen_bytes(void) { return bytes; }
"""


def build(folder: Path) -> Path:
    """The library, compiled in ``folder``; skips the test where that cannot be done."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C compiler and Linux's preloading")
    source, library = folder / "counter.c", folder / "counter.so"
    source.write_text(COUNTER)
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot compile the counter: {done.stderr[:200]}")
    return library


def watched(library: Path, command: list[str]) -> subprocess.CompletedProcess[str]:
    """Runs ``command`` with the library preloaded and the object cache of this process."""
    environment = {
        "LD_PRELOAD": str(library),
        "PATH": "/usr/bin:/bin",
        "GRADC_CACHE": str(default_directory()),
    }
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
