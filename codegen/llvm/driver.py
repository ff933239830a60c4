"""From a Plan to one LLVM module: kernels, launch records, and an entry that walks the records.

``i32 @NAME(ptr ports, ptr arena, i64 threads)`` runs the steps in order. Launches are constant
data, read by one small loop: compile time is linear in the number of launches with a tiny constant,
however deep the network, and a ``Repeat`` costs what its body costs once. A record is i64 words:

    launch  [kernel, arguments, extent, parts] + per argument [base, byte offset, (stride, parity)
    per Repeat]
    repeat  [-1, trips, words of the body, byte offset of the counter cell or -1] + body
    abreast [-2, words of the body, rows, rows that stay together, parts] + body (``abreast``)

``base`` is a port's number or, for the arena, the number of ports. ``extent`` is the trip count of
the grid loop; ``parts`` is in how many ranges it is worth cutting, from the kernel's flops and
bytes alone. A kernel is called as ``kernel(ptr arguments, i64 begin, i64 end, i64 worker)``;
scratch is its last argument, if it has any, and worker w of the launch (the caller is 0) uses the
w-th equal part of it.

Invariants: all addresses are checked against the Plan here, before any code is made; nothing is
allocated; results do not depend on ``threads``; a call takes no more threads than the Plan has
scratch for.
Non-goals: making kernels (``nest``, ``gemm``), choosing the order or the placement (the Plan has
both).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from string import Template
from typing import TypeAlias

from gradc.codegen.llvm import abreast, clock, parting, static
from gradc.codegen.llvm.abreast import Abreast
from gradc.codegen.llvm.gemm import gemm
from gradc.codegen.llvm.isa import Isa
from gradc.codegen.llvm.nest import nest
from gradc.codegen.llvm.pool import MAX_WORKERS
from gradc.codegen.llvm.text import Module, Value
from gradc.ir.loop.kernel import For, Gemm, Kernel, Let, Stmt
from gradc.ir.plan.plan import Launch, Plan, Repeat, Step
from gradc.ir.plan.verify import PlanError
from gradc.ir.target.costs import Costs

# A kernel as it is called: its number, the rows that its ranges count (0: they count units), and
# how many of what they count stay together.
_Kind: TypeAlias = tuple[int, int, int]

# Scratch of a thread that products over panels have for all threads: a Repeat around may want them.
_SMALL = 4096


@dataclass(frozen=True, slots=True)
class Program:
    """A generated module: its text, and what loading and reporting need to know about it."""

    name: str
    text: str
    launches: int
    kernels: int


def extent(kernel: Kernel, isa: Isa) -> int:
    """How many independent pieces a launch of ``kernel`` has."""
    products = gemm.products(kernel)
    if products:
        return sum(gemm.units(product, isa) for product in products)
    if len(kernel.body) != 1:
        return 1
    (statement,) = kernel.body
    if isinstance(statement, For) and statement.kind == "grid" and statement.limit is None:
        return statement.extent
    return 1


def _units_together(kernel: Kernel, threads: int, isa: Isa) -> int:
    """How many pieces of ``kernel`` had best stay together for so many threads."""
    products = gemm.products(kernel)
    return gemm.units_together(products[0], threads, isa) if len(products) == 1 else 1


def microseconds(kernel: Kernel, costs: Costs) -> float:
    """A rough time of one launch on one core: its statements, counted, or its bytes."""
    return costs.microseconds(_cycles(kernel.body, 1.0, costs), kernel.bytes)


def estimate(plan: Plan, costs: Costs) -> float:
    """Microseconds of one call on one core, roughly."""
    return plan.total([microseconds(kernel, costs) for kernel in plan.kernels])


def _cycles(statements: Sequence[Stmt], times: float, costs: Costs) -> float:
    """Cycles, roughly, of statements that run ``times`` times."""
    total = 0.0
    for statement in statements:
        if isinstance(statement, For):
            lanes = costs.lanes if statement.kind == "vector" else 1
            total += _cycles(statement.body, times * statement.extent / lanes, costs)
        elif isinstance(statement, Gemm):
            count = math.prod(statement.batch) * statement.m * statement.n
            total += count * statement.k / costs.products
            total += _cycles(statement.epilogue, count / costs.lanes, costs)
        elif isinstance(statement, Let):
            total += times * costs.of(statement.verb).cycles
        else:
            total += times
    return total


def worthwhile_parts(kernel: Kernel, costs: Costs) -> int:
    """In how many ranges a launch is worth cutting, whatever the number of threads."""
    return costs.worthwhile_parts(microseconds(kernel, costs))


def generate(plan: Plan, isa: Isa, *, is_timed: bool = False) -> Program:
    """The module of ``plan`` for ``isa``; it calls ``gradc_parallel`` (``pool``) for what is worth
    cutting. A timed program's entry takes a log as well, and writes it (``clock``).

    Raises:
        PlanError: if the Plan is not placed or an address leaves its tensor.
    """
    check(plan)
    _check_scratch(plan, isa)
    module = Module(isa.triple, "", isa.attributes)
    records = _Records(plan, isa)
    words = list(records.steps(plan.steps, 0))
    names = [_emit(module, plan.kernels[kind[0]], kind, isa) for kind in records.used]
    table = ", ".join(f"ptr @{name}" for name in names)
    count = len(names)
    module.add_global("gradc.kernels", f"internal unnamed_addr constant [{count} x ptr] [{table}]")
    body = ", ".join(f"i64 {word}" for word in words)
    module.add_global(
        "gradc.records", f"internal unnamed_addr constant [{len(words)} x i64] [{body}]"
    )
    most = max((len(kernel.buffers) for kernel in plan.kernels), default=0)
    is_parted = bool(records.abreast)
    text = module.text() + _entry(plan, len(words), most, is_timed, is_parted)
    if is_timed:
        text += clock.definitions(plan.name, isa.triple.split("-")[0])
    text += "declare void @gradc_parallel(ptr, ptr, i64, i64)\n"
    return Program(plan.name, text, len(plan.launches), count)


def scratch_bytes(kernel: Kernel, isa: Isa, threads: int) -> int:
    """Scratch of one launch of ``kernel``: what a thread needs, for as many as may run it
    together.
    """
    each = nest.scratch_bytes(kernel, isa)
    if not each:
        return 0
    most = min(worthwhile_parts(kernel, isa.costs), extent(kernel, isa))
    if each <= _SMALL:
        most = max(most, abreast.shareable_rows(kernel, isa))
    return each * max(1, min(threads, most, MAX_WORKERS + 1))


@dataclass(frozen=True, slots=True)
class Site:
    """A launch in the records: where its record begins (words), how often a call runs it, and in
    how many parts at most.
    """

    launch: Launch
    word: int
    runs: int
    parts: int


def sites(plan: Plan, isa: Isa) -> tuple[Site, ...]:
    """Every launch of ``plan`` where its record lies, in order."""
    records = _Records(plan, isa)
    cuts = list(map(min, records.parts, records.pieces))
    found, _ = _sites(plan.steps, 0, 0, 1, cuts, records.abreast)
    return tuple(found)


def _sites(
    steps: Sequence[Step],
    word: int,
    depth: int,
    runs: int,
    cuts: Sequence[int],
    shared: Mapping[int, Abreast],
) -> tuple[list[Site], int]:
    """The launches of ``steps``, whose records begin at ``word``, and the word after them."""
    found: list[Site] = []

    def launch(step: Launch) -> int:
        found.append(Site(step, word, runs, cuts[step.kernel]))
        arguments = len(step.arguments) + (step.scratch is not None)
        return word + 4 + arguments * (2 + 2 * depth)

    def repeat(step: Repeat) -> int:
        here = shared.get(id(step))
        start = word + 4 + (0 if here is None else parting.WORDS)
        parts = cuts if here is None else [here.parts] * len(cuts)
        inner, end = _sites(step.body, start, depth + 1, runs * step.trips, parts, shared)
        found.extend(inner)
        return end

    for step in steps:
        word = step.case(launch, repeat)
    return found, word


def _emit(module: Module, kernel: Kernel, kind: _Kind, isa: Isa) -> str:
    """Emits a kernel, of which ranges count units or, if there are any, its rows, and the adapter
    that takes its pointers from an array; returns the adapter's name.
    """
    number, rows, together = kind
    suffix = f"{number}.rows{rows}.{together}" if rows else str(number)
    name = f"gradc.kernel{suffix}"
    names = [name]
    products = gemm.products(kernel)
    if len(products) == 1 or (products and rows):
        epilogue = partial(nest.emit_epilogue, isa)
        names = [name, *(f"{name}.{n}" for n in range(1, len(products)))]
        for called, product in zip(names, products, strict=True):
            some = together if rows else 0
            gemm.emit_kernel(module, kernel, product, called, isa, epilogue, some)
    else:
        nest.emit_kernel(module, abreast.rowwise(kernel, rows) if rows else kernel, name, isa)
    function = module.function(
        f"gradc.launch{suffix}",
        "void",
        (("ptr", "args"), ("i64", "begin"), ("i64", "end"), ("i64", "worker")),
    )
    args, begin, end, worker = function.parameters
    if not rows:
        begin, end = (static.mul(function, x, static.i64(together)) for x in (begin, end))
    pointers = []
    each = nest.scratch_bytes(kernel, isa)
    for position in range(len(kernel.bound) + (each > 0)):
        cell = function.op(f"getelementptr ptr, {args}, i64 {position}", "ptr")
        pointers.append(function.load(cell, "ptr", 8))
    if each:
        part = function.binary("mul", worker, Value("i64", str(each)))
        pointers[-1] = function.address(pointers[-1], "i8", part)
    else:
        pointers.append(Value("ptr", "null"))
    given = ", ".join(str(v) for v in (*pointers, begin, end))
    for name in names:
        function.line(f"tail call void @{name}({given})")
    function.ret()
    return f"gradc.launch{suffix}"


class _Records:
    """Writes the steps of one Plan as record words. ``used`` are the kernels in the order of the
    table; by a kernel's number, ``pieces`` are how many its ranges count, ``parts`` into how many
    ranges it is worth cutting.
    """

    def __init__(self, plan: Plan, isa: Isa) -> None:
        self.plan = plan
        self.places = tuple(_place(plan, n) for n in range(len(plan.tensors)))
        times = [microseconds(kernel, isa.costs) for kernel in plan.kernels]
        self.abreast = abreast.shared(plan, isa, times, self.places.__getitem__)
        self.parts = [isa.costs.worthwhile_parts(time) for time in times]
        self._together = [_units_together(kernel, plan.threads, isa) for kernel in plan.kernels]
        together = zip(plan.kernels, self._together, strict=True)
        self.pieces = [extent(kernel, isa) // count for kernel, count in together]
        self.used = sorted(set(self._kinds(plan.steps, None)))
        self._rows = {kind: row for row, kind in enumerate(self.used)}
        self._here: Abreast | None = None

    def _kind(self, number: int, here: Abreast | None) -> _Kind:
        if here is None:
            return number, 0, self._together[number]
        return number, here.rows, here.each

    def _kinds(self, steps: Sequence[Step], here: Abreast | None) -> Iterator[_Kind]:
        for step in steps:
            if isinstance(step, Repeat):
                yield from self._kinds(step.body, here or self.abreast.get(id(step)))
            else:
                yield self._kind(step.kernel, here)

    def steps(self, steps: Sequence[Step], depth: int) -> Iterator[int]:
        for step in steps:
            yield from step.case(
                partial(self._launch, depth=depth), partial(self._repeat, depth=depth)
            )

    def _repeat(self, repeat: Repeat, depth: int) -> Iterator[int]:
        here = self.abreast.get(id(repeat))
        if here is not None:
            self._here = here
        body = list(self.steps(repeat.body, depth + 1))
        cell = -1 if repeat.counter_cell is None else self.places[repeat.counter_cell][1]
        if here is not None:
            self._here = None
            yield from (-2, 4 + len(body), here.rows, here.each, here.parts)
        yield from (-1, repeat.trips, len(body), cell)
        yield from body

    def _launch(self, launch: Launch, depth: int) -> Iterator[int]:
        number, here = launch.kernel, self._here
        row = self._rows[self._kind(number, here)]
        extra = launch.scratch is not None
        yield from (row, len(launch.arguments) + extra)
        if here is None:
            yield from (self.pieces[number], self.parts[number])
        else:
            yield from (here.rows, 1)
        for argument in launch.arguments:
            size = self.plan.tensors[argument.tensor].dtype.itemsize
            base, offset = self.places[argument.tensor]
            yield from (base, offset + argument.offset * size)
            for level in range(depth):
                yield _at(argument.strides, level) * size
                yield _at(argument.parity, level) * size
        if launch.scratch is not None:
            yield from self.places[launch.scratch]
            yield from (0,) * (2 * depth)


def _at(values: Sequence[int], level: int) -> int:
    return values[level] if level < len(values) else 0


def _place(plan: Plan, number: int) -> tuple[int, int]:
    """Base and byte offset of a tensor's first element, through the tensors it is a view of; -1 if
    it has none.
    """
    root, offset = plan.place(number)
    tensor = plan.tensors[root]
    if tensor.space == "argument":
        return (tensor.argument if tensor.argument is not None else -1, offset)
    return (len(plan.ports), offset + (tensor.offset if tensor.offset is not None else -1))


# ---- checks -------------------------------------------------------------------------------------


def check(plan: Plan) -> None:
    """Checks that ``plan`` is complete and can be an entry.

    Raises:
        PlanError: naming the tensor or the launch.
    """
    # Generated names have a dot or begin with gradc_, so an identifier that does not cannot
    # collide.
    if not plan.name.isidentifier() or not plan.name.isascii() or plan.name.startswith("gradc_"):
        raise PlanError(f"{plan.name!r} cannot be the name of an entry")
    plan.verify()


def _check_scratch(plan: Plan, isa: Isa) -> None:
    """Every launch has the scratch that its kernel needs on this target."""
    needs = [scratch_bytes(kernel, isa, max(1, plan.threads)) for kernel in plan.kernels]
    for launch in plan.launches:
        need = needs[launch.kernel]
        tensor = None if launch.scratch is None else plan.tensors[launch.scratch]
        if (tensor is None and need) or (tensor is not None and tensor.space != "arena"):
            raise PlanError(f"launch of {plan.kernels[launch.kernel].name} has no scratch")
        if tensor is not None and tensor.nbytes < need:
            raise PlanError(f"{tensor.name} has {tensor.nbytes} bytes, not {need}")


# ---- text ---------------------------------------------------------------------------------------

_WALK = """
define internal void @gradc.walk(ptr %code, ptr %stop, ptr %bases, ptr %counters, i64 %depth, \
ptr %args, i64 %threads$mine) #0 {
entry:
  %nothing = icmp eq ptr %code, %stop
  br i1 %nothing, label %out, label %step
