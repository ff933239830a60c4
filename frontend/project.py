"""A program and the files it imports.

An ``import`` names a file by its path relative to the importing file. Everything it can reach lies
in the project directory, the directory of the first file: absolute paths, ``..`` and symbolic links
that lead out of it are refused, so reading a stranger's model never reads anything else.

Invariants of the result: every file once, each after all files it imports, the first file last.
Non-goals: what a file's declarations mean to another (``frontend`` names).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from gradc.frontend.syntax import tree
from gradc.frontend.syntax.diagnostics import (
    Diagnostic,
    DiagnosticError,
    Report,
    did_you_mean,
    error,
)
from gradc.frontend.syntax.limits import MAX_IMPORT_DEPTH, MAX_IMPORTED_FILES
from gradc.frontend.syntax.parse import parse
from gradc.frontend.syntax.source import Source, from_text, read

# What makes a tree of a text, and reports what is wrong with it.
Reader = Callable[[Source, Report], tree.Program]

_IMPORT = re.compile(r'^[ \t]*import[ \t]*"([^"\n]*)"', re.MULTILINE)


def skim(source: Source, report: Report) -> tree.Program:
    """A tree of the imports alone, as they look: for texts of which a parser is known to have found
    the same (``imports_of``).
    """
    report.sources.add(source)
    nowhere = source.span(1, 1, 1, 1)
    found = (match.group(1) for match in _IMPORT.finditer(source.text))
    imports = (tree.Import(nowhere, tree.StringLiteral(nowhere, path)) for path in found)
    return tree.Program(nowhere, tuple(imports))


def imports_of(program: tree.Program) -> list[str]:
    """The paths that a file imports, in order."""
    return [d.path.value for d in program.declarations if isinstance(d, tree.Import)]


def load_program(path: Path, report: Report, reader: Reader = parse) -> tuple[tree.Program, ...]:
    """The program in the file at ``path`` and all it imports, the file itself last.

    Raises:
        DiagnosticError: if a file cannot be read, leaves the project, or is not well formed.
    """
    source = _read(path, str(path), report)
    loader = _Loader(path.resolve().parent, report, reader)
    loader.load(source, path.resolve())
    report.raise_errors()
    return tuple(loader.programs)


def load_text(
    text: str,
    report: Report,
    name: str = "<string>",
    directory: Path | None = None,
    reader: Reader = parse,
) -> tuple[tree.Program, ...]:
    """As ``load_program`` for text that is not in a file; without a directory it cannot import.

    Raises:
        DiagnosticError: as ``load_program``.
    """
    root = directory.resolve() if directory is not None else None
    loader = _Loader(root, report, reader)
    loader.load(from_text(text, name), root / name if root is not None else None)
    report.raise_errors()
    return tuple(loader.programs)


def _read(path: Path, name: str, report: Report) -> Source:
    try:
        return read(path, name)
    except DiagnosticError as problem:
        for source in problem.sources:
            report.sources.add(source)
        for diagnostic in problem.diagnostics:
            report.add(diagnostic)
        raise DiagnosticError(report.diagnostics, report.sources) from None


@dataclass(frozen=True)
class _File:
    """A file that is being loaded: its place on disk, its tree, and the imports still to follow."""

    path: Path | None
    program: tree.Program
    pending: list[tree.Import]


@dataclass
class _Loader:
    """Loads files depth first; the stack holds those whose imports are being followed."""

    root: Path | None
    report: Report
    reader: Reader
    programs: list[tree.Program] = field(default_factory=list)
    stack: list[_File] = field(default_factory=list)
    seen: dict[Path, bool] = field(default_factory=dict)

    def load(self, source: Source, path: Path | None) -> None:
        """Load ``source`` and all it reaches. Raises DiagnosticError for unreadable files."""
        self._open(source, path)
        while self.stack:
            current = self.stack[-1]
            if current.pending:
                self._follow(current.pending.pop(0), current)
                continue
            self.programs.append(current.program)
            self.stack.pop()

    def _open(self, source: Source, path: Path | None) -> None:
        program = self.reader(source, self.report)
        imports = [d for d in program.declarations if isinstance(d, tree.Import)]
        self.stack.append(_File(path, program, imports))
        if path is not None:
            self.seen[path] = True

    def _follow(self, item: tree.Import, current: _File) -> None:
        """Open the file that ``item`` names, unless it is loaded already or must not be."""
        target = self._resolve(item, current)
        if isinstance(target, Diagnostic):
            self.report.add(target)
            return
        if any(file.path == target for file in self.stack):
            self.report.add(self._cycle(item, target))
            return
        if target in self.seen:
            return
        if len(self.stack) > MAX_IMPORT_DEPTH or len(self.seen) >= MAX_IMPORTED_FILES:
            limit = f"{MAX_IMPORT_DEPTH} levels deep or {MAX_IMPORTED_FILES} files"
            message = f"imports go on for more than {limit}"
            self.report.add(error("GC0013", message, item.span))
            return
        self._open_file(item, target)

    def _open_file(self, item: tree.Import, target: Path) -> None:
        assert self.root is not None
        name = _shown_name(self.stack[0].program.span.file, target, self.root)
        try:
            source = read(target, name)
        except DiagnosticError as problem:
            for text in problem.sources:
                self.report.sources.add(text)
            found = problem.diagnostics[0]
            if found.span is None:
                found = error(found.code, found.message, item.path.span, help=found.help)
            self.report.add(found)
            return
        self._open(source, target)

    def _resolve(self, item: tree.Import, current: _File) -> Path | Diagnostic:
        """The file that ``item`` names, or why it cannot be imported."""
        text, place = item.path.value, item.path.span
        if self.root is None or current.path is None:
            message = "a program that is not in a file cannot import others"
            return error("GC0010", message, place, help="save it in a file")
        if not text.endswith(".grad"):
            message = f'`"{text}"` is not a program: its name does not end in `.grad`'
            return error("GC0010", message, place)
        if "\\" in text or PurePosixPath(text).is_absolute() or ":" in text:
            message = f'`"{text}"` is not a path within the project'
            help = "write it relative to this file, with `/`"
            return error("GC0011", message, place, help=help)
        try:
            target = (current.path.parent / text).resolve()
            exists = target.is_file()
        except (OSError, RuntimeError, ValueError):
            return error("GC0010", f'cannot find `"{text}"`', place)
        if not target.is_relative_to(self.root):
            message = f'`"{text}"` leads out of the project directory'
            note = f"the project is the directory of `{self.stack[0].program.span.file}`"
            return error("GC0011", message, place, notes=[note])
        if not exists:
            return error("GC0010", f'cannot find `"{text}"`', place, help=_similar(target))
        return target

    def _cycle(self, item: tree.Import, target: Path) -> Diagnostic:
        """Files that import each other, with the imports that lead around."""
        start = next(i for i, file in enumerate(self.stack) if file.path == target)
        around = [file.program.span.file for file in self.stack[start:]]
        chain = " -> ".join([*around, around[0]])
        if start == len(self.stack) - 1:
            return error("GC0012", "a file imports itself", item.span)
        return error("GC0012", "files import each other", item.span, notes=[chain])


def _shown_name(first: str, target: Path, root: Path) -> str:
    """How messages call ``target``: relative to the first file's directory as it was given."""
    return str(Path(first).parent / target.relative_to(root))


def _similar(target: Path) -> str:
    """A help line naming a file of the same directory with a similar name, or an empty string."""
    try:
        names = sorted(p.name for p in target.parent.iterdir() if p.suffix == ".grad")
    except OSError:
        return ""
    return did_you_mean(target.name, names[:1000])
