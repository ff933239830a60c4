"""Calls from Python, as LLVM IR: every ndarray is checked in machine code and the entry runs
without the GIL.

Two METH_FASTCALL functions share one core:

* ``NAME_call(array, ...)`` takes one ndarray per port and returns None.
* ``NAME_named(dict, ...)`` finds the arrays of the ports that are given in dictionaries by name,
  makes the others, and returns ``(loss or None, dict, dict, dict)``: the made arrays by name, in
  the groups that ``Named`` says.

Small results of the latter are handed out again when nobody holds them (``recycle``).
``NAME_many(pointers, strides, arena, threads, count)`` runs the entry again and again, each pointer
moved on by its bytes in between, and returns how often.

A program that has refused its step (a port whose role is STOP is true) has run, and changed nothing
that it updates: the functions answer ``STOPPED``, and ``NAME_many`` runs it no more.

Each array must be exactly an ndarray, of the expected dtype object, rank and shape, C-contiguous,
aligned, and writeable where the program writes. What it updates in place shares memory with nothing
else: those arrays are compared with each other when they are not the ones of the last call, the
rest with them each time. If something does not fit, nothing has been run and the answer is an int:
the number of the first port that was refused, ``WRONG_COUNT``, or ``BUSY`` when another thread is
inside (its caller takes the ctypes path, which explains, or does the same work with another arena).

Where an ndarray keeps its fields is a ``Layout``, found out at start-up (``runtime.native``), not
assumed. What only exists in the running process (type objects, names, the arena) is written into
``NAME_state`` after loading, so object code can be cached. Order there: ``FIELDS``, one dtype
object per kind in ``kinds``, one name object per port.

Non-goals: converting anything, explaining anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from string import Template

from gradc.codegen.backend import STOPPED
from gradc.codegen.llvm.host import recycle, repeat
from gradc.ir.plan.plan import Port
from gradc.ir.tensor.core import DType

WRONG_COUNT = -1
BUSY = -2
_DONE = -3
FIELDS = ("ndarray", "none", "arena", "threads", "dict", "new_array")
GROUPS = 4  # of results; number 0 is a single array, the others are dictionaries
HOLDERS = 3  # dictionaries that a named call may take


@dataclass(frozen=True, slots=True)
class Layout:
    """Byte offsets inside a Python object and an ndarray, and the flag bits of an ndarray."""

    type: int
    data: int
    rank: int  # an int
    shape: int  # pointer to Py_ssize_t
    dtype: int
    flags: int  # an int
    contiguous: int
    aligned: int
    writeable: int


@dataclass(frozen=True, slots=True)
class Named:
    """Per port: the number of the dictionary it is given in, or -1 if it is made; and the group of
    a made one.
    """

    holders: tuple[int, ...]
    groups: tuple[int, ...]


def kinds(ports: Sequence[Port]) -> tuple[DType, ...]:
    """The element types that occur, in order of first use."""
    return tuple(dict.fromkeys(port.dtype for port in ports))


def wrapper_text(
    name: str, ports: tuple[Port, ...], layout: Layout, named: Named, release: bool
) -> str:
    """The IR of both functions and ``@NAME_state``; ``release`` gives up the GIL around the
    entry.
    """
    types = kinds(ports)
    slots = {dtype: len(FIELDS) + n for n, dtype in enumerate(types)}
    words, shape_words = list[int](), list[int]()
    for number, port in enumerate(ports):
        required = layout.contiguous | layout.aligned
        if port.direction != "in":
            required |= layout.writeable
        words += (slots[port.dtype], len(port.shape), required, len(shape_words))
        words += (named.holders[number], named.groups[number], len(FIELDS) + len(types) + number, 0)
        shape_words += port.shape
    save, restore = _GIL if release else ("", "")
    # Arrays that are updated come first.
    stops, is_stopped = repeat.stops_text(ports)
    order = sorted(range(len(ports)), key=lambda n: ports[n].direction != "inout")
    updated = sum(port.direction == "inout" for port in ports)
    apart = _APART if updated else ""
    made = [n for n, holder in enumerate(named.holders) if holder < 0]
    made_bytes = sum(prod(ports[n].shape) * ports[n].dtype.itemsize for n in made)
    keeps = recycle.is_possible(layout.type, made_bytes, len(made))
    groups = [sum(named.groups[n] == g for n in made) for g in range(GROUPS)]
    recycling = recycle.recycle_text(name, len(ports), groups if keeps else None)
    return (
        Template(_CORE + apart + _CALL + _NAMED).substitute(
            take=_TAKE if keeps else _TAKE_NOTHING,
            forget="call void @gradc.forget(ptr %kept)" if keeps else "",
            keep=_KEEP if keeps else "",
            check="call i64 @gradc.apart(ptr %pointers)" if updated else "add i64 -1, 0",
            updated=updated,
            order=_words(order),
            sizes_in_order=_words([prod(ports[n].shape) * ports[n].dtype.itemsize for n in order]),
            name=name,
            ports=len(ports),
            room=max(1, len(ports)),
            fields=len(FIELDS) + len(types) + len(ports),
            words=_words(words),
            word_count=max(1, len(words)),
            shapes=_words(shape_words),
            shape_count=max(1, len(shape_words)),
            sizes=_words([named.holders.count(h) for h in range(HOLDERS)]),
            holder_count=HOLDERS,
            group_count=GROUPS,
            **{f: getattr(layout, f) for f in ("type", "data", "rank", "shape", "dtype", "flags")},
            wrong_count=WRONG_COUNT,
            busy=BUSY,
            done=_DONE,
            stops=stops,
            is_stopped=is_stopped,
            stopped=STOPPED,
            save=save,
            restore=restore,
        )
        + repeat.many_text(name, ports)
        + recycling
    )


def _words(values: list[int]) -> str:
    return ", ".join(f"i64 {value}" for value in values or [0])


_GIL = (
    "%saved = call ptr @PyEval_SaveThread()",
    "call void @PyEval_RestoreThread(ptr %saved)",
)

_TAKE = """%kept = call ptr @gradc.next_set()
  %spare = call ptr @gradc.reuse(ptr %kept)"""
_TAKE_NOTHING = """%kept = inttoptr i64 0 to ptr
  %spare = inttoptr i64 0 to ptr"""
_KEEP = "call void @gradc.keep(ptr %kept, ptr %tuple, ptr %dicts, ptr %objects)"

_CORE = """
@${name}_state = global [$fields x ptr] zeroinitializer, align 64
; per port: dtype slot, rank, flags, first of its dims, holder or -1, group, name slot, unused
@gradc.ports = internal unnamed_addr constant [$word_count x i64] [$words]
@gradc.shapes = internal unnamed_addr constant [$shape_count x i64] [$shapes]
@gradc.holders = internal unnamed_addr constant [$holder_count x i64] [$sizes]
declare ptr @PyEval_SaveThread()
declare void @PyEval_RestoreThread(ptr)
declare ptr @PyLong_FromLong(i64)
declare void @Py_IncRef(ptr)
declare void @Py_DecRef(ptr)
declare i64 @PyDict_Size(ptr)
declare ptr @PyDict_GetItemWithError(ptr, ptr)
declare ptr @PyDict_New()
declare i32 @PyDict_SetItem(ptr, ptr, ptr)
declare ptr @PyTuple_New(i64)
declare i32 @PyTuple_SetItem(ptr, i64, ptr)
declare void @PyErr_Clear()