step:
  %at = phi ptr [ %code, %entry ], [ %next, %advance ]
  %op = load i64, ptr %at
  %c1 = getelementptr i64, ptr %at, i64 1
  %w1 = load i64, ptr %c1
  %c2 = getelementptr i64, ptr %at, i64 2
  %w2 = load i64, ptr %c2
  %c3 = getelementptr i64, ptr %at, i64 3
  %w3 = load i64, ptr %c3
  %rest = getelementptr i64, ptr %at, i64 4
  %repeats = icmp slt i64 %op, 0
  br i1 %repeats, label %$again, label %launch
launch:
  %bare = icmp eq i64 %w1, 0
  br i1 %bare, label %fire, label %argument
argument:
  %a = phi i64 [ 0, %launch ], [ %a.next, %placed ]
  %word = phi ptr [ %rest, %launch ], [ %word.next, %placed ]
  %base = load i64, ptr %word
  %slot = getelementptr ptr, ptr %bases, i64 %base
  %start = load ptr, ptr %slot
  %offset_cell = getelementptr i64, ptr %word, i64 1
  %offset = load i64, ptr %offset_cell
  %word2 = getelementptr i64, ptr %word, i64 2
  %flat = icmp eq i64 %depth, 0
  br i1 %flat, label %placed, label %level
