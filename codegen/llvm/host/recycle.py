"""Small results that nobody holds any more are handed out again: the text of it, in LLVM IR.

A call from Python makes arrays, three dictionaries and a tuple; for a small program that takes
longer than the program. Two sets of them are kept, used in turn: a caller that holds the results
of the last call while it makes the next one, as ``loss, grads = f(...)`` does, finds the other set
free. A set is free if references say so: of the tuple and the dictionaries only ours, of every
array ours and its dictionary's; so no caller can tell it from a new one. A dictionary of another
size is not free, nor is a set that the program refused (a caller has changed an array's shape or
flags).

Only results of up to ``MOST`` bytes are kept: larger ones take longer to compute than to make, and
their memory is the caller's to give back.

Everything here runs with the GIL held. While a set is in use its tuple has one reference more, so
that another thread, which finds it taken and forgets it, takes nothing away. The count of
references is the first word of an object, where its type is the second (``is_possible``).

Non-goals: arrays that are written to in place (they are the caller's).
"""

from __future__ import annotations

MOST = 64 << 10
SETS = 2


def is_possible(type_offset: int, nbytes: int, count: int) -> bool:
    """Whether ``count`` results of ``nbytes`` in all are kept, where objects say their type at
    ``type_offset``.
    """
    return count > 0 and nbytes <= MOST and type_offset == 8


