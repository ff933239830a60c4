"""What the soaks share: seeded cases, a limit of seconds for each, counts, progress on stderr, a
summary as text or JSON, and a file from which one that was stopped goes on.

A case gives an empty text, or what went wrong. A case that computes, or waits, for longer than
``HANG`` seconds is a hang.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

HANG = 10.0  # seconds
_BUSY = 0.05  # of the processor: who uses less, waits
_EVERY = 2.0  # seconds between two lines of progress, and two writings of the state


class Hang(BaseException):
    """A case took too long. Not an Exception, so that nothing on the way keeps it."""


@dataclass
class Tally:
    """What came of the cases so far."""

    name: str
    seed: int
    cases: int = 0
    seconds: float = 0.0
    kinds: Counter[str] = field(default_factory=Counter)
    tracebacks: list[str] = field(default_factory=list)
    hangs: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not (self.tracebacks or self.hangs or self.lost)

    def line(self) -> str:
        """The summary."""
        counts = ", ".join(f"{n} {kind}" for kind, n in sorted(self.kinds.items()))
        return (
            f"{self.name}: {self.cases} cases (seed {self.seed}), {len(self.tracebacks)} "
            "tracebacks, "
            f"{len(self.hangs)} hangs over {HANG:.0f} s, {len(self.lost)} lost or wrong; "
            f"{self.seconds:.0f} s" + (f" ({counts})" if counts else "")
        )

    def to_json(self) -> dict[str, object]:
        failures = {"tracebacks": self.tracebacks, "hangs": self.hangs, "lost": self.lost}
        rest = {"name": self.name, "seed": self.seed, "cases": self.cases, "seconds": self.seconds}
        return {**rest, "kinds": dict(self.kinds), **failures}

    def write(self, path: Path) -> None:
        """The state, whole or not at all."""
        beside = path.with_name(path.name + ".new")
        beside.write_text(json.dumps(self.to_json(), indent=2) + "\n", encoding="utf-8")
        os.replace(beside, path)

    @staticmethod
    def read(path: Path, name: str, seed: int) -> Tally:
        """What an earlier process wrote, to go on from there; an empty one if none did."""
        if not path.exists():
            return Tally(name, seed)
        found = json.loads(path.read_text(encoding="utf-8"))
        if (found["name"], found["seed"]) != (name, seed):
            raise SystemExit(f"{path} is of {found['name']}, seed {found['seed']}")
        return Tally(**{**found, "kinds": Counter(found["kinds"])})


# Gets the random numbers of one case and the tally; returns what is lost or wrong, or an empty
# text.
Case = Callable[[random.Random, Tally], str]


def soak(
    name: str,
    case: Case,
    count: int,
    seed: int = 0,
    seconds: float = 1e9,
    state: Path | None = None,
    hang: float = HANG,
) -> Tally:
    """Runs cases until ``count`` are done, or for ``seconds``; with ``state``, from where the last
    process stopped. A case that takes more than ``hang`` seconds hangs.
    """
    tally = Tally(name, seed) if state is None else Tally.read(state, name, seed)
    earlier, started = tally.seconds, time.monotonic()
    shown = started
    for number in range(tally.cases, count):
        if time.monotonic() - started > seconds:
            break
        _one(case, number, tally, hang)
        if time.monotonic() - shown > _EVERY:
            shown = time.monotonic()
            tally.seconds = earlier + shown - started
            print(f"\r{tally.line()}", end="", file=sys.stderr, flush=True)
            if state is not None:
                tally.write(state)
    tally.seconds = earlier + time.monotonic() - started
    if state is not None:
        tally.write(state)
    return tally


def _one(case: Case, number: int, tally: Tally, hang: float) -> None:
    """Case ``number``, and what came of it."""
    label = f"case {number} of seed {tally.seed}"
    try:
        with limited(hang):
            wrong = case(random.Random(f"{tally.seed}/{number}"), tally)
        if wrong:
            tally.lost.append(f"{label}: {wrong}")
    except Hang as problem:
        tally.hangs.append(f"{label}: {''.join(traceback.format_exception(problem)[-4:])}")
    except Exception:  # noqa: BLE001  (any exception at all is what is looked for)
        tally.tracebacks.append(f"{label}: {traceback.format_exc(limit=-6)}")
    tally.cases += 1


@contextmanager
def limited(seconds: float = HANG) -> Iterator[None]:
    """Raises Hang inside if it takes longer. Main thread only.

    On a machine that is busy with other things a case gets little of the processor: then it may
    take as many seconds of processor time. One that waits for something gets no more; waiting for
    the processor is not meant.
    """
    started, used, queued = time.monotonic(), time.process_time(), _queued()

    def ring(_signum: int, _frame: FrameType | None) -> None:
        spent = time.process_time() - used
        elapsed = time.monotonic() - started - (_queued() - queued)
        if spent >= seconds or (spent < _BUSY * elapsed and elapsed >= seconds):
            raise Hang
        signal.setitimer(signal.ITIMER_REAL, max(1.0, seconds - max(spent, elapsed)) + 0.1)

    previous = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def _queued() -> float:
    """Seconds that this thread was ready to run and the processor busy with others; 0 where the
    system does not say.
    """
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def arguments(doc: str, count: int, keeps_state: bool = True) -> argparse.Namespace:
    """The flags that all soaks have; ``--state`` where cases come one after the other."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--count", type=int, default=count, help=f"cases ({count})")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after so many")
    if keeps_state:
        parser.add_argument("--state", type=Path, help="go on from this file, kept up to date")
    parser.add_argument("--json", action="store_true", help="the summary as JSON")
    return parser.parse_args()


def report(tally: Tally, as_json: bool) -> int:
    """Prints the summary; status 1 if anything is wrong."""
    print(file=sys.stderr)
    for kind in ("tracebacks", "hangs", "lost"):
        for text in getattr(tally, kind)[:20]:
            print(f"{kind}: {text}", file=sys.stderr)
    print(json.dumps(tally.to_json(), indent=2) if as_json else tally.line())
    return 0 if tally.ok else 1


def command(
    doc: str | None, count: int, work: Callable[..., Tally], keeps_state: bool = True
) -> int:
    """A soak as a command: ``work(count, seed, seconds, state)`` with what the flags say."""
    options = arguments(doc or "", count, keeps_state)
    given = [options.count, options.seed, options.seconds]
    return report(work(*given, *([options.state] if keeps_state else [])), options.json)
