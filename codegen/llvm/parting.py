"""The walk of a program that has steps which threads run abreast (``abreast``): each part of the
threads' rows is a walk of its own over the same records, with its own counters.

``@gradc.share`` gives the parts to the pool, one range each; ``@gradc.part`` walks for one. In that
walk ``threads`` is 0, and every launch gets the rows ``[low, high)`` and the number of the worker.
Where a call has one thread, such steps are walked like others. In a timed program each part adds
its share to the figures of a launch, so that they are those of the average thread.

Programs without such steps contain none of this. Non-goals: which steps they are.
"""

from __future__ import annotations

from collections.abc import Mapping

WORDS = 5  # before the steps

# What a part is told, in the order of the words that say it.
_JOB = (
    *(("ptr", name) for name in ("code", "stop", "bases", "counters", "args")),
    *(("i64", name) for name in ("depth", "rows", "each", "parts")),
)
_GIVEN = ", ".join(f"{kind} %{name}" for kind, name in _JOB)


def _words(line: str) -> str:
    """``line`` for every word of a job, after the address of that word."""
    return "\n".join(
        f"  %cell{n} = getelementptr i64, ptr %job, i64 {n}\n"
        f"  {line.format(kind=kind, name=name, n=n)}"
        for n, (kind, name) in enumerate(_JOB)
    )


_FUNCTIONS = f"""
define internal void @gradc.share({_GIVEN}) #0 {{
  %job = alloca [{len(_JOB)} x i64], align 16
{_words("store {kind} %{name}, ptr %cell{n}")}
  call void @gradc_parallel(ptr @gradc.part, ptr %job, i64 %parts, i64 %parts)
  ret void
}}

define internal void @gradc.part(ptr %job, i64 %begin, i64 %end, i64 %worker) #0 {{
entry:
{_words("%{name} = load {kind}, ptr %cell{n}")}
  %head = alloca ptr, i64 $room, align 16
  %own_args = getelementptr ptr, ptr %head, i64 $before
  %own_counters = alloca i64, i64 $depth, align 16
  %bytes = mul i64 %depth, 8
  call void @llvm.memcpy.p0.p0.i64(ptr %own_counters, ptr %counters, i64 %bytes, i1 false)
  %more = sub i64 %each, 1
  %up = add i64 %rows, %more
  %pieces = udiv i64 %up, %each
  br label %part
part:
  %p = phi i64 [ %begin, %entry ], [ %next, %part ]
  %next = add i64 %p, 1
  %m0 = mul i64 %pieces, %p
  %first = udiv i64 %m0, %parts
  %low = mul i64 %first, %each
  %m1 = mul i64 %pieces, %next
  %last = udiv i64 %m1, %parts
  %edge = mul i64 %last, %each
  %inside = icmp ult i64 %edge, %rows
  %high = select i1 %inside, i64 %edge, i64 %rows
  ${{keep}}call void @gradc.walk(ptr %code, ptr %stop, ptr %bases, ptr %own_counters, i64 %depth,
    ptr %own_args, i64 0, i64 %low, i64 %high, i64 %worker)
  %again = icmp ult i64 %next, %end
  br i1 %again, label %part, label %out
out:
  ret void
}}
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
"""

_PART = """part:
  %minus = add i64 %op, 1
  %counted = icmp eq i64 %minus, 0
  br i1 %counted, label %repeat, label %abreast
abreast:
  %most = load i64, ptr %rest
  %inner = getelementptr i64, ptr %rest, i64 1
  %inner_end = getelementptr i64, ptr %inner, i64 %w1
  %scarce = icmp ult i64 %threads, %most
  %some = select i1 %scarce, i64 %threads, i64 %most
  %one = icmp ule i64 %some, 1
  br i1 %one, label %in_order, label %share
in_order:
  call void @gradc.walk(ptr %inner, ptr %inner_end, ptr %bases, ptr %counters,
    i64 %depth, ptr %args, i64 %threads, i64 0, i64 0, i64 0)
  br label %advance
share:
  call void @gradc.share(ptr %inner, ptr %inner_end, ptr %bases, ptr %counters,
    ptr %args, i64 %depth, i64 %w2, i64 %w3, i64 %some)
  br label %advance
"""

_RANGE = """%mine = icmp eq i64 %threads, 0
  %from = select i1 %mine, i64 %low, i64 0
  %to = select i1 %mine, i64 %high, i64 %w2
  """

_NONE = {
    "mine": "",
    "again": "repeat",
    "range": "",
    "whole": "i64 0, i64 %w2, i64 0",
    "part": "",
    "parted": "",
    "none": "",
    "functions": "",
}
_SOME = {
    "mine": ", i64 %low, i64 %high, i64 %worker",
    "again": "part",
    "range": _RANGE,
    "whole": "i64 %from, i64 %to, i64 %worker",
    "part": _PART,
    "parted": ",\n    [ %inner_end, %in_order ], [ %inner_end, %share ]",
    "none": ", i64 0, i64 0, i64 0",
    "functions": _FUNCTIONS,
}


def texts(is_parted: bool) -> Mapping[str, str]:
    """What completes the walk of a program with or without steps that are run abreast."""
    return _SOME if is_parted else _NONE
