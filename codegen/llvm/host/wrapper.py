"""The calls from Python, as LLVM IR that knows no program: every ndarray is checked in machine code
and the entry runs without the GIL.

It is made once and kept in the object cache; what it must know of a program is a table of words
(``table``), which a function finds as the data of its ``self``, an ndarray. Two METH_FASTCALL
functions share one core:

* ``gradc_call(array, ...)`` takes one ndarray per port and returns None; with anything more behind
  them it also looks whether what the program writes shares memory with nothing else.
* ``gradc_named(dict, ...)`` finds the arrays of the ports that are given in dictionaries by name,
  makes the others, and returns ``(loss or None, dict, dict, dict)``: the made arrays by name, in
  the groups that ``table`` says. With one dictionary more, those of the last group are not made:
  it has them, and is the answer's.

Small results of the latter are handed out again when nobody holds them (``recycle``).
``gradc_direct`` is a whole call as users write it (``direct``); ``gradc_many`` runs an entry again
and again (``repeat``).

A program that has refused its step (a port whose role is STOP is true) has run, and changed nothing
that it updates: the functions answer ``STOPPED``.

Each array must be exactly an ndarray, of the expected dtype object, rank and shape, C-contiguous,
aligned, and writeable where the program writes. What it updates in place shares memory with nothing
else (``apart``). If something does not fit, nothing has been run and the answer is an int:
the number of the first port that was refused, ``WRONG_COUNT``, or ``BUSY`` when another thread is
inside (its caller takes the ctypes path, which explains, or does the same work with another arena).

Where an ndarray keeps its fields is a ``Layout``, found out at start-up, not assumed. What only
exists in the running process is written into ``gradc_process`` (``PROCESS``) after loading.

In the texts ``%x = TABLE type field`` reads a word of the table, ``%x = PORT type field`` one of
the port whose words begin at ``%word``, OUT at ``%rword``, PROCESS one of what is known of the
process; ``expanded`` writes them out.

Non-goals: converting anything, explaining anything.
"""

from __future__ import annotations

import itertools
import re
import sys
from string import Template

from gradc.codegen.backend import STOPPED
from gradc.codegen.llvm.host import apart, direct, named, recycle, repeat
from gradc.codegen.llvm.host.table import FIELDS, GROUPS, HOLDERS, PORT, PROCESS, Layout

WRONG_COUNT = -1
BUSY = -2
_DONE = -3
_TABLES = {
    "TABLE": ("%table", FIELDS),
    "PORT": ("%word", PORT),
    "OUT": ("%rword", PORT),
    "OWN": ("%own", direct.BINDING),
    "PROCESS": ("@gradc_process", PROCESS),
}
_WAYS = ("gradc_call", "gradc_named", "gradc_direct", "gradc_many")
EXPORTS = (*_WAYS, "gradc_forget", "gradc_process")


def caller_text(triple: str, layout: Layout) -> str:
    """The module of the functions, for objects and arrays that lie as ``layout`` says."""
    fields = ("type", "data", "rank", "shape", "dtype", "flags")
    in_place = sys.version_info < (3, 12) and layout.type == 8
    texts = (
        _CORE,
        _COUNTS if in_place else _REFERENCES,
        apart.TEXT,
        _CALL,
        named.TEXT,
        recycle.TEXT,
        repeat.TEXT,
        direct.TEXT,
    )
    text = Template("".join(texts)).substitute(
        {f: getattr(layout, f) for f in fields},
        process=len(PROCESS),
        holder_count=HOLDERS,
        group_count=GROUPS,
        sets=recycle.SETS,
        wrong_count=WRONG_COUNT,
        busy=BUSY,
        done=_DONE,
        stopped=STOPPED,
    )
    text = _counted(text) if in_place else text
    return f'target triple = "{triple}"\n{expanded(text)}\nattributes #0 = {{ nounwind }}\n'


def _counted(text: str) -> str:
    """``text`` with references more counted where they are taken: none of LLVM's passes is run that
    would do so, as these take longer than all else of the first call on a machine.
    """
    numbers = itertools.count()

    def counted(found: re.Match[str]) -> str:
        count, item = f"%count.{next(numbers)}", found.group(1)
        lines = (
            f"{count} = load i64, ptr {item}",
            f"{count}.more = add i64 {count}, 1",
            f"store i64 {count}.more, ptr {item}",
        )
        return "\n  ".join(lines)

    return re.sub(r"call void @gradc\.up\(ptr (%[\w.]+)\)", counted, text)


def expanded(text: str) -> str:
    """``text`` with its reads of tables written out."""

    def read(found: re.Match[str]) -> str:
        value, kind, type_, field = found.groups()
        base, fields = _TABLES[kind]
        at = f"{value}.at = getelementptr i64, ptr {base}, i64 {fields.index(field)}"
        return f"{at}\n  {value} = load {type_}, ptr {value}.at"

    kinds = "|".join(_TABLES)
    return re.sub(rf"(%[\w.]+) = ({kinds}) (\w+) (\w+)", read, text)