TEXT = """
; a set: the tuple, the dictionaries (the first place is empty), an array per port that is made

; the words of a set
define internal i64 @gradc.room(ptr %table) #0 {
entry:
  %count = TABLE i64 count
  %room = add i64 %count, $group_count
  ret i64 %room
}

; the set whose turn it is; null if results are not kept
define internal ptr @gradc.next_set(ptr %table) #0 {
entry:
  %kept = TABLE ptr kept
  %never = icmp eq ptr %kept, null
  br i1 %never, label %no, label %some
some:
  %turn = TABLE i64 turn
  %up = add i64 %turn, 1
  %next = urem i64 %up, $sets
  store i64 %next, ptr %turn.at
  %room = call i64 @gradc.room(ptr %table)
  %skipped = mul i64 %next, %room
  %set = getelementptr ptr, ptr %kept, i64 %skipped
  ret ptr %set
no:
  ret ptr null
}

define internal void @gradc.forget(ptr %table, ptr %set) #0 {
entry:
  %room = call i64 @gradc.room(ptr %table)
  br label %place
place:
  %i = phi i64 [ 0, %entry ], [ %i.next, %next ]
  %is_dict = icmp ult i64 %i, $group_count
  %is_later = icmp ugt i64 %i, 0
  %borrowed = and i1 %is_dict, %is_later
  %cell = getelementptr ptr, ptr %set, i64 %i
  %object = load ptr, ptr %cell
  ; emptied first: what a reference less sets off may come back here
  store ptr null, ptr %cell
  %empty = icmp eq ptr %object, null
  %leave = or i1 %borrowed, %empty
  br i1 %leave, label %next, label %drop
drop:
  call void @gradc.down(ptr %object)
  br label %next
next:
  %i.next = add i64 %i, 1
  %more = icmp ult i64 %i.next, %room
  br i1 %more, label %place, label %done
done:
  ret void
}

define void @gradc_forget(ptr %table) #0 {
entry:
  %kept = TABLE ptr kept
  %never = icmp eq ptr %kept, null
  br i1 %never, label %done, label %some
some:
  %room = call i64 @gradc.room(ptr %table)
  br label %each
each:
  %n = phi i64 [ 0, %some ], [ %n.next, %each ]
  %skipped = mul i64 %n, %room
  %set = getelementptr ptr, ptr %kept, i64 %skipped
  call void @gradc.forget(ptr %table, ptr %set)
  %n.next = add i64 %n, 1
  %more = icmp ult i64 %n.next, $sets
  br i1 %more, label %each, label %done
done:
  ret void
}

; The tuple of a free set, with a reference for the caller; null if the set is not free: then it is
; empty.
define internal ptr @gradc.reuse(ptr %table, ptr %set) #0 {
entry:
  %never = icmp eq ptr %set, null
  br i1 %never, label %no, label %look
look:
  %room = call i64 @gradc.room(ptr %table)
  %groups = TABLE ptr groups
  %tuple = load ptr, ptr %set
  %none = icmp eq ptr %tuple, null
  br i1 %none, label %no, label %tuple_held
tuple_held:
  %tuple_count = load i64, ptr %tuple
  %tuple_free = icmp eq i64 %tuple_count, 1
  br i1 %tuple_free, label %dict, label %forget
dict:
  %g = phi i64 [ 1, %tuple_held ], [ %g.next, %dict_fits ]
  %dict_cell = getelementptr ptr, ptr %set, i64 %g
  %dict_object = load ptr, ptr %dict_cell
  %dict_count = load i64, ptr %dict_object
  %dict_free = icmp eq i64 %dict_count, 1
  br i1 %dict_free, label %dict_size, label %forget
dict_size:
  %size = call i64 @PyDict_Size(ptr %dict_object)
  %filled_cell = getelementptr i64, ptr %groups, i64 %g
  %filled = load i64, ptr %filled_cell
  %same = icmp eq i64 %size, %filled
  br i1 %same, label %dict_fits, label %forget
dict_fits:
  %g.next = add i64 %g, 1
  %more_dicts = icmp ult i64 %g.next, $group_count
  br i1 %more_dicts, label %dict, label %array
array:
  %i = phi i64 [ $group_count, %dict_fits ], [ %i.next, %array_free ]
  %cell = getelementptr ptr, ptr %set, i64 %i
  %object = load ptr, ptr %cell
  %given = icmp eq ptr %object, null
  br i1 %given, label %array_free, label %array_held
array_held:
  %count = load i64, ptr %object
  %free = icmp eq i64 %count, 2
  br i1 %free, label %array_free, label %forget
array_free:
  %i.next = add i64 %i, 1
  %more = icmp ult i64 %i.next, %room
  br i1 %more, label %array, label %yes
yes:
  call void @gradc.up(ptr %tuple)
  ret ptr %tuple
forget:
  call void @gradc.forget(ptr %table, ptr %set)
  ret ptr null
no:
  ret ptr null
}

define internal void @gradc.keep(ptr %table, ptr %set, ptr %tuple, ptr %dicts, ptr %objects) #0 {
entry:
  %never = icmp eq ptr %set, null
  br i1 %never, label %done, label %start
start:
  %count = TABLE i64 count
  %words = TABLE ptr ports
  ; another thread may have filled it meanwhile
  call void @gradc.forget(ptr %table, ptr %set)
  call void @gradc.up(ptr %tuple)
  store ptr %tuple, ptr %set
  br label %dict
dict:
  %g = phi i64 [ 1, %start ], [ %g.next, %dict ]
  %from = getelementptr ptr, ptr %dicts, i64 %g
  %dict_object = load ptr, ptr %from
  %to = getelementptr ptr, ptr %set, i64 %g
  store ptr %dict_object, ptr %to
  %g.next = add i64 %g, 1
  %more_dicts = icmp ult i64 %g.next, $group_count
  br i1 %more_dicts, label %dict, label %port
port:
  %i = phi i64 [ 0, %dict ], [ %i.next, %next ]
  %word = getelementptr [8 x i64], ptr %words, i64 %i
  %holder = PORT i64 holder
  %made = icmp slt i64 %holder, 0
  br i1 %made, label %array, label %next
array:
  %object_cell = getelementptr ptr, ptr %objects, i64 %i
  %object = load ptr, ptr %object_cell
  call void @gradc.up(ptr %object)
  %at = add i64 %i, $group_count
  %place = getelementptr ptr, ptr %set, i64 %at
  store ptr %object, ptr %place
  br label %next
next:
  %i.next = add i64 %i, 1
  %more = icmp ult i64 %i.next, %count
  br i1 %more, label %port, label %done
done:
  ret void
}
"""