level:
  %l = phi i64 [ 0, %argument ], [ %l.next, %level ]
  %sum = phi i64 [ %offset, %argument ], [ %sum2, %level ]
  %lword = phi ptr [ %word2, %argument ], [ %lword.next, %level ]
  %counter_cell = getelementptr i64, ptr %counters, i64 %l
  %counter = load i64, ptr %counter_cell
  %stride = load i64, ptr %lword
  %parity_cell = getelementptr i64, ptr %lword, i64 1
  %parity = load i64, ptr %parity_cell
  %moved = mul i64 %stride, %counter
  %sum1 = add i64 %sum, %moved
  %odd = and i64 %counter, 1
  %flipped = mul i64 %parity, %odd
  %sum2 = add i64 %sum1, %flipped
  %lword.next = getelementptr i64, ptr %lword, i64 2
  %l.next = add i64 %l, 1
  %deeper = icmp ult i64 %l.next, %depth
  br i1 %deeper, label %level, label %placed
placed:
  %bytes = phi i64 [ %offset, %argument ], [ %sum2, %level ]
  %word.next = phi ptr [ %word2, %argument ], [ %lword.next, %level ]
  %pointer = getelementptr i8, ptr %start, i64 %bytes
  %arg_cell = getelementptr ptr, ptr %args, i64 %a
  store ptr %pointer, ptr %arg_cell
  %a.next = add i64 %a, 1
  %more = icmp ult i64 %a.next, %w1
  br i1 %more, label %argument, label %fire