define internal i64 @gradc.invoke(ptr %args) #0 {
entry:
  %pointers = alloca ptr, i64 $room, align 16
  %ndarray = load ptr, ptr @${name}_state
  %empty = icmp eq i64 $ports, 0
  br i1 %empty, label %take, label %port
port:
  %i = phi i64 [ 0, %entry ], [ %i.next, %good ]
  %arg_cell = getelementptr ptr, ptr %args, i64 %i
  %arg = load ptr, ptr %arg_cell
  %type_cell = getelementptr i8, ptr %arg, i64 $type
  %type = load ptr, ptr %type_cell
  %is_array = icmp eq ptr %type, %ndarray
  br i1 %is_array, label %fields, label %refuse
fields:
  %word = getelementptr [8 x i64], ptr @gradc.ports, i64 %i
  %slot = load i64, ptr %word
  %state_cell = getelementptr ptr, ptr @${name}_state, i64 %slot
  %wanted = load ptr, ptr %state_cell
  %dtype_cell = getelementptr i8, ptr %arg, i64 $dtype
  %dtype = load ptr, ptr %dtype_cell
  %same_dtype = icmp eq ptr %dtype, %wanted
  %word1 = getelementptr i64, ptr %word, i64 1
  %rank = load i64, ptr %word1
  %rank_cell = getelementptr i8, ptr %arg, i64 $rank
  %rank32 = load i32, ptr %rank_cell
  %found_rank = sext i32 %rank32 to i64
  %same_rank = icmp eq i64 %rank, %found_rank
  %word2 = getelementptr i64, ptr %word, i64 2
  %required = load i64, ptr %word2
  %flags_cell = getelementptr i8, ptr %arg, i64 $flags
  %flags32 = load i32, ptr %flags_cell
  %flags = zext i32 %flags32 to i64
  %had = and i64 %flags, %required
  %flagged = icmp eq i64 %had, %required
  %ok1 = and i1 %same_dtype, %same_rank
  %ok2 = and i1 %ok1, %flagged
  br i1 %ok2, label %rankless, label %refuse
