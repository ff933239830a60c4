"""The entry run again and again in one call, as LLVM IR, and how a run says that it was refused.

``gradc_many(table, pointers, strides, arena, threads, count)`` runs the entry ``count`` times, each
pointer moved on by its bytes in between, and returns how often: a step that is refused is the last.

Non-goals: what Python hands in (``wrapper``).
"""

from __future__ import annotations

TEXT = """
; Whether a run on these arrays was refused; the port that says so is number %stop, -1 for none.
define internal i1 @gradc.stops(ptr %pointers, i64 %stop) #0 {
entry:
  %never = icmp slt i64 %stop, 0
  br i1 %never, label %no, label %ask
ask:
  %cell = getelementptr ptr, ptr %pointers, i64 %stop
  %at = load ptr, ptr %cell
  %byte = load i8, ptr %at
  %stops = icmp ne i8 %byte, 0
  ret i1 %stops
no:
  ret i1 false
}

define i64 @gradc_many(ptr %table, ptr %pointers, ptr %strides, ptr %arena, i64 %threads,
    i64 %count) #0 {
entry:
  %entry_point = TABLE ptr entry
  %stop = TABLE i64 stop
  %ports = TABLE i64 count
  %nothing = icmp eq i64 %count, 0
  br i1 %nothing, label %done, label %run
run:
  %n = phi i64 [ 0, %entry ], [ %n.next, %moved ]
  %status = call i32 %entry_point(ptr %pointers, ptr %arena, i64 %threads)
  %n.next = add i64 %n, 1
  %stops = call i1 @gradc.stops(ptr %pointers, i64 %stop)
  br i1 %stops, label %done, label %move
move:
  %i = phi i64 [ 0, %run ], [ %i.next, %move ]
  %cell = getelementptr ptr, ptr %pointers, i64 %i
  %pointer = load ptr, ptr %cell
  %stride_cell = getelementptr i64, ptr %strides, i64 %i
  %stride = load i64, ptr %stride_cell
  %next = getelementptr i8, ptr %pointer, i64 %stride
  store ptr %next, ptr %cell
  %i.next = add i64 %i, 1
  %more_ports = icmp ult i64 %i.next, %ports
  br i1 %more_ports, label %move, label %moved
moved:
  %more = icmp ult i64 %n.next, %count
  br i1 %more, label %run, label %done
done:
  %ran = phi i64 [ 0, %entry ], [ %n.next, %run ], [ %n.next, %moved ]
  ret i64 %ran
}
"""
