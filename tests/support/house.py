"""The plan of the house in figures.

    python -m tests.support.house

Modules per folder, arrows between rooms and those that point upwards, imports inside functions,
circles, files that name an op, tables of op names, lines over 100 columns.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.support.op_tables import VERBS, comparisons, naming, tables
from tests.test_layers import (
    FOLDERS,
    all_files,
    imported,
    imports,
    library_files,
    parse,
    place,
)
from tests.test_rooms import room_of, typing_only, upward


def per_folder() -> Counter[str]:
    """Python modules by folder and room."""
    return Counter("/".join(place(p).split("/")[:2]) for p in library_files())


def arrows() -> set[tuple[str, str]]:
    """Pairs of rooms, the first of which imports the second when the program runs."""
    found = set()
    for path in library_files():
        own = room_of(tuple(place(path).removesuffix(".py").split("/")))
        for module, _, _ in imported(path):
            theirs = room_of(tuple(module.split(".")[1:])) if module.startswith("gradc.") else None
            if own and theirs and own != theirs:
                found.add(("/".join(own), "/".join(theirs)))
    return found


def circles() -> list[tuple[str, ...]]:
    """Modules that import each other, round about, when they are loaded."""
    graph = {name_of(p): _loads(p) for p in library_files()}
    found, done = list[tuple[str, ...]](), set[str]()

    def walk(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            found.append(path[path.index(name) :])
        elif name not in done:
            for other in sorted(graph.get(name, ())):
                walk(other, (*path, name))
            done.add(name)

    for name in sorted(graph):
        walk(name, ())
    return found


def name_of(path: Path) -> str:
    """The dotted name of a module's file."""
    name = place(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    return name if name.startswith("gradc") else f"gradc.{name}"


def _loads(path: Path) -> set[str]:
    from_top = typing_only(parse(path))
    known = {name for name, _, inside in imports(from_top) if not inside}
    return known & MODULES - {name_of(path)}


MODULES = {name_of(p) for p in library_files() if p.name != "__init__.py"}


def main() -> None:
    rooms = per_folder()
    for folder in FOLDERS:
        inside = {r: n for r, n in rooms.items() if r.split("/")[0] == folder}
        print(f"{folder}: {sum(inside.values())} modules: {dict(sorted(inside.items()))}")
    files = [p for p in library_files() if p.name != "__init__.py" and place(p)[0] != "g"]
    faults = [f for p in files for f in upward(place(p), typing_only(parse(p)))]
    print(f"arrows between rooms: {len(arrows())}; upwards: {len(faults)}")
    late = [m for p in library_files() for m, _, i in imported(p) if i and m.startswith("gradc")]
    print(f"imports of our own inside functions: {len(late)}; circles: {len(circles())}")
    for op in ("conv2d", "gelu", "softmax"):
        print(f"files outside ir/ops and words with the string {op!r}: {len(naming(op))}")
    print(f"tables of op names outside ir/ops: {sum(not t.is_of_verbs for t in tables())}")
    single = sum(op not in VERBS for _, _, op in comparisons())
    print(f"comparisons of an op's name: {single}, and {len(comparisons()) - single} of verbs")
    long = [p for p in all_files() if any(len(x) > 100 for x in p.read_text("utf-8").splitlines())]
    print(f"files with lines over 100 columns: {len(long)}")


if __name__ == "__main__":
    main()