fire:
  %after = phi ptr [ %rest, %launch ], [ %word.next, %placed ]
  %fn_cell = getelementptr ptr, ptr @gradc.kernels, i64 %op
  %fn = load ptr, ptr %fn_cell
  %fewer = icmp ult i64 %threads, %w3
  %parts = select i1 %fewer, i64 %threads, i64 %w3
  %serial = icmp ule i64 %parts, 1
  $range${start}br i1 %serial, label %alone, label %together
alone:
  call void %fn(ptr %args, $whole)
  br label %$then
together:
  call void @gradc_parallel(ptr $run, ptr %args, i64 %w2, i64 %parts)
  br label %$then
$stop${part}repeat:
  %body_end = getelementptr i64, ptr %rest, i64 %w2
  %own_counter = getelementptr i64, ptr %counters, i64 %depth
  %below = add i64 %depth, 1
  %idle = icmp eq i64 %w1, 0
  br i1 %idle, label %advance, label %trip
trip:
  %t = phi i64 [ 0, %repeat ], [ %t.next, %ran ]
  store i64 %t, ptr %own_counter
  %unseen = icmp slt i64 %w3, 0
  br i1 %unseen, label %run, label %show
show:
  %arena_slot = getelementptr ptr, ptr %bases, i64 $ports
  %arena = load ptr, ptr %arena_slot
  %cell = getelementptr i8, ptr %arena, i64 %w3
  store i64 %t, ptr %cell
  br label %run