rankless:
  %scalar = icmp eq i64 %rank, 0
  br i1 %scalar, label %good, label %shape
shape:
  %word3 = getelementptr i64, ptr %word, i64 3
  %first = load i64, ptr %word3
  %expected = getelementptr i64, ptr @gradc.shapes, i64 %first
  %shape_cell = getelementptr i8, ptr %arg, i64 $shape
  %dims = load ptr, ptr %shape_cell
  br label %axis
axis:
  %d = phi i64 [ 0, %shape ], [ %d.next, %fits ]
  %want_cell = getelementptr i64, ptr %expected, i64 %d
  %want = load i64, ptr %want_cell
  %have_cell = getelementptr i64, ptr %dims, i64 %d
  %have = load i64, ptr %have_cell
  %equal = icmp eq i64 %want, %have
  br i1 %equal, label %fits, label %refuse
fits:
  %d.next = add i64 %d, 1
  %more_axes = icmp ult i64 %d.next, %rank
  br i1 %more_axes, label %axis, label %good
good:
  %data_cell = getelementptr i8, ptr %arg, i64 $data
  %data = load ptr, ptr %data_cell
  %pointer_cell = getelementptr ptr, ptr %pointers, i64 %i
  store ptr %data, ptr %pointer_cell
  %i.next = add i64 %i, 1
  %more_ports = icmp ult i64 %i.next, $ports
  br i1 %more_ports, label %port, label %take
take:
  %shared = $check
  %apart = icmp slt i64 %shared, 0
  br i1 %apart, label %room, label %refuse
room:
  %arena_cell = getelementptr ptr, ptr @${name}_state, i64 2
  %arena = load ptr, ptr %arena_cell
  %busy = icmp eq ptr %arena, null
  br i1 %busy, label %refuse, label %run
run:
  store ptr null, ptr %arena_cell
  %threads_cell = getelementptr i64, ptr @${name}_state, i64 3
  %threads = load i64, ptr %threads_cell
  $save
  %status = call i32 @${name}(ptr %pointers, ptr %arena, i64 %threads)
  $restore
  store ptr %arena, ptr %arena_cell
  $stops
  %verdict = select i1 $is_stopped, i64 $stopped, i64 $done
  ret i64 %verdict
refuse:
  %why = phi i64 [ %i, %port ], [ %i, %fields ], [ %i, %axis ], [ %shared, %take ],
    [ $busy, %room ]
  ret i64 %why
}
"""

# Called with the GIL held: nobody else is in here. Which arrays were found apart is known by their
# addresses, as their sizes are fixed.
_APART = """
@gradc.order = internal unnamed_addr constant [$ports x i64] [$order]
@gradc.bytes = internal unnamed_addr constant [$ports x i64] [$sizes_in_order]
@gradc.seen = internal global [$updated x i64] zeroinitializer

define internal i64 @gradc.apart(ptr %pointers) #0 {
entry:
  br label %look
look:
  %w = phi i64 [ 0, %entry ], [ %w.next, %known ]
  %w_cell = getelementptr i64, ptr @gradc.order, i64 %w
  %w_port = load i64, ptr %w_cell
  %w_at = getelementptr i64, ptr %pointers, i64 %w_port
  %now = load i64, ptr %w_at
  %before_cell = getelementptr i64, ptr @gradc.seen, i64 %w
  %before = load i64, ptr %before_cell
  %same = icmp eq i64 %now, %before
  br i1 %same, label %known, label %compare
known:
  %w.next = add i64 %w, 1
  %more_seen = icmp ult i64 %w.next, $updated
  br i1 %more_seen, label %look, label %compare
