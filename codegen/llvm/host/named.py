"""A call that finds arrays by name and makes the others, as LLVM IR.

Names are looked for where they probably are: in dictionaries in the order of ports, among keywords
behind the last one found. Every object in ``%objects`` is owned until ``%release``, so nothing that
another thread drops disappears meanwhile.

Where the caller has room for the last results and reads of the loss its number alone (``%lends``),
the loss lies in an array that the table has: none is made.

Non-goals: whether arrays fit (``gradc.invoke``), the answer as users see it (``direct``).
"""

from __future__ import annotations

TEXT = """
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
  %answer = call ptr @gradc.named(ptr %table, ptr %args, ptr %out, i64 0, i1 false,
    i1 false, ptr null, ptr null)
  ret ptr %answer
refuse:
  %number = call ptr @PyLong_FromLong(i64 $wrong_count)
  ret ptr %number
}

; Where a name stands among keywords, probably at %guess; -1 where it does not.
define internal i64 @gradc.keyword(ptr %keywords, ptr %name, i64 %guess) #0 {
entry:
  %count = call i64 @PyTuple_Size(ptr %keywords)
  %inside = icmp ult i64 %guess, %count
  br i1 %inside, label %look, label %search
look:
  %likely = call ptr @PyTuple_GetItem(ptr %keywords, i64 %guess)
  %same = icmp eq ptr %likely, %name
  br i1 %same, label %there, label %search
there:
  ret i64 %guess
search:
  %k = phi i64 [ 0, %entry ], [ 0, %look ], [ %k.next, %other ]
  %more = icmp ult i64 %k, %count
  br i1 %more, label %compare, label %nowhere
compare:
  %key = call ptr @PyTuple_GetItem(ptr %keywords, i64 %k)
  %order = call i32 @PyUnicode_Compare(ptr %key, ptr %name)
  %equal = icmp eq i32 %order, 0
  br i1 %equal, label %here, label %other
here:
  ret i64 %k
other:
  %k.next = add i64 %k, 1
  br label %search
nowhere:
  ret i64 -1
}

; Results of the last group lie in the dictionary %out, unless it is null. Beside inputs the caller
; has given %beside things more by name. Where %loss_alone, the answer is the loss as a scalar;
; where %lends, the array of the loss is the table's: it is read before the next call and not kept.
; Inputs are in their dictionary, or, unless %keywords is null, in %values under those names.
define internal ptr @gradc.named(ptr %table, ptr %args, ptr %out, i64 %beside, i1 %loss_alone,
  i1 %lends, ptr %keywords, ptr %values) #0 {
entry:
  %has_keywords = icmp ne ptr %keywords, null
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
  %is_inputs = icmp eq i64 %h, 1
  %in_keywords = and i1 %is_inputs, %has_keywords
  br i1 %in_keywords, label %keywords_size, label %dictionary
keywords_size:
  %keyword_count = call i64 @PyTuple_Size(ptr %keywords)
  br label %size
dictionary:
  %holder_cell = getelementptr ptr, ptr %args, i64 %h
  %holder_object = load ptr, ptr %holder_cell
  %htype_cell = getelementptr i8, ptr %holder_object, i64 $type
  %htype = load ptr, ptr %htype_cell
  %is_dict = icmp eq ptr %htype, %dict_type
  br i1 %is_dict, label %dictionary_size, label %refuse
dictionary_size:
  %entries = call i64 @PyDict_Size(ptr %holder_object)
  br label %size
size:
  %length = phi i64 [ %keyword_count, %keywords_size ], [ %entries, %dictionary_size ]
  %expected_cell = getelementptr i64, ptr %holders, i64 %h
  %asked = load i64, ptr %expected_cell
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
  %of_inputs = icmp eq i64 %holds, 1
  %by_keyword = and i1 %of_inputs, %has_keywords
  br i1 %by_keyword, label %keyword, label %next
keyword:
  %guess = load i64, ptr %cursor
  %keyword_at = call i64 @gradc.keyword(ptr %keywords, ptr %name, i64 %guess)
  %unsaid = icmp slt i64 %keyword_at, 0
  br i1 %unsaid, label %absent, label %said
said:
  %after = add i64 %keyword_at, 1
  store i64 %after, ptr %cursor
  %said_cell = getelementptr ptr, ptr %values, i64 %keyword_at
  %argument = load ptr, ptr %said_cell
  br label %keep
next:
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
  %found = phi ptr [ %value, %compare ], [ %sought, %search ], [ %argument, %said ]
  call void @gradc.up(ptr %found)
  br label %have
make:
  %group_of = PORT i64 group
  %is_last = icmp eq i64 %group_of, %last
  %has_room = and i1 %has_out, %is_last
  br i1 %has_room, label %find, label %afresh
afresh:
  %spared = PORT ptr spared
  %has_spared = icmp ne ptr %spared, null
  %is_spared = and i1 %has_spared, %lends
  br i1 %is_spared, label %lend, label %anew
lend:
  call void @gradc.up(ptr %spared)
  store ptr %spared, ptr %loss_cell
  br label %have
anew:
  br i1 %again, label %reuse, label %create
reuse:
  %reuse_at = add i64 %i, $group_count
  %reuse_cell = getelementptr ptr, ptr %kept, i64 %reuse_at
  %reused = load ptr, ptr %reuse_cell
  call void @gradc.up(ptr %reused)
  br label %have
create:
  %dtype = PORT ptr dtype
  call void @gradc.up(ptr %dtype)
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
  call void @gradc.down(ptr %spare)
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
  call void @gradc.up(ptr %out)
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
  call void @gradc.up(ptr %none)
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
  call void @gradc.up(ptr %robject)
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
  call void @gradc.down(ptr %tuple)
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
  call void @gradc.down(ptr %owned_object)
  %o.next = add i64 %o, 1
  %more_owned = icmp ult i64 %o.next, %owned
  br i1 %more_owned, label %release, label %leave
leave:
  %finished = icmp eq i64 %why.0, $done
  br i1 %finished, label %done, label %refuse
done:
  ret ptr %outcome
refuse:
  %why = phi i64 [ $wrong_count, %room ], [ $wrong_count, %room_size ],
    [ $wrong_count, %dictionary ], [ $wrong_count, %size ], [ %why.0, %leave ]
  %code = call ptr @PyLong_FromLong(i64 %why)
  ret ptr %code
}
"""
