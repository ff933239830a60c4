"""Machines for tests: limits measured in a hurry, and limits that nobody measured."""

from __future__ import annotations

import pytest

from gradc.codegen.llvm.host import measure
from gradc.codegen.measured import Limits


def quick_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the limits of this machine be measured in milliseconds, and badly."""
    monkeypatch.setattr(measure, "ROUNDS", 2)
    monkeypatch.setattr(measure, "_PATIENCE", 0.0)
    monkeypatch.setattr(measure, "_ROUND_SECONDS", 1e-4)
    monkeypatch.setattr(measure, "_SIZES", (1 << 14, 1 << 18))
    monkeypatch.setattr(measure, "_beyond_caches", lambda _: 1 << 20)


def made_up(threads: int, **_: object) -> Limits:
    """A machine of round figures; takes what ``limits`` takes."""
    flops = {"f64": threads * 16e9, "f32": threads * 32e9}
    curve = ((1 << 14, threads * 64e9), (1 << 20, threads * 32e9), (1 << 27, 16e9))
    return Limits("a made-up processor", "2026-01-01 00:00", threads, flops, curve, 1.0)
