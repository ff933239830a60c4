"""A whole call of a compiled program in machine code, as Python makes it: LLVM IR.

``gradc_direct(holder, **inputs)`` takes the dictionaries of ``gradc_named`` as users write them:
one argument, which is the dictionary of parameters or an object whose attribute ``arrays`` is one,
perhaps a second one, the dictionary of seeds; inputs by name, and perhaps ``out``, a dictionary of
arrays for the last results. What a program is called with most of the time runs here to its end;
for anything else, a refusal included, the callable ``slow`` gets the same arguments, and explains.
The interpreter hands keywords on as they stand in its frame (METH_FASTCALL | METH_KEYWORDS): no
dictionary of them is made.

Its ``self`` is an ndarray of the words ``BINDING``: the table of the program (``table``), ``slow``;
``finish``, which makes the answer of what a named call returns and keeps no array of the loss, or
null for the answer ``(loss, cotangents)``, the loss a scalar; ``state``, the type of the object
with ``arrays``, or null; and how many dictionaries of ``seeds`` are wanted, 0 or 1. An object with
``arrays`` gets the outputs as its attribute ``metrics``, and is the second part of the answer.

Invariants: what is called stays alive while it runs, whatever other threads do meanwhile.
Non-goals: which program (``slow`` chooses it).
"""

from __future__ import annotations

BINDING = ("table", "slow", "finish", "state", "seeds")

