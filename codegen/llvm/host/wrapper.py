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

import re
from string import Template

from gradc.codegen.backend import STOPPED
from gradc.codegen.llvm.host import apart, direct, recycle, repeat
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
    texts = (_CORE, apart.TEXT, _CALL, _NAMED, recycle.TEXT, repeat.TEXT, direct.TEXT)
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
declare i32 @PyDict_Next(ptr, ptr, ptr, ptr)
declare i32 @PyDict_SetItem(ptr, ptr, ptr)
declare ptr @PyTuple_New(i64)
declare i32 @PyTuple_SetItem(ptr, i64, ptr)
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
  %extra = sub i64 %n, $holder_count
  %fits = icmp ule i64 %extra, 1
  br i1 %fits, label %take, label %refuse
take:
  %given = icmp eq i64 %extra, 1
  br i1 %given, label %room, label %run
room:
  %room_cell = getelementptr ptr, ptr %args, i64 $holder_count
  %room_object = load ptr, ptr %room_cell
  br label %run
run:
  %out = phi ptr [ null, %take ], [ %room_object, %room ]
  %answer = call ptr @gradc.named(ptr %table, ptr %args, ptr %out, i64 0, i1 false)
  ret ptr %answer
refuse:
  %number = call ptr @PyLong_FromLong(i64 $wrong_count)
  ret ptr %number
}

; Results of the last group lie in the dictionary %out, unless it is null. Beside inputs the caller
; has given %beside things more by name. Where %loss_alone, the answer is the loss as a scalar.
define internal ptr @gradc.named(ptr %table, ptr %args, ptr %out, i64 %beside, i1 %loss_alone) #0 {
entry:
  %loss_cell = alloca ptr, align 8
  store ptr null, ptr %loss_cell
  %cursors = alloca [4 x i64], align 16
  store [4 x i64] zeroinitializer, ptr %cursors
  %key_cell = alloca ptr, align 8
  %value_cell = alloca ptr, align 8
  %count = TABLE i64 count
  %words = TABLE ptr ports
  %holders = TABLE ptr holders
  %objects = alloca ptr, i64 %count, align 16
  %dicts = alloca ptr, i64 $group_count, align 16
  %dict_type = PROCESS ptr dict
  %ndarray = PROCESS ptr ndarray
  %new_array = PROCESS ptr new_array
  %last = TABLE i64 last
  %has_out = icmp ne ptr %out, null
  br i1 %has_out, label %room, label %holder
room:
  %out_type_cell = getelementptr i8, ptr %out, i64 $type
  %out_type = load ptr, ptr %out_type_cell
  %out_is_dict = icmp eq ptr %out_type, %dict_type
  br i1 %out_is_dict, label %room_size, label %refuse
room_size:
  %out_length = call i64 @PyDict_Size(ptr %out)
  %groups = TABLE ptr groups
  %filled_cell = getelementptr i64, ptr %groups, i64 %last
  %filled = load i64, ptr %filled_cell
  %all_named = icmp eq i64 %out_length, %filled
  br i1 %all_named, label %holder, label %refuse
holder:
  %h = phi i64 [ 0, %entry ], [ 0, %room_size ], [ %h.next, %counted ]
  %holder_cell = getelementptr ptr, ptr %args, i64 %h
  %holder_object = load ptr, ptr %holder_cell
  %htype_cell = getelementptr i8, ptr %holder_object, i64 $type
  %htype = load ptr, ptr %htype_cell
  %is_dict = icmp eq ptr %htype, %dict_type
  br i1 %is_dict, label %size, label %refuse
size:
  %length = call i64 @PyDict_Size(ptr %holder_object)
  %expected_cell = getelementptr i64, ptr %holders, i64 %h
  %asked = load i64, ptr %expected_cell
  %is_inputs = icmp eq i64 %h, 1
  %more_given = select i1 %is_inputs, i64 %beside, i64 0
  %expected = add i64 %asked, %more_given
  %right = icmp eq i64 %length, %expected
  br i1 %right, label %counted, label %refuse
counted:
  %h.next = add i64 %h, 1
  %more_holders = icmp ult i64 %h.next, $holder_count
  br i1 %more_holders, label %holder, label %begin
begin:
  br i1 %has_out, label %start, label %turn
turn:
  %own_set = call ptr @gradc.next_set(ptr %table)
  br label %start
start:
  %kept = phi ptr [ null, %begin ], [ %own_set, %turn ]
  %spare = call ptr @gradc.reuse(ptr %table, ptr %kept)
  %again = icmp ne ptr %spare, null
  %portless = icmp eq i64 %count, 0
  br i1 %portless, label %invoke, label %port
