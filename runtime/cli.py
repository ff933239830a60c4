"""The command line: finds the subcommand, loads only its module, and turns every outcome into an
exit status.

Results go to stdout, messages to stderr. Status: 0 ok, 1 diagnostics, 2 usage, 3 verification
failed, 4 internal error (one line and a report file, never a bare traceback), 130/143 interrupted.

Invariants: no library but Python's own, and of gradc only what tells messages, is imported until a
subcommand runs.
Non-goals: what the subcommands do (``runtime.commands``).
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn, Protocol, TextIO, cast

from gradc._version import __version__
from gradc.ir.diagnostics.diagnostic import DiagnosticError, did_you_mean, error
from gradc.runtime import needs
from gradc.runtime.console import Console

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
OK, DIAGNOSTICS, USAGE, REFUTED, INTERNAL, INTERRUPTED = 0, 1, 2, 3, 4, 130

# Name, one line of help. The module is runtime.commands.<name>.
COMMANDS = (
    ("check", "parse and check a program; several diagnostics at once"),
    ("compile", "compile to a shared object, header and manifest, or show any stage"),
    ("run", "outputs of a model for given data"),
    ("grad", "loss and gradients for given data"),
    ("train", "train a model with a natively compiled step"),
    ("verify", "check that the compiled gradients are the gradients of the program"),
    ("plan", "memory: peak bytes, what is kept and recomputed, and why"),
    ("explain", "the whiteboard: forward and backward tables; or a diagnostic code"),
    ("diagnose", "vanishing, exploding, dead, symmetric, underflowing gradients"),
    ("bisect", "the first pass, op and line where a result goes wrong"),
    ("bench", "time a step, side by side with other frameworks"),
    ("profile", "where the time of a step goes, against the machine's limits"),
    ("fmt", "print a program canonically"),
    ("doctor", "what this machine offers: versions, CPU features, cache"),
    ("cache", "the compiled-object cache: info, clear"),
)


class Command(Protocol):
    """What a module of ``runtime.commands`` offers."""

    def add_arguments(self, parser: argparse.ArgumentParser, /) -> None: ...
    def run(self, options: argparse.Namespace, console: Console, /) -> int: ...


class _Parser(argparse.ArgumentParser):
    """argparse with our exit status and a did-you-mean for subcommands."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"{self.prog}: error: {message}\n")


def main(arguments: Sequence[str]) -> int:
    """Runs the command line and returns the exit status."""
    # Python has no stream where the caller closed the descriptor; what would be said there is
    # dropped.
    sys.stdout = sys.stdout or _nowhere()
    sys.stderr = sys.stderr or _nowhere()
    warnings.showwarning = _show_warning
    try:
        status = _dispatch(list(arguments))
        sys.stdout.flush()
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else USAGE
    except KeyboardInterrupt:
        print("gradc: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader went away; there is nobody to tell. Keep the interpreter from flushing again at
        # exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except OSError as problem:
        if problem.errno not in _DISK_FULL or problem.filename is not None:
            Console().diagnostics(_refused(problem))
            return DIAGNOSTICS
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"gradc: cannot write the results: {problem.strerror}", file=sys.stderr)
        return DIAGNOSTICS
    except Exception as problem:  # noqa: BLE001  (the last resort: whatever is left is our fault)
        return _failed(problem, Console())
    return status


def _failed(problem: Exception, console: Console) -> int:
    """A library that is missing is told; whatever else is left is our fault."""
    told = needs.missing(problem) if isinstance(problem, ImportError) else None
    if told is None:
        console.internal_error(problem)
        return INTERNAL
    message, help = told
    console.diagnostics(DiagnosticError([error("GC0582", message, None, help=help)]))
    return DIAGNOSTICS


def _show_warning(message: Warning | str, *_place: object, **_more: object) -> None:
    """A warning is for the user: what it says, and no line of gradc's own."""
    print(f"warning: {message}", file=sys.stderr)


def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")


def _dispatch(arguments: list[str]) -> int:
    name = next((a for a in arguments if not a.startswith("-")), None)
    if name is None or arguments[0].startswith("-"):
        _overview().parse_args(arguments)
        _overview().print_help()
        return OK if not arguments else USAGE
    if name not in dict(COMMANDS):
        return _unknown(name)
    command = cast("Command", import_module(f"gradc.runtime.commands.{name}"))
    parser = _Parser(prog=f"gradc {name}", description=dict(COMMANDS)[name], allow_abbrev=False)
    _add_common(parser)
    command.add_arguments(parser)
    options = parser.parse_args(arguments[1:])
    console = Console(color=options.color, error_format=options.error_format)
    return run_guarded(command, options, console)


def run_guarded(command: Command, options: argparse.Namespace, console: Console) -> int:
    """Runs a subcommand; diagnostics and internal errors become messages and a status."""
    try:
        return command.run(options, console)
    except DiagnosticError as found:
        console.diagnostics(found)
        return DIAGNOSTICS
    except (BrokenPipeError, KeyboardInterrupt):
        raise
    except MemoryError as problem:
        console.diagnostics(_no_memory(problem))
        return DIAGNOSTICS
    except Exception as problem:
        if isinstance(problem, OSError):
            raise
        return _failed(problem, console)


def _refused(problem: OSError) -> DiagnosticError:
    """What the operating system refused, where nothing else has said it."""
    at = f" `{os.fsdecode(problem.filename)}`" if isinstance(problem.filename, (str, bytes)) else ""
    reason = problem.strerror or type(problem).__name__
    message = f"the operating system refused{at}: {reason}"
    help = "look at permissions, free space, and whether the working folder still exists"
    return DiagnosticError([error("GC0580", message, None, help=help)])


def _no_memory(problem: MemoryError) -> DiagnosticError:
    help = "make the batch or the model smaller; `gradc plan` says what a call needs"
    detail = f": {problem}" if str(problem) else ""
    found = error("GC0604", f"this machine has not enough memory{detail}", None, help=help)
    return DiagnosticError([found])


def _add_common(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("common options")
    group.add_argument("--color", choices=("auto", "always", "never"), default="auto")
    group.add_argument("--error-format", choices=("human", "json"), default="human")


def _overview() -> argparse.ArgumentParser:
    width = max(len(name) for name, _ in COMMANDS)
    lines = "\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS)
    parser = _Parser(
        prog="gradc",
        description="A differentiation compiler: from a typed network to native forward+backward "
        "code.",
        epilog=f"commands:\n{lines}\n\n`gradc COMMAND --help` says more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="gradc COMMAND [options]",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"gradc {__version__}")
    return parser


def _unknown(name: str) -> int:
    hint = did_you_mean(name, [known for known, _ in COMMANDS]) or "`gradc --help` lists them"
    print(f"gradc: error: there is no command `{name}`; {hint}", file=sys.stderr)
    return USAGE
