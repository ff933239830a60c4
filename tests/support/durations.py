"""CPU seconds of every test function, measured and kept in ``tests/durations.tsv``.

`pytest --measure` renews the rows of what runs: per test function, the CPU seconds of all its
cases, child processes included. Functions over ``QUICK_SECONDS`` are marked ``slow`` when tests are
collected, so that `-m "not slow"` is the part to run after every change. A function that has no
row yet is quick.
"""

from __future__ import annotations

import resource
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

PATH = Path(__file__).resolve().parent.parent / "durations.tsv"
QUICK_SECONDS = 0.3
_NAME = "cpu_seconds"


def function_of(nodeid: str) -> str:
    """The test function of a case: its id without parameters."""
    return nodeid.split("[", 1)[0]


def read(path: Path = PATH) -> dict[str, float]:
    """CPU seconds by test function; empty where nothing was measured yet."""
    if not path.exists():
        return {}
    rows = (line.split("\t") for line in path.read_text(encoding="utf-8").splitlines())
    return {name: float(seconds) for seconds, name in rows}


def write(seconds: Mapping[str, float], path: Path = PATH) -> None:
    """The file, slowest first; functions under a twentieth of a second have no row."""
    rows = sorted(((round(s, 1), name) for name, s in seconds.items()), key=lambda r: (-r[0], r[1]))
    path.write_text("".join(f"{s}\t{name}\n" for s, name in rows if s > 0), encoding="utf-8")


def mark_slow(items: Iterable[pytest.Item]) -> None:
    """Marks the cases of functions that take over ``QUICK_SECONDS`` in all."""
    known = read()
    for item in items:
        if known.get(function_of(item.nodeid), 0.0) > QUICK_SECONDS:
            item.add_marker(pytest.mark.slow)


def _cpu_seconds() -> float:
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


class Measure:
    """The plugin behind `--measure`; workers hand their figures on with the reports."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        started = _cpu_seconds()
        yield
        item.user_properties.append((_NAME, _cpu_seconds() - started))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for name, value in report.user_properties:
            if name == _NAME and report.when == "call":
                self.seconds[function_of(report.nodeid)] += float(str(value))

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if not hasattr(session.config, "workerinput"):  # in the process that hears of all tests
            write({**read(), **self.seconds})