port:
  %i = phi i64 [ 0, %start ], [ %i.next, %have ]
  %word = getelementptr [8 x i64], ptr %words, i64 %i
  %from = PORT i64 holder
  %made = icmp slt i64 %from, 0
  br i1 %made, label %make, label %find
find:
  %holds = phi i64 [ %from, %port ], [ 0, %make ]
  %given_cell = getelementptr ptr, ptr %args, i64 %holds
  %held = load ptr, ptr %given_cell
  %given = select i1 %made, ptr %out, ptr %held
  %name = PORT ptr name
  ; most dictionaries are in the order of ports: what comes next is what is looked for
  %which = select i1 %made, i64 $holder_count, i64 %holds
  %cursor = getelementptr i64, ptr %cursors, i64 %which
  %more_keys = call i32 @PyDict_Next(ptr %given, ptr %cursor, ptr %key_cell, ptr %value_cell)
  %at_end = icmp eq i32 %more_keys, 0
  br i1 %at_end, label %search, label %compare
compare:
  %key = load ptr, ptr %key_cell
  %value = load ptr, ptr %value_cell
  %is_next = icmp eq ptr %key, %name
  br i1 %is_next, label %keep, label %search
search:
  %sought = call ptr @PyDict_GetItemWithError(ptr %given, ptr %name)
  %missing = icmp eq ptr %sought, null
  br i1 %missing, label %absent, label %keep
keep:
  %found = phi ptr [ %value, %compare ], [ %sought, %search ]
  call void @Py_IncRef(ptr %found)
  br label %have
make:
  %group_of = PORT i64 group
  %is_last = icmp eq i64 %group_of, %last
  %has_room = and i1 %has_out, %is_last
  br i1 %has_room, label %find, label %afresh
afresh:
  %spared = PORT ptr spared
  %has_spared = icmp ne ptr %spared, null
  %is_spared = and i1 %has_spared, %loss_alone
  br i1 %is_spared, label %lend, label %anew
lend:
  call void @Py_IncRef(ptr %spared)
  store ptr %spared, ptr %loss_cell
  br label %have
anew:
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
  %object = phi ptr [ %found, %keep ], [ %new, %create ], [ %reused, %reuse ], [ %spared, %lend ]
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
  %answer = call i64 @gradc.invoke(ptr %table, ptr %objects, i1 %has_out)
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
  br i1 %loss_alone, label %loss, label %gather
loss:
  %loss_array = load ptr, ptr %loss_cell
  %number = call ptr @gradc.scalar(ptr %loss_array)
  br label %drop
gather:
  br i1 %again, label %drop, label %collect
collect:
  %tuple = call ptr @PyTuple_New(i64 $group_count)
  %no_tuple = icmp eq ptr %tuple, null
  br i1 %no_tuple, label %drop, label %group
group:
  %g = phi i64 [ 1, %collect ], [ %g.next, %grouped ]
  %g_last = icmp eq i64 %g, %last
  %g_room = and i1 %g_last, %has_out
  br i1 %g_room, label %theirs, label %ours
theirs:
  call void @Py_IncRef(ptr %out)
  br label %grouped
ours:
  %new_dict = call ptr @PyDict_New()
  %no_dict = icmp eq ptr %new_dict, null
  br i1 %no_dict, label %spoilt, label %grouped
grouped:
  %dict = phi ptr [ %out, %theirs ], [ %new_dict, %ours ]
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
  %into = OUT i64 group
  %in_last = icmp eq i64 %into, %last
  %lies_there = and i1 %in_last, %has_out
  %lies_here = xor i1 %lies_there, true
  %to_place = and i1 %is_result, %lies_here
  br i1 %to_place, label %place, label %placed
place:
  %robject_cell = getelementptr ptr, ptr %objects, i64 %r
  %robject = load ptr, ptr %robject_cell
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
[ %count, %loss ], [ %count, %gather ], [ %count, %collect ], [ %count, %single ], \
[ %count, %complete ], [ %count, %spoilt ]
  %why.0 = phi i64 [ %undo_why, %undo ], [ %undo_why, %return_set ], [ $done, %broken ], \
[ $done, %loss ], [ $done, %gather ], [ $done, %collect ], [ $done, %single ], \
[ $done, %complete ], [ $done, %spoilt ]
  %outcome = phi ptr [ null, %undo ], [ null, %return_set ], [ null, %broken ], \
[ %number, %loss ], [ %spare, %gather ], [ null, %collect ], [ %tuple, %single ], \
[ %tuple, %complete ], [ null, %spoilt ]
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
  %why = phi i64 [ $wrong_count, %room ], [ $wrong_count, %room_size ], [ $wrong_count, %holder ],
    [ $wrong_count, %size ], [ %why.0, %leave ]
  %code = call ptr @PyLong_FromLong(i64 %why)
  ret ptr %code
}
"""
