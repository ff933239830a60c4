"""The calls from Python, as LLVM IR that knows no program: every ndarray is checked in machine code
and the entry runs without the GIL.

It is made once and kept in the object cache; what it must know of a program is a table of words
(``table``), which a function finds as the data of its ``self``, an ndarray. Two METH_FASTCALL
functions share one core:

* ``gradc_call(array, ...)`` takes one ndarray per port and returns None.
* ``gradc_named(dict, ...)`` finds the arrays of the ports that are given in dictionaries by name,
  makes the others, and returns ``(loss or None, dict, dict, dict)``: the made arrays by name, in
  the groups that ``table`` says.

Small results of the latter are handed out again when nobody holds them (``recycle``).
``gradc_direct`` is a whole call as users write it (``direct``); ``gradc_many`` runs an entry again
and again (``repeat``).

A program that has refused its step (a port whose role is STOP is true) has run, and changed nothing
that it updates: the functions answer ``STOPPED``.

Each array must be exactly an ndarray, of the expected dtype object, rank and shape, C-contiguous,
aligned, and writeable where the program writes. What it updates in place shares memory with nothing
else: those arrays are compared with each other when they are not the ones of the last call, the
rest with them each time. If something does not fit, nothing has been run and the answer is an int:
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

import re
from string import Template

from gradc.codegen.backend import STOPPED
from gradc.codegen.llvm.host import direct, recycle, repeat
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
    texts = (_CORE, _APART, _CALL, _NAMED, recycle.TEXT, repeat.TEXT, direct.TEXT)
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
    return f'target triple = "{triple}"\n{expanded(text)}\nattributes #0 = {{ nounwind }}\n'


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
declare i32 @PyDict_SetItem(ptr, ptr, ptr)
declare ptr @PyTuple_New(i64)
declare i32 @PyTuple_SetItem(ptr, i64, ptr)
declare void @PyErr_Clear()

define internal i64 @gradc.invoke(ptr %table, ptr %args) #0 {
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
  br i1 %apart, label %room, label %refuse
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
    [ $busy, %room ]
  ret i64 %why
}
"""

# Called with the GIL held: nobody else is in here. Which arrays were found apart is known by their
# addresses, as their sizes are fixed.
_APART = """
define internal i64 @gradc.apart(ptr %table, ptr %pointers) #0 {
entry:
  %updated = TABLE i64 updated
  %count = TABLE i64 count
  %order = TABLE ptr order
  %sizes = TABLE ptr sizes
  %seen = TABLE ptr seen
  %none = icmp eq i64 %updated, 0
  br i1 %none, label %apart, label %look
look:
  %w = phi i64 [ 0, %entry ], [ %w.next, %known ]
  %w_cell = getelementptr i64, ptr %order, i64 %w
  %w_port = load i64, ptr %w_cell
  %w_at = getelementptr i64, ptr %pointers, i64 %w_port
  %now = load i64, ptr %w_at
  %before_cell = getelementptr i64, ptr %seen, i64 %w
  %before = load i64, ptr %before_cell
  %same = icmp eq i64 %now, %before
  br i1 %same, label %known, label %compare
known:
  %w.next = add i64 %w, 1
  %more_seen = icmp ult i64 %w.next, %updated
  br i1 %more_seen, label %look, label %compare
compare:
  ; all pairs of them if one is new, else what is only read against them
  %start = phi i64 [ 1, %look ], [ %updated, %known ]
  br label %next
next:
  %a = phi i64 [ %start, %compare ], [ %a.next, %fine ]
  %more = icmp ult i64 %a, %count
  br i1 %more, label %one, label %note
one:
  %a_cell = getelementptr i64, ptr %order, i64 %a
  %a_port = load i64, ptr %a_cell
  %a_at = getelementptr i64, ptr %pointers, i64 %a_port
  %a_begin = load i64, ptr %a_at
  %a_size_cell = getelementptr i64, ptr %sizes, i64 %a
  %a_size = load i64, ptr %a_size_cell
  %a_end = add i64 %a_begin, %a_size
  %few = icmp ult i64 %a, %updated
  %others = select i1 %few, i64 %a, i64 %updated
  br label %other
other:
  %b = phi i64 [ 0, %one ], [ %b.next, %beside ]
  %b_cell = getelementptr i64, ptr %order, i64 %b
  %b_port = load i64, ptr %b_cell
  %b_at = getelementptr i64, ptr %pointers, i64 %b_port
  %b_begin = load i64, ptr %b_at
  %b_size_cell = getelementptr i64, ptr %sizes, i64 %b
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
  %n_cell = getelementptr i64, ptr %order, i64 %n
  %n_port = load i64, ptr %n_cell
  %n_at = getelementptr i64, ptr %pointers, i64 %n_port
  %n_now = load i64, ptr %n_at
  %n_seen = getelementptr i64, ptr %seen, i64 %n
  store i64 %n_now, ptr %n_seen
  %n.next = add i64 %n, 1
  %more_notes = icmp ult i64 %n.next, %updated
  br i1 %more_notes, label %note, label %apart
apart:
  ret i64 -1
refuse:
  ret i64 %a_port
}
"""