compare:
  ; all pairs of them if one is new, else what is only read against them
  %start = phi i64 [ 1, %look ], [ $updated, %known ]
  br label %next
next:
  %a = phi i64 [ %start, %compare ], [ %a.next, %fine ]
  %more = icmp ult i64 %a, $ports
  br i1 %more, label %one, label %note
one:
  %a_cell = getelementptr i64, ptr @gradc.order, i64 %a
  %a_port = load i64, ptr %a_cell
  %a_at = getelementptr i64, ptr %pointers, i64 %a_port
  %a_begin = load i64, ptr %a_at
  %a_size_cell = getelementptr i64, ptr @gradc.bytes, i64 %a
  %a_size = load i64, ptr %a_size_cell
  %a_end = add i64 %a_begin, %a_size
  %few = icmp ult i64 %a, $updated
  %others = select i1 %few, i64 %a, i64 $updated
  br label %other
other:
  %b = phi i64 [ 0, %one ], [ %b.next, %beside ]
  %b_cell = getelementptr i64, ptr @gradc.order, i64 %b
  %b_port = load i64, ptr %b_cell
  %b_at = getelementptr i64, ptr %pointers, i64 %b_port
  %b_begin = load i64, ptr %b_at
  %b_size_cell = getelementptr i64, ptr @gradc.bytes, i64 %b
  %b_size = load i64, ptr %b_size_cell
  %b_end = add i64 %b_begin, %b_size
  %below = icmp ult i64 %a_begin, %b_end
  %above = icmp ult i64 %b_begin, %a_end
  %overlap = and i1 %below, %above
  br i1 %overlap, label %refuse, label %beside
beside:
  %b.next = add i64 %b, 1
  %more_others = icmp ult i64 %b.next, %others
  br i1 %more_others, label %other, label %fine
fine:
  %a.next = add i64 %a, 1
  br label %next
note:
  %n = phi i64 [ 0, %next ], [ %n.next, %note ]
  %n_cell = getelementptr i64, ptr @gradc.order, i64 %n
  %n_port = load i64, ptr %n_cell
  %n_at = getelementptr i64, ptr %pointers, i64 %n_port
  %n_now = load i64, ptr %n_at
  %n_seen = getelementptr i64, ptr @gradc.seen, i64 %n
  store i64 %n_now, ptr %n_seen
  %n.next = add i64 %n, 1
  %more_notes = icmp ult i64 %n.next, $updated
  br i1 %more_notes, label %note, label %apart
apart:
  ret i64 -1
refuse:
  ret i64 %a_port
}
"""

_CALL = """
define ptr @${name}_call(ptr %self, ptr %args, i64 %n) #0 {
entry:
  %counted = icmp eq i64 %n, $ports
  br i1 %counted, label %run, label %refuse
run:
  %answer = call i64 @gradc.invoke(ptr %args)
  %ran = icmp eq i64 %answer, $done
  br i1 %ran, label %done, label %refuse
done:
  %none_cell = getelementptr ptr, ptr @${name}_state, i64 1
  %none = load ptr, ptr %none_cell
  call void @Py_IncRef(ptr %none)
  ret ptr %none
refuse:
  %why = phi i64 [ $wrong_count, %entry ], [ %answer, %run ]
  %number = call ptr @PyLong_FromLong(i64 %why)
  ret ptr %number
}
"""

# Every object in %objects is owned until %release, so nothing that another thread drops disappears
# meanwhile.
_NAMED = """
define ptr @${name}_named(ptr %self, ptr %args, i64 %n) #0 {
entry:
  %objects = alloca ptr, i64 $room, align 16
  %dicts = alloca ptr, i64 $group_count, align 16
  %dict_cell = getelementptr ptr, ptr @${name}_state, i64 4
  %dict_type = load ptr, ptr %dict_cell
  %ndarray = load ptr, ptr @${name}_state
  %new_cell = getelementptr ptr, ptr @${name}_state, i64 5
  %new_array = load ptr, ptr %new_cell
  %fits = icmp eq i64 %n, $holder_count
  br i1 %fits, label %holder, label %refuse
holder:
  %h = phi i64 [ 0, %entry ], [ %h.next, %counted ]
  %holder_cell = getelementptr ptr, ptr %args, i64 %h
  %holder_object = load ptr, ptr %holder_cell
  %htype_cell = getelementptr i8, ptr %holder_object, i64 $type
  %htype = load ptr, ptr %htype_cell
  %is_dict = icmp eq ptr %htype, %dict_type
  br i1 %is_dict, label %size, label %refuse
