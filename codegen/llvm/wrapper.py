"""The call from Python, as LLVM IR: one function that checks every ndarray and runs the entry without the GIL.

``PyObject *NAME_call(PyObject *self, PyObject *const *args, Py_ssize_t n)`` is a METH_FASTCALL function. Each
argument must be exactly an ndarray, of the expected dtype object, rank and shape, C-contiguous, aligned, and
writeable where the program writes. It returns None after the call, or, without having run anything, an int:
the number of the first argument that was refused, ``WRONG_COUNT``, or ``BUSY`` when another thread is inside (its
caller then takes the ctypes path, which explains or does the same work with another arena).

Where an ndarray keeps its fields is a ``Layout``, found out at start-up (``runtime.native``), not assumed. What only
exists in the running process (type objects, the arena) is written into ``NAME_state`` after loading, so object
code can be cached. Field order there: ndarray type, None, arena, threads, then one dtype object per kind in ``kinds``.

Non-goals: converting anything, explaining anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from string import Template

from gradc.ir.core import DType
from gradc.ir.plan import Port

WRONG_COUNT = -1
BUSY = -2
STATE_FIELDS = 4  # before the dtype objects


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


def kinds(ports: tuple[Port, ...]) -> tuple[DType, ...]:
    """The element types that occur, in order of first use."""
    return tuple(dict.fromkeys(port.dtype for port in ports))


def wrapper_text(name: str, ports: tuple[Port, ...], layout: Layout, release: bool) -> str:
    """The IR of ``@NAME_call`` and ``@NAME_state``; ``release`` gives up the GIL around the entry."""
    slots = {dtype: STATE_FIELDS + n for n, dtype in enumerate(kinds(ports))}
    words: list[int] = []
    shape_words: list[int] = []
    for port in ports:
        required = layout.contiguous | layout.aligned
        if port.direction != "in":
            required |= layout.writeable
        words += (slots[port.dtype], len(port.shape), required, len(shape_words))
        shape_words += port.shape
    save, restore = _GIL if release else ("", "")
    return Template(_WRAPPER).substitute(
        name=name,
        ports=len(ports),
        room=max(1, len(ports)),
        fields=STATE_FIELDS + len(slots),
        words=_words(words),
        word_count=max(1, len(words)),
        shapes=_words(shape_words),
        shape_count=max(1, len(shape_words)),
        type=layout.type,
        data=layout.data,
        rank=layout.rank,
        shape=layout.shape,
        dtype=layout.dtype,
        flags=layout.flags,
        wrong_count=WRONG_COUNT,
        busy=BUSY,
        declare=_DECLARE if release else "",
        save=save,
        restore=restore,
    )


def _words(values: list[int]) -> str:
    return ", ".join(f"i64 {value}" for value in values or [0])


_DECLARE = """declare ptr @PyEval_SaveThread()
declare void @PyEval_RestoreThread(ptr)"""
_GIL = (
    "%saved = call ptr @PyEval_SaveThread()",
    "call void @PyEval_RestoreThread(ptr %saved)",
)

_WRAPPER = """
@${name}_state = global [$fields x ptr] zeroinitializer, align 64
@gradc.ports = internal unnamed_addr constant [$word_count x i64] [$words]
@gradc.shapes = internal unnamed_addr constant [$shape_count x i64] [$shapes]
$declare
declare ptr @PyLong_FromLong(i64)
declare void @Py_IncRef(ptr)
define ptr @${name}_call(ptr %self, ptr %args, i64 %n) #0 {
entry:
  %pointers = alloca ptr, i64 $room, align 16
  %counted = icmp eq i64 %n, $ports
  br i1 %counted, label %begin, label %refuse
begin:
  %ndarray = load ptr, ptr @${name}_state
  %empty = icmp eq i64 $ports, 0
  br i1 %empty, label %take, label %port
port:
  %i = phi i64 [ 0, %begin ], [ %i.next, %good ]
  %arg_cell = getelementptr ptr, ptr %args, i64 %i
  %arg = load ptr, ptr %arg_cell
  %type_cell = getelementptr i8, ptr %arg, i64 $type
  %type = load ptr, ptr %type_cell
  %is_array = icmp eq ptr %type, %ndarray
  br i1 %is_array, label %fields, label %refuse
fields:
  %word = getelementptr [4 x i64], ptr @gradc.ports, i64 %i
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
  %none_cell = getelementptr ptr, ptr @${name}_state, i64 1
  %none = load ptr, ptr %none_cell
  call void @Py_IncRef(ptr %none)
  ret ptr %none
refuse:
  %why = phi i64 [ $wrong_count, %entry ], [ %i, %port ], [ %i, %fields ], [ %i, %axis ], [ $busy, %take ]
  %answer = call ptr @PyLong_FromLong(i64 %why)
  ret ptr %answer
}
"""
