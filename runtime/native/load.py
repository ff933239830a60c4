"""Compiled Plans: a backend's code, from the object cache where it was made before.

Non-goals: what code is and how it is called (``codegen.backend``), converting arrays
(``runtime.arrays``).
"""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING

import numpy as np

from gradc.codegen.backend import Backend, Loaded, Signature, backend
from gradc.ir.plan.plan import Plan
from gradc.runtime import needs
from gradc.runtime.native.cache import ObjectCache, make_key

if TYPE_CHECKING:
    from gradc.ir.target.target import Target
    from gradc.passes.place.scratch import Scratch


def backend_of(target: str) -> Backend:
    """The backend that users call ``target``.

    Raises:
        ImportError: that says what to install, where a library that it needs is missing.
    """
    with needs.told():
        return backend(target)


def compile_plan(
    plan: Plan,
    *,
    threads: int,
    isa: str | None = None,
    cache: ObjectCache | bool = True,
    key: str | None = None,
    level: int = 0,
    target: str = "cpu",
) -> Loaded:
    """Code for ``plan``, from the cache if it was made before.

    A Plan without scratch is completed for this machine; the function's ``plan`` is the complete
    one. ``isa`` is a name that the backend knows, None for all that the host has. ``key`` names the
    cache entry (``load_native`` finds it again without a Plan); by default it follows from the
    code's text.

    Raises:
        PlanError: if the Plan is not placed or contradicts itself.
    """
    chosen = backend_of(target)
    machine = chosen.target(threads, isa)
    if not plan.threads:
        from gradc.passes.place.scratch import place_scratch

        plan = place_scratch(plan, machine, scratch_of(target, machine))
    made = chosen.emit(plan, machine, level)
    header = made.signature.to_json()
    store = cache_of(cache)
    if key is None:
        parts = (made.text, json.dumps(header, sort_keys=True), str(level))
        key = make_key(*chosen.environment(store), *parts)
    entry = store.get(key) if store is not None else None
    if entry is None:
        code = made.assemble()
        if store is not None:
            store.put(key, header, code)
    else:
        code = entry.code
    function = chosen.load(made.signature, code, threads, store)
    function.plan = plan
    function.llvm_text = made.text
    function.assembly = made.assembly
    return function


def scratch_of(name: str, target: Target) -> Scratch:
    """What kernels need of the backend ``name`` for ``target``."""
    chosen = backend_of(name)
    return functools.cache(lambda kernel: chosen.scratch(kernel, target))


def load_native(
    key: str, *, threads: int, cache: ObjectCache | bool = True, target: str = "cpu"
) -> Loaded | None:
    """The function stored under ``key``, without its Plan; None if it must be compiled."""
    store = cache_of(cache)
    entry = store.get(key) if store is not None else None
    if entry is None:
        return None
    try:
        signature = Signature.from_json(entry.header)
    except (KeyError, TypeError, ValueError):
        return None
    return backend_of(target).load(signature, entry.code, threads, store)


def native_key(*parts: str | bytes, cache: ObjectCache | bool = True, target: str = "cpu") -> str:
    """A cache key for ``compile_plan``: digest of ``parts``, gradc, NumPy, and what the backend's
    code depends on.
    """
    return make_key(*backend_of(target).environment(cache_of(cache)), np.__version__, *parts)


def cache_of(cache: ObjectCache | bool) -> ObjectCache | None:
    """The cache that is meant: one, the user's, or none."""
    if isinstance(cache, ObjectCache):
        return cache
    return default_cache() if cache else None


@functools.cache
def default_cache() -> ObjectCache:
    """The user's cache."""
    return ObjectCache()