size:
  %length = call i64 @PyDict_Size(ptr %holder_object)
  %expected_cell = getelementptr i64, ptr @gradc.holders, i64 %h
  %expected = load i64, ptr %expected_cell
  %right = icmp eq i64 %length, %expected
  br i1 %right, label %counted, label %refuse
counted:
  %h.next = add i64 %h, 1
  %more_holders = icmp ult i64 %h.next, $holder_count
  br i1 %more_holders, label %holder, label %begin
begin:
  $take
  %again = icmp ne ptr %spare, null
  %portless = icmp eq i64 $ports, 0
  br i1 %portless, label %invoke, label %port
port:
  %i = phi i64 [ 0, %begin ], [ %i.next, %have ]
  %word = getelementptr [8 x i64], ptr @gradc.ports, i64 %i
  %word4 = getelementptr i64, ptr %word, i64 4
  %from = load i64, ptr %word4
  %made = icmp slt i64 %from, 0
  br i1 %made, label %make, label %find
find:
  %given_cell = getelementptr ptr, ptr %args, i64 %from
  %given = load ptr, ptr %given_cell
  %word6 = getelementptr i64, ptr %word, i64 6
  %name_slot = load i64, ptr %word6
  %name_cell = getelementptr ptr, ptr @${name}_state, i64 %name_slot
  %name = load ptr, ptr %name_cell
  %found = call ptr @PyDict_GetItemWithError(ptr %given, ptr %name)
  %missing = icmp eq ptr %found, null
  br i1 %missing, label %absent, label %keep
keep:
  call void @Py_IncRef(ptr %found)
  br label %have
make:
  br i1 %again, label %reuse, label %create
reuse:
  %reuse_at = add i64 %i, $group_count
  %reuse_cell = getelementptr ptr, ptr %kept, i64 %reuse_at
  %reused = load ptr, ptr %reuse_cell
  call void @Py_IncRef(ptr %reused)
  br label %have
create:
  %slot = load i64, ptr %word
  %dtype_cell = getelementptr ptr, ptr @${name}_state, i64 %slot
  %dtype = load ptr, ptr %dtype_cell
  call void @Py_IncRef(ptr %dtype)
  %word1 = getelementptr i64, ptr %word, i64 1
  %rank = load i64, ptr %word1
  %rank32 = trunc i64 %rank to i32
  %word3 = getelementptr i64, ptr %word, i64 3
  %first = load i64, ptr %word3
  %dims = getelementptr i64, ptr @gradc.shapes, i64 %first
  %new = call ptr %new_array(ptr %ndarray, ptr %dtype, i32 %rank32, ptr %dims,
    ptr null, ptr null, i32 0, ptr null)
  %failed = icmp eq ptr %new, null
  br i1 %failed, label %broken, label %have
have:
  %object = phi ptr [ %found, %keep ], [ %new, %create ], [ %reused, %reuse ]
  %object_cell = getelementptr ptr, ptr %objects, i64 %i
  store ptr %object, ptr %object_cell
  %i.next = add i64 %i, 1
  %more_ports = icmp ult i64 %i.next, $ports
  br i1 %more_ports, label %port, label %invoke
absent:
  call void @PyErr_Clear()
  br label %undo
broken:
  br label %drop
invoke:
  %answer = call i64 @gradc.invoke(ptr %objects)
  %ran = icmp eq i64 %answer, $done
  br i1 %ran, label %ready, label %undo
undo:
  %undo_owned = phi i64 [ %i, %absent ], [ $ports, %invoke ]
  %undo_why = phi i64 [ %i, %absent ], [ %answer, %invoke ]
  br i1 %again, label %return_set, label %drop
return_set:
  call void @Py_DecRef(ptr %spare)
  $forget
  br label %drop
ready:
  br i1 %again, label %drop, label %collect
collect:
  %tuple = call ptr @PyTuple_New(i64 $group_count)
  %no_tuple = icmp eq ptr %tuple, null
  br i1 %no_tuple, label %drop, label %group
group:
  %g = phi i64 [ 1, %collect ], [ %g.next, %grouped ]
  %dict = call ptr @PyDict_New()
  %no_dict = icmp eq ptr %dict, null
  br i1 %no_dict, label %spoilt, label %grouped