_CALL = """
define ptr @gradc_call(ptr %self, ptr %args, i64 %n) #0 {
entry:
  %table_cell = getelementptr i8, ptr %self, i64 $data
  %table = load ptr, ptr %table_cell
  %count = TABLE i64 count
  %counted = icmp eq i64 %n, %count
  br i1 %counted, label %run, label %refuse
run:
  %answer = call i64 @gradc.invoke(ptr %table, ptr %args)
  %ran = icmp eq i64 %answer, $done
  br i1 %ran, label %done, label %refuse
done:
  %none = PROCESS ptr none
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
define ptr @gradc_named(ptr %self, ptr %args, i64 %n) #0 {
entry:
  %table_cell = getelementptr i8, ptr %self, i64 $data
  %table = load ptr, ptr %table_cell
  %fits = icmp eq i64 %n, $holder_count
  br i1 %fits, label %run, label %refuse
run:
  %answer = call ptr @gradc.named(ptr %table, ptr %args)
  ret ptr %answer
refuse:
  %number = call ptr @PyLong_FromLong(i64 $wrong_count)
  ret ptr %number
}

define internal ptr @gradc.named(ptr %table, ptr %args) #0 {
entry:
  %count = TABLE i64 count
  %words = TABLE ptr ports
  %holders = TABLE ptr holders
  %objects = alloca ptr, i64 %count, align 16
  %dicts = alloca ptr, i64 $group_count, align 16
  %dict_type = PROCESS ptr dict
  %ndarray = PROCESS ptr ndarray
  %new_array = PROCESS ptr new_array
  br label %holder
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
  %expected_cell = getelementptr i64, ptr %holders, i64 %h
  %expected = load i64, ptr %expected_cell
  %right = icmp eq i64 %length, %expected
  br i1 %right, label %counted, label %refuse
counted:
  %h.next = add i64 %h, 1
  %more_holders = icmp ult i64 %h.next, $holder_count
  br i1 %more_holders, label %holder, label %begin
begin:
  %kept = call ptr @gradc.next_set(ptr %table)
  %spare = call ptr @gradc.reuse(ptr %table, ptr %kept)
  %again = icmp ne ptr %spare, null
  %portless = icmp eq i64 %count, 0
  br i1 %portless, label %invoke, label %port
port:
  %i = phi i64 [ 0, %begin ], [ %i.next, %have ]
  %word = getelementptr [8 x i64], ptr %words, i64 %i
  %from = PORT i64 holder
  %made = icmp slt i64 %from, 0
  br i1 %made, label %make, label %find
find:
  %given_cell = getelementptr ptr, ptr %args, i64 %from
  %given = load ptr, ptr %given_cell
  %name = PORT ptr name
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
  %dtype = PORT ptr dtype
  call void @Py_IncRef(ptr %dtype)
  %rank = PORT i64 rank
  %rank32 = trunc i64 %rank to i32
  %dims = PORT ptr dims
  %new = call ptr %new_array(ptr %ndarray, ptr %dtype, i32 %rank32, ptr %dims,
    ptr null, ptr null, i32 0, ptr null)
  %failed = icmp eq ptr %new, null
  br i1 %failed, label %broken, label %have
have:
  %object = phi ptr [ %found, %keep ], [ %new, %create ], [ %reused, %reuse ]
  %object_cell = getelementptr ptr, ptr %objects, i64 %i
  store ptr %object, ptr %object_cell
  %i.next = add i64 %i, 1
  %more_ports = icmp ult i64 %i.next, %count
  br i1 %more_ports, label %port, label %invoke
absent:
  call void @PyErr_Clear()
  br label %undo
broken:
  br label %drop
invoke:
  %answer = call i64 @gradc.invoke(ptr %table, ptr %objects)
  %ran = icmp eq i64 %answer, $done
  br i1 %ran, label %ready, label %undo
undo:
  %undo_owned = phi i64 [ %i, %absent ], [ %count, %invoke ]
  %undo_why = phi i64 [ %i, %absent ], [ %answer, %invoke ]
  br i1 %again, label %return_set, label %drop
return_set:
  call void @Py_DecRef(ptr %spare)
  call void @gradc.forget(ptr %table, ptr %kept)
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
  %none = PROCESS ptr none
  call void @Py_IncRef(ptr %none)
  %set_none = call i32 @PyTuple_SetItem(ptr %tuple, i64 0, ptr %none)
  br i1 %portless, label %drop, label %result
result:
  %r = phi i64 [ 0, %single ], [ %r.next, %placed ]
  %rword = getelementptr [8 x i64], ptr %words, i64 %r
  %rfrom = OUT i64 holder
  %is_result = icmp slt i64 %rfrom, 0
  br i1 %is_result, label %place, label %placed
place:
  %robject_cell = getelementptr ptr, ptr %objects, i64 %r
  %robject = load ptr, ptr %robject_cell
  %into = OUT i64 group
  %alone = icmp eq i64 %into, 0
  br i1 %alone, label %put, label %enter
put:
  call void @Py_IncRef(ptr %robject)
  %set_loss = call i32 @PyTuple_SetItem(ptr %tuple, i64 0, ptr %robject)
  br label %placed
enter:
  %rname = OUT ptr name
  %rdict_cell = getelementptr ptr, ptr %dicts, i64 %into
  %rdict = load ptr, ptr %rdict_cell
  %entered = call i32 @PyDict_SetItem(ptr %rdict, ptr %rname, ptr %robject)
  %refused = icmp ne i32 %entered, 0
  br i1 %refused, label %spoilt, label %placed
placed:
  %r.next = add i64 %r, 1
  %more_results = icmp ult i64 %r.next, %count
  br i1 %more_results, label %result, label %complete
complete:
  call void @gradc.keep(ptr %table, ptr %kept, ptr %tuple, ptr %dicts, ptr %objects)
  br label %drop
spoilt:
  call void @Py_DecRef(ptr %tuple)
  br label %drop
drop:
  ; how many objects are owned, what to answer, and whether that is an int still to be made
  %owned = phi i64 [ %undo_owned, %undo ], [ %undo_owned, %return_set ], [ %i, %broken ], \
[ %count, %ready ], [ %count, %collect ], [ %count, %single ], [ %count, %complete ], \
[ %count, %spoilt ]
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
  %why = phi i64 [ $wrong_count, %holder ],
    [ $wrong_count, %size ], [ %why.0, %leave ]
  %number = call ptr @PyLong_FromLong(i64 %why)
  ret ptr %number
}
"""