_CORE = """
@gradc_process = global [$process x ptr] zeroinitializer, align 64
declare ptr @PyEval_SaveThread()
declare void @PyEval_RestoreThread(ptr)
declare ptr @PyLong_FromLong(i64)
declare void @Py_IncRef(ptr)
declare void @Py_DecRef(ptr)
declare i64 @PyDict_Size(ptr)
declare ptr @PyDict_GetItemWithError(ptr, ptr)
declare ptr @PyDict_New()
declare i32 @PyDict_Next(ptr, ptr, ptr, ptr)
declare i32 @PyDict_SetItem(ptr, ptr, ptr)
declare ptr @PyTuple_New(i64)
declare i32 @PyTuple_SetItem(ptr, i64, ptr)
declare i64 @PyTuple_Size(ptr)
declare ptr @PyTuple_GetItem(ptr, i64)
declare i32 @PyUnicode_Compare(ptr, ptr)
declare void @PyErr_Clear()

; Of a strict call the arrays that are written to share memory with none of the others.
define internal i64 @gradc.invoke(ptr %table, ptr %args, i1 %strict) #0 {
entry:
  %count = TABLE i64 count
  %pointers = alloca ptr, i64 %count, align 16
  %words = TABLE ptr ports
  %ndarray = PROCESS ptr ndarray
  %empty = icmp eq i64 %count, 0
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
  %word = getelementptr [8 x i64], ptr %words, i64 %i
  %wanted = PORT ptr dtype
  %dtype_cell = getelementptr i8, ptr %arg, i64 $dtype
  %dtype = load ptr, ptr %dtype_cell
  %same_dtype = icmp eq ptr %dtype, %wanted
  %rank = PORT i64 rank
  %rank_cell = getelementptr i8, ptr %arg, i64 $rank
  %rank32 = load i32, ptr %rank_cell
  %found_rank = sext i32 %rank32 to i64
  %same_rank = icmp eq i64 %rank, %found_rank
  %required = PORT i64 flags
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
  %expected = PORT ptr dims
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
  %more_ports = icmp ult i64 %i.next, %count
  br i1 %more_ports, label %port, label %take
take:
  %shared = call i64 @gradc.apart(ptr %table, ptr %pointers)
  %apart = icmp slt i64 %shared, 0
  br i1 %apart, label %ask, label %refuse
ask:
  br i1 %strict, label %alone, label %room
alone:
  %crossed = call i64 @gradc.made_apart(ptr %table, ptr %pointers)
  %single = icmp slt i64 %crossed, 0
  br i1 %single, label %room, label %refuse
room:
  %arena = TABLE ptr arena
  %busy = icmp eq ptr %arena, null
  br i1 %busy, label %refuse, label %run
run:
  store ptr null, ptr %arena.at
  %threads = TABLE i64 threads
  %entry_point = TABLE ptr entry
  %brief = TABLE i64 brief
  %stays = icmp ne i64 %brief, 0
  br i1 %stays, label %held, label %free
held:
  %status.0 = call i32 %entry_point(ptr %pointers, ptr %arena, i64 %threads)
  br label %ran
free:
  %saved = call ptr @PyEval_SaveThread()
  %status.1 = call i32 %entry_point(ptr %pointers, ptr %arena, i64 %threads)
  call void @PyEval_RestoreThread(ptr %saved)
  br label %ran
ran:
  store ptr %arena, ptr %arena.at
  %stop = TABLE i64 stop
  %stops = call i1 @gradc.stops(ptr %pointers, i64 %stop)
  %verdict = select i1 %stops, i64 $stopped, i64 $done
  ret i64 %verdict
refuse:
  %why = phi i64 [ %i, %port ], [ %i, %fields ], [ %i, %axis ], [ %shared, %take ],
    [ %crossed, %alone ], [ $busy, %room ]
  ret i64 %why
}
"""

# A reference more and a reference less.
_REFERENCES = """
define internal void @gradc.up(ptr %object) #0 {
  call void @Py_IncRef(ptr %object)
  ret void
}
define internal void @gradc.down(ptr %object) #0 {
  call void @Py_DecRef(ptr %object)
  ret void
}
"""

# The same where an object begins with the count and no count means anything else: from 3.12 on some
# objects are immortal.
_COUNTS = """
define internal void @gradc.down(ptr %object) #0 {
entry:
  %count = load i64, ptr %object
  %last = icmp eq i64 %count, 1
  br i1 %last, label %gone, label %stays
stays:
  %less = sub i64 %count, 1
  store i64 %less, ptr %object
  ret void
gone:
  call void @Py_DecRef(ptr %object)
  ret void
}
"""

_CALL = """
define ptr @gradc_call(ptr %self, ptr %args, i64 %n) #0 {
entry:
  %table_cell = getelementptr i8, ptr %self, i64 $data
  %table = load ptr, ptr %table_cell
  %count = TABLE i64 count
  %extra = sub i64 %n, %count
  %counted = icmp ule i64 %extra, 1
  br i1 %counted, label %run, label %refuse
run:
  %strict = icmp eq i64 %extra, 1
  %answer = call i64 @gradc.invoke(ptr %table, ptr %args, i1 %strict)
  %ran = icmp eq i64 %answer, $done
  br i1 %ran, label %done, label %refuse
done:
  %none = PROCESS ptr none
  call void @gradc.up(ptr %none)
  ret ptr %none
refuse:
  %why = phi i64 [ $wrong_count, %entry ], [ %answer, %run ]
  %number = call ptr @PyLong_FromLong(i64 %why)
  ret ptr %number
}
"""