grouped:
  %group_cell = getelementptr ptr, ptr %dicts, i64 %g
  store ptr %dict, ptr %group_cell
  %set = call i32 @PyTuple_SetItem(ptr %tuple, i64 %g, ptr %dict)
  %g.next = add i64 %g, 1
  %more_groups = icmp ult i64 %g.next, $group_count
  br i1 %more_groups, label %group, label %single
single:
  %none_cell = getelementptr ptr, ptr @${name}_state, i64 1
  %none = load ptr, ptr %none_cell
  call void @Py_IncRef(ptr %none)
  %set_none = call i32 @PyTuple_SetItem(ptr %tuple, i64 0, ptr %none)
  br i1 %portless, label %drop, label %result
result:
  %r = phi i64 [ 0, %single ], [ %r.next, %placed ]
  %rword = getelementptr [8 x i64], ptr @gradc.ports, i64 %r
  %rword4 = getelementptr i64, ptr %rword, i64 4
  %rfrom = load i64, ptr %rword4
  %is_result = icmp slt i64 %rfrom, 0
  br i1 %is_result, label %place, label %placed
place:
  %robject_cell = getelementptr ptr, ptr %objects, i64 %r
  %robject = load ptr, ptr %robject_cell
  %rword5 = getelementptr i64, ptr %rword, i64 5
  %into = load i64, ptr %rword5
  %alone = icmp eq i64 %into, 0
  br i1 %alone, label %put, label %enter
put:
  call void @Py_IncRef(ptr %robject)
  %set_loss = call i32 @PyTuple_SetItem(ptr %tuple, i64 0, ptr %robject)
  br label %placed
enter:
  %rword6 = getelementptr i64, ptr %rword, i64 6
  %rname_slot = load i64, ptr %rword6
  %rname_cell = getelementptr ptr, ptr @${name}_state, i64 %rname_slot
  %rname = load ptr, ptr %rname_cell
  %rdict_cell = getelementptr ptr, ptr %dicts, i64 %into
  %rdict = load ptr, ptr %rdict_cell
  %entered = call i32 @PyDict_SetItem(ptr %rdict, ptr %rname, ptr %robject)
  %refused = icmp ne i32 %entered, 0
  br i1 %refused, label %spoilt, label %placed
placed:
  %r.next = add i64 %r, 1
  %more_results = icmp ult i64 %r.next, $ports
  br i1 %more_results, label %result, label %complete
complete:
  $keep
  br label %drop
spoilt:
  call void @Py_DecRef(ptr %tuple)
  br label %drop
drop:
  ; how many objects are owned, what to answer, and whether that is an int still to be made
  %owned = phi i64 [ %undo_owned, %undo ], [ %undo_owned, %return_set ], [ %i, %broken ], \
[ $ports, %ready ], [ $ports, %collect ], [ $ports, %single ], [ $ports, %complete ], \
[ $ports, %spoilt ]
  %why.0 = phi i64 [ %undo_why, %undo ], [ %undo_why, %return_set ], [ $done, %broken ], \
[ $done, %ready ], [ $done, %collect ], [ $done, %single ], [ $done, %complete ], [ $done, %spoilt ]
  %outcome = phi ptr [ null, %undo ], [ null, %return_set ], [ null, %broken ], \
[ %spare, %ready ], [ null, %collect ], [ %tuple, %single ], [ %tuple, %complete ], \
[ null, %spoilt ]
  %nothing = icmp eq i64 %owned, 0
  br i1 %nothing, label %leave, label %release
release:
  %o = phi i64 [ 0, %drop ], [ %o.next, %release ]
  %owned_cell = getelementptr ptr, ptr %objects, i64 %o
  %owned_object = load ptr, ptr %owned_cell
  call void @Py_DecRef(ptr %owned_object)
  %o.next = add i64 %o, 1
  %more_owned = icmp ult i64 %o.next, %owned
  br i1 %more_owned, label %release, label %leave
leave:
  %finished = icmp eq i64 %why.0, $done
  br i1 %finished, label %done, label %refuse
done:
  ret ptr %outcome
refuse:
  %why = phi i64 [ $wrong_count, %entry ], [ $wrong_count, %holder ],
    [ $wrong_count, %size ], [ %why.0, %leave ]
  %number = call ptr @PyLong_FromLong(i64 %why)
  ret ptr %number
}
"""
