"""What this machine's arithmetic and memory allow, measured and kept.

``limits`` gives them from the cache folder, or measures (a second or two) and keeps them there,
under the processor and the number of threads; ``gradc doctor --measure`` measures anew. The
backend measures (``codegen.backend``).

``bandwidth`` is a curve over how many bytes are gone through: what fits into a cache comes faster
than what does not. Bytes that a launch touches cannot come from a cache that does not hold them, so
the figure for its own bytes is a bound on it, wherever they lie.

Non-goals: limits of other machines, of accelerators.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from gradc.codegen.backend import Store
from gradc.codegen.measured import Limits
from gradc.runtime.native.cache import Entry, ObjectCache, make_key
from gradc.runtime.native.load import backend_of
from gradc.runtime.native.room import machine_bytes

_FORMAT = "limits 1"


def described(found: Limits) -> str:
    """The figures in a line of text."""
    peaks = ", ".join(f"{name} {rate / 1e9:.3g}" for name, rate in found.flops.items())
    nearest = found.bandwidth[0][1]
    text = f"{peaks} GF/s, memory {found.memory / 1e9:.3g} GB/s, first cache {nearest / 1e9:.3g}"
    busy = "; the machine was busy" if found.is_disturbed else ""
    return f"{text} ({found.processor}, measured {found.date}{busy})"


class _Unkept:
    """A store that lasts as long as the process."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}

    def key(self, *parts: str | bytes) -> str:
        return make_key(*parts)

    def get(self, key: str) -> Entry | None:
        return self._entries.get(key)

    def put(self, key: str, header: Mapping[str, Any], code: bytes) -> bool:
        self._entries[key] = Entry(dict(header), code)
        return True


_UNKEPT = _Unkept()


def limits(
    threads: int,
    *,
    anew: bool = False,
    keep: bool = True,
    store: Store | None = None,
    report: Callable[[str], None] | None = None,
    target: str = "cpu",
) -> Limits:
    """What ``threads`` threads of this machine can do at most; from the cache unless ``anew``.

    ``keep`` off leaves the cache alone; ``report`` is told what is measured, if anything is.

    Raises:
        DiagnosticError: GC0563 if nothing is measured of ``target``.
    """
    if store is None:
        store = ObjectCache() if keep else _UNKEPT
    chosen = backend_of(target)
    text = "\n".join((_FORMAT, chosen.identity(), str(threads)))
    key = hashlib.blake2b(text.encode(), digest_size=20).hexdigest()
    entry = None if anew else store.get(key)
    if entry is not None:
        try:
            return Limits.from_json(entry.header)
        except (KeyError, TypeError, ValueError):
            pass  # measured again and replaced
    if report is not None:
        report(f"measuring what {threads} thread{'s' * (threads > 1)} can do on this machine")
    found = chosen.limits(threads, store, machine_bytes())
    if threads > 1:
        found = _at_least(found, limits(1, store=store, report=report, target=target))
    store.put(key, found.to_json(), b"")
    return found


def _at_least(found: Limits, alone: Limits) -> Limits:
    """``found`` of several threads, which can do no less than one: where they were held up, what
    one was seen to do.
    """
    flops = {name: max(rate, alone.peak(name)) for name, rate in found.flops.items()}
    rates = [
        max(mine[1], one[1]) for mine, one in zip(found.bandwidth, alone.bandwidth, strict=True)
    ]
    curve = tuple((size, rate) for (size, _), rate in zip(found.bandwidth, rates, strict=True))
    return replace(found, flops=flops, bandwidth=curve)