TEXT = """
declare ptr @PyObject_GetAttr(ptr, ptr)
declare i32 @PyObject_SetAttr(ptr, ptr, ptr)
declare ptr @PyObject_Vectorcall(ptr, ptr, i64, ptr)
declare ptr @PyObject_CallOneArg(ptr, ptr)

; The number in an array without axes; None for None or nothing.
define internal ptr @gradc.scalar(ptr %array) #0 {
entry:
  %none = PROCESS ptr none
  %missing = icmp eq ptr %array, null
  %empty = icmp eq ptr %array, %none
  %lossless = or i1 %missing, %empty
  br i1 %lossless, label %nothing, label %some
nothing:
  call void @gradc.up(ptr %none)
  ret ptr %none
some:
  %data_cell = getelementptr i8, ptr %array, i64 $data
  %data = load ptr, ptr %data_cell
  %dtype_cell = getelementptr i8, ptr %array, i64 $dtype
  %dtype = load ptr, ptr %dtype_cell
  %new_scalar = PROCESS ptr new_scalar
  %number = call ptr %new_scalar(ptr %data, ptr %dtype, ptr null)
  ret ptr %number
}

define ptr @gradc_direct(ptr %self, ptr %args, i64 %n, ptr %keywords) #0 {
entry:
  call void @gradc.up(ptr %self)
  %own_cell = getelementptr i8, ptr %self, i64 $data
  %own = load ptr, ptr %own_cell
  %table = OWN ptr table
  %slow = OWN ptr slow
  %finish = OWN ptr finish
  %state_type = OWN ptr state
  %is_step = icmp ne ptr %state_type, null
  %holders = alloca ptr, i64 $holder_count, align 16
  %empty = PROCESS ptr empty
  %tuple_type = PROCESS ptr tuple
  %seeds_wanted = OWN i64 seeds
  %positional = add i64 %seeds_wanted, 1
  %all = icmp eq i64 %n, %positional
  %named = icmp ne ptr %keywords, null
  %usual = and i1 %all, %named
  br i1 %usual, label %first, label %slowly
first:
  %head = load ptr, ptr %args
  %values = getelementptr ptr, ptr %args, i64 %n
  %seeded = icmp ne i64 %seeds_wanted, 0
  br i1 %seeded, label %second_of_two, label %one
second_of_two:
  %seeds_given_cell = getelementptr ptr, ptr %args, i64 1
  %seeds_given = load ptr, ptr %seeds_given_cell
  br label %one
one:
  %seeds = phi ptr [ %empty, %first ], [ %seeds_given, %second_of_two ]
  br i1 %is_step, label %state, label %plain
state:
  %head_type_cell = getelementptr i8, ptr %head, i64 $type
  %head_type = load ptr, ptr %head_type_cell
  %is_state = icmp eq ptr %head_type, %state_type
  br i1 %is_state, label %arrays_of, label %slowly
arrays_of:
  %arrays_name = PROCESS ptr arrays
  %arrays = call ptr @PyObject_GetAttr(ptr %head, ptr %arrays_name)
  %no_arrays = icmp eq ptr %arrays, null
  br i1 %no_arrays, label %leave, label %run
plain:
  call void @gradc.up(ptr %head)
  br label %run
run:
  %params = phi ptr [ %arrays, %arrays_of ], [ %head, %plain ]
  store ptr %params, ptr %holders
  %inputs_cell = getelementptr ptr, ptr %holders, i64 1
  store ptr %empty, ptr %inputs_cell
  %seeds_cell = getelementptr ptr, ptr %holders, i64 2
  store ptr %seeds, ptr %seeds_cell
  %wanted = TABLE ptr holders
  %wanted_cell = getelementptr i64, ptr %wanted, i64 1
  %inputs_wanted = load i64, ptr %wanted_cell
  %inputs_given = call i64 @PyTuple_Size(ptr %keywords)
  %beside = sub i64 %inputs_given, %inputs_wanted
  %one_more = icmp eq i64 %beside, 1
  br i1 %one_more, label %ask, label %call
ask:
  %out_name = PROCESS ptr out
  %out_at = call i64 @gradc.keyword(ptr %keywords, ptr %out_name, i64 %inputs_wanted)
  %named_so = icmp sge i64 %out_at, 0
  br i1 %named_so, label %room, label %call
room:
  %room_cell = getelementptr ptr, ptr %values, i64 %out_at
  %room_given = load ptr, ptr %room_cell
  br label %call
call:
  %out = phi ptr [ null, %run ], [ null, %ask ], [ %room_given, %room ]
  %has_out = icmp ne ptr %out, null
  %more = zext i1 %has_out to i64
  %finishes = icmp ne ptr %finish, null
  %brings_more = or i1 %finishes, %is_step
  %brings_loss = xor i1 %brings_more, true
  %loss_alone = and i1 %has_out, %brings_loss
  %stateless = xor i1 %is_step, true
  %lends = and i1 %has_out, %stateless
  %found = call ptr @gradc.named(ptr %table, ptr %holders, ptr %out, i64 %more, i1 %loss_alone,
    i1 %lends, ptr %keywords, ptr %values)
  call void @gradc.down(ptr %params)
  %failed = icmp eq ptr %found, null
  br i1 %failed, label %leave, label %answered
answered:
  %found_type_cell = getelementptr i8, ptr %found, i64 $type
  %found_type = load ptr, ptr %found_type_cell
  %ran = icmp eq ptr %found_type, %tuple_type
  br i1 %ran, label %done, label %other
other:
  %int = PROCESS ptr int
  %is_code = icmp eq ptr %found_type, %int
  br i1 %is_code, label %missed, label %filled
filled:
  %both = call ptr @PyTuple_New(i64 2)
  %no_both = icmp eq ptr %both, null
  br i1 %no_both, label %drop, label %join
join:
  call void @gradc.up(ptr %found)
  %set_first = call i32 @PyTuple_SetItem(ptr %both, i64 0, ptr %found)
  call void @gradc.up(ptr %out)
  %set_out = call i32 @PyTuple_SetItem(ptr %both, i64 1, ptr %out)
  br label %drop
missed:
  call void @gradc.down(ptr %found)
  br label %slowly
slowly:
  %told = call ptr @PyObject_Vectorcall(ptr %slow, ptr %args, i64 %n, ptr %keywords)
  br label %leave
done:
  br i1 %finishes, label %finished, label %loss
finished:
  %made = call ptr @PyObject_CallOneArg(ptr %finish, ptr %found)
  br label %drop
loss:
  %loss_array = call ptr @PyTuple_GetItem(ptr %found, i64 0)
  %loss_value = call ptr @gradc.scalar(ptr %loss_array)
  %no_number = icmp eq ptr %loss_value, null
  br i1 %no_number, label %drop, label %pair
pair:
  %answer = call ptr @PyTuple_New(i64 2)
  %no_answer = icmp eq ptr %answer, null
  br i1 %no_answer, label %spoilt, label %second
spoilt:
  call void @gradc.down(ptr %loss_value)
  br label %drop
second:
  %set_loss = call i32 @PyTuple_SetItem(ptr %answer, i64 0, ptr %loss_value)
  br i1 %is_step, label %metrics, label %cotangents
metrics:
  call void @gradc.up(ptr %head)
  %set_state = call i32 @PyTuple_SetItem(ptr %answer, i64 1, ptr %head)
  %outputs = call ptr @PyTuple_GetItem(ptr %found, i64 1)
  %metrics_name = PROCESS ptr metrics
  %kept = call i32 @PyObject_SetAttr(ptr %head, ptr %metrics_name, ptr %outputs)
  %refused = icmp ne i32 %kept, 0
  br i1 %refused, label %undone, label %drop
undone:
  call void @gradc.down(ptr %answer)
  br label %drop
cotangents:
  %cts = call ptr @PyTuple_GetItem(ptr %found, i64 2)
  call void @gradc.up(ptr %cts)
  %set_cts = call i32 @PyTuple_SetItem(ptr %answer, i64 1, ptr %cts)
  br label %drop
drop:
  %outcome = phi ptr [ %made, %finished ], [ %both, %filled ], [ %both, %join ], [ null, %loss ],
    [ null, %spoilt ], [ %answer, %metrics ], [ null, %undone ], [ %answer, %cotangents ]
  call void @gradc.down(ptr %found)
  br label %leave
leave:
  %result = phi ptr [ null, %arrays_of ], [ null, %call ], [ %told, %slowly ], [ %outcome, %drop ]
  call void @gradc.down(ptr %self)
  ret ptr %result
}
"""