run:
  call void @gradc.walk(ptr %rest, ptr %body_end, ptr %bases, ptr %counters,
    i64 %below, ptr %args, i64 %threads$mine)
  br label %ran
ran:
  %t.next = add i64 %t, 1
  %again = icmp ult i64 %t.next, %w1
  br i1 %again, label %trip, label %advance
advance:
  %next = phi ptr $came$parted,
    [ %body_end, %repeat ], [ %body_end, %ran ]
  %end = icmp eq ptr %next, %stop
  br i1 %end, label %out, label %step
out:
  ret void
}
"""

_ENTRY = """
define i32 @$name(ptr %ports, ptr %arena, i64 %threads$given) #0 {
entry:
  %bases = alloca ptr, i64 $bases, align 16
  $begin
  %counters = alloca i64, i64 $depth, align 16
  %none = icmp eq i64 $ports, 0
  br i1 %none, label %go, label %copy
copy:
  %i = phi i64 [ 0, %entry ], [ %n, %copy ]
  %from = getelementptr ptr, ptr %ports, i64 %i
  %p = load ptr, ptr %from
  %to = getelementptr ptr, ptr %bases, i64 %i
  store ptr %p, ptr %to
  %n = add i64 %i, 1
  %more = icmp ult i64 %n, $ports
  br i1 %more, label %copy, label %go
go:
  %last = getelementptr ptr, ptr %bases, i64 $ports
  store ptr %arena, ptr %last
  %stop = getelementptr i64, ptr @gradc.records, i64 $words
  %too_many = icmp ugt i64 %threads, $threads
  %some = select i1 %too_many, i64 $threads, i64 %threads
  call void @gradc.walk(ptr @gradc.records, ptr %stop, ptr %bases, ptr %counters,
    i64 0, ptr %args, i64 %some$none)
  ${finish}ret i32 0
}
"""


def _entry(plan: Plan, words: int, most_arguments: int, is_timed: bool, is_parted: bool) -> str:
    timed = clock.texts(most_arguments + 1, is_timed, is_parted)
    pieces = {**timed, **parting.texts(is_parted)}
    return Template(_WALK + _ENTRY + pieces["functions"]).substitute(
        pieces,
        before=clock.BEFORE if is_timed else 0,
        name=plan.name,
        bases=len(plan.ports) + 1,
        threads=max(1, plan.threads),
        depth=max(1, plan.depth),
        ports=len(plan.ports),
        words=words,
    )
