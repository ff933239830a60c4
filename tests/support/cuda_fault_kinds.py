"""What ``cuda_faults`` changes in a line of a kernel text: a pattern, and what it becomes."""

from __future__ import annotations

import re
from collections.abc import Callable

Change = Callable[[re.Match[str]], str]


def _plus(match: re.Match[str]) -> str:
    return f"{match[1]}{match[2]} + 1)"


def _next_distance(match: re.Match[str]) -> str:
    return f"{match[1]}, {16 if match[2] == '1' else int(match[2]) // 2})"


def _twice(match: re.Match[str]) -> str:
    """Half the stride, where there are so many lanes that some come twice."""
    end, stride = int(match[1]), int(match[2])
    return f"range(t, {end}, {stride // 2 if end > stride // 2 else stride})"


def _left_out(match: re.Match[str]) -> str:
    return f"{match[1]}pass"


LINES: dict[str, tuple[str, Change]] = {
    "barrier missing": (r"^(\s*)barrier\(\)$", _left_out),
    "barrier in a branch": (r"^(\s*)barrier\(\)$", lambda m: f"{m[1]}if t < 7: barrier()"),
    "shuffle distance": (r"(shuffle_xor\(\w+), (1|2|4|8|16)\)", _next_distance),
    "index of a load": (r"(load\(\w+, )([^()]*)\)", _plus),
    "stored by two": (r"if t == 0:", lambda m: "if t < 2:"),
    "stored by nobody": (r"if t == 0:", lambda m: "if t < 0:"),
    "one trip more": (r"range\((\d+)\)", lambda m: f"range({int(m[1]) + 1})"),
    "one trip fewer": (r"range\((\d+)\)", lambda m: f"range({int(m[1]) - 1})"),
    "lanes beyond": (r"range\(t, (\d+), ", lambda m: f"range(t, {int(m[1]) + 1}, "),
    "lanes twice": (r"range\(t, (\d+), (\d+)\)", _twice),
    "guard moved": (r"if (\w+) < (\d+):", lambda m: f"if {m[1]} < {int(m[2]) + 1}:"),
    "sum turned": (r"= (\w+) \+ (\w+)$", lambda m: f"= {m[1]} - {m[2]}"),
    "rounded twice": (
        r"= fma\((load\([^()]*\)), (load\([^()]*\)), (\w+)\)$",
        lambda m: f"= {m[1]} * {m[2]} + {m[3]}",
    ),
    "factor of an address": (
        r"(load|store)\((\w+), (\d+) \*",
        lambda m: f"{m[1]}({m[2]}, {int(m[3]) + 1} *",
    ),
    "misaligned": (r"load4\((\w+), ", lambda m: f"load4({m[1]}, 1 + "),
    # Copies that are on their way.
    "copies awaited too few": (
        r"^(\s*)wait_copies\((\d+)\)$",
        lambda m: f"{m[1]}wait_copies({int(m[2]) + 1})",
    ),
    "copies not awaited": (r"^(\s*)wait_copies\(\d+\)$", _left_out),
    "copies not committed": (r"^(\s*)commit_copies\(\)$", _left_out),
    "half a copy": (
        r"(copy_async\(.*), (8|4), (.*)\)$",
        lambda m: f"{m[1]}, {int(m[2]) // 2}, {m[3]})",
    ),
    "copied from the next": (
        r"(copy_async\(\w+, .*?, \w+), (.*)\)$",
        lambda m: f"{m[1]}, 1 + {m[2]})",
    ),
    "copied to the next": (r"copy_async\((\w+), ", lambda m: f"copy_async({m[1]}, 1 + "),
    "guard of a copy": (r"(copy_async\(.*) < (\d+)\)", lambda m: f"{m[1]} < {int(m[2]) + 1})"),
    "copy not guarded": (r"(copy_async\(.*, \d+), \(.*\)\)$", lambda m: f"{m[1]}, t >= 0)"),
    "slot reused too early": (r"^(\s*)free = (.*)$", lambda m: f"{m[1]}free = now"),
    "slot not turned": (r"^(\s*)now = (?:1 - now|now \+ 1|bitand\(now \+ 1, 3\))$", _left_out),
    # Products of groups: what describes a factor, fences, batches.
    "factor begins elsewhere": (
        r"(group_\w+\(\w+, \w+, \w+)(.*)$",
        lambda m: f"{m[1]} + 32{m[2]}",
    ),
    "factor in another layout": (
        r"(group_\w+\(.*), (0|1)\)$",
        lambda m: f"{m[1]}, {1 - int(m[2])})",
    ),
    "factors swapped": (
        r"(group_\w+\(\w+), (\w+), ([^,]*), (\d), (\w+), ([^,]*), (\d)\)$",
        lambda m: f"{m[1]}, {m[5]}, {m[6]}, {m[7]}, {m[2]}, {m[3]}, {m[4]})",
    ),
    "not published": (r"^(\s*)publish\(\)$", _left_out),
    "sums not ready": (r"^(\s*)(\w+) = ready\(\2\)$", _left_out),
    "products not committed": (r"^(\s*)commit_products\(\)$", _left_out),
    "products awaited too few": (
        r"(wait_products\(\w+), (\d)\)",
        lambda m: f"{m[1]}, {int(m[2]) + 1})",
    ),
    "products not awaited": (r"^(\s*)(\w+) = wait_products\(\w+, \d\)$", _left_out),
    # Fragments of a warp's products.
    "matrix of another place": (
        r"(matrices\(\w+, \w+ \+ \w+) \+ (\d+)\)",
        lambda m: f"{m[1]} + {int(m[2]) + 8})",
    ),
    "matrix turned": (r" (turned_)?matrices\(", lambda m: f" {'' if m[1] else 'turned_'}matrices("),
    "sums of another": (r"turned\(acc, 4\)", lambda m: "turned(acc, 5)"),
    "chunks not swapped": (r"bitxor\((\w+), mod\(.*?\), \d\)\)", lambda m: m[1]),
    # Strips, and sums over parts of k.
    "rectangle left out": (r"if \((.*column) >= 0\):", lambda m: f"if ({m[1]} >= 16):"),
    "rectangle taken": (r"if \((.*column) >= 0\):", lambda m: f"if ({m[1]} >= -4096):"),
    "part of k begins elsewhere": (r"(first = \d+ \* \w+)$", lambda m: f"{m[1]} + 1"),
    "part of k ends elsewhere": (
        r"min\(first \+ (\d+), (\d+)\)",
        lambda m: f"min(first + {m[1]}, {int(m[2]) + 1})",
    ),
    "part of another tile": (
        r"(down|across) = (mod|floordiv)\(b, (\d+)\)",
        lambda m: f"{m[1]} = {m[2]}(b, {int(m[3]) + 1})",
    ),
    "part left out": (r"= (\w+) \+ (part_\d+)$", lambda m: f"= {m[1]}"),
}
# Kinds that take away nothing but order between threads: where no access needs it, the simulator
# finds no race, and every order computes the same.
ORDERING = (
    "barrier missing",
    "copies awaited too few",
    "copies not awaited",
    "copies not committed",
    "not published",
    "sums not ready",
    "products not committed",
    "products awaited too few",
    "products not awaited",
)
