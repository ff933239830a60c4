"""The entry run again and again in one call, as LLVM IR, and how a run says that it was refused.

Non-goals: what Python hands in (``wrapper``).
"""

from __future__ import annotations

from collections.abc import Sequence
from string import Template

from gradc.codegen.backend import stop_port
from gradc.ir.plan.plan import Port


def stops_text(ports: Sequence[Port]) -> tuple[str, str]:
    """Instructions after a run, whose arrays are those of ``%pointers``, and the value that says
    whether its step was refused.
    """
    stop = stop_port(ports)
    return ("", "false") if stop is None else (Template(_STOPS).substitute(stop=stop), "%stops")


def many_text(name: str, ports: Sequence[Port]) -> str:
    """``NAME_many`` (``wrapper``)."""
    stops, is_stopped = stops_text(ports)
    return Template(_MANY).substitute(
        name=name, ports=len(ports), stops=stops, is_stopped=is_stopped
    )


_STOPS = """%stop_cell = getelementptr ptr, ptr %pointers, i64 $stop
  %stop_at = load ptr, ptr %stop_cell
  %stop_byte = load i8, ptr %stop_at
  %stops = icmp ne i8 %stop_byte, 0"""

_MANY = """
define i64 @${name}_many(ptr %pointers, ptr %strides, ptr %arena, i64 %threads, i64 %count) #0 {
entry:
  %nothing = icmp eq i64 %count, 0
  br i1 %nothing, label %done, label %run
run:
  %n = phi i64 [ 0, %entry ], [ %n.next, %moved ]
  %status = call i32 @${name}(ptr %pointers, ptr %arena, i64 %threads)
  %n.next = add i64 %n, 1
  $stops
  br i1 $is_stopped, label %done, label %move
move:
  %i = phi i64 [ 0, %run ], [ %i.next, %move ]
  %cell = getelementptr ptr, ptr %pointers, i64 %i
  %pointer = load ptr, ptr %cell
  %stride_cell = getelementptr i64, ptr %strides, i64 %i
  %stride = load i64, ptr %stride_cell
  %next = getelementptr i8, ptr %pointer, i64 %stride
  store ptr %next, ptr %cell
  %i.next = add i64 %i, 1
  %more_ports = icmp ult i64 %i.next, $ports
  br i1 %more_ports, label %move, label %moved
moved:
  %more = icmp ult i64 %n.next, %count
  br i1 %more, label %run, label %done
done:
  %ran = phi i64 [ 0, %entry ], [ %n.next, %run ], [ %n.next, %moved ]
  ret i64 %ran
}
"""
