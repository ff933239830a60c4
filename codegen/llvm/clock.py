"""What a driver that keeps time has besides: the clock, and the log that it writes.

A timed program is the same kernels, launched by the same walk, that reads a clock before and after
every launch and around every worker's part of one. It is made only for profiling; programs that are
not timed contain none of this. The log belongs to the caller and is words (i64) that are added to:

    words 0 to HEAD - 1: a cache line per worker, its busy time during the launch that runs; in the
        first line also TOTAL, the time of the whole call
    then FIELDS words at the offset that a launch's record has in the records: time from before to
        after the launch, how often it ran, the time its workers were busy together, and that of
        the busiest

Times are ticks of ``@gradc.now``: the processor's own counter on x86-64, which is read in a few
nanoseconds, nanoseconds of the system's clock elsewhere. ``@NAME_ticks`` reads it for a caller who
wants to know how long a tick is.

Non-goals: what the figures mean (``runtime.reports.profile``).
"""

from __future__ import annotations

WORKERS = 64  # lines; as many as may run a launch together
_LINE = 8  # words
HEAD = WORKERS * _LINE
TOTAL = 1
FIELDS = ("time", "runs", "busy", "busiest")

# Words before the arguments of a launch: which of how many parts of rows it is for (``parting``),
# the log, and the launch's own function.
BEFORE = 4

_X86 = """
declare i64 @llvm.readcyclecounter()
define internal i64 @gradc.now() #0 {
  %t = call i64 @llvm.readcyclecounter()
  ret i64 %t
}
"""
_OTHER = """
declare i32 @clock_gettime(i32, ptr)
define internal i64 @gradc.now() #0 {
  %cell = alloca [2 x i64], align 16
  %r = call i32 @clock_gettime(i32 1, ptr %cell)
  %s = load i64, ptr %cell
  %n_cell = getelementptr i64, ptr %cell, i64 1
  %n = load i64, ptr %n_cell
  %whole = mul i64 %s, 1000000000
  %t = add i64 %whole, %n
  ret i64 %t
}
"""

_LOG = f"""
define internal void @gradc.worker(ptr %args, i64 %begin, i64 %end, i64 %worker) #0 {{
  %log = call ptr @gradc.log_of(ptr %args)
  %fn_cell = getelementptr ptr, ptr %args, i64 -1
  %fn = load ptr, ptr %fn_cell
  %t0 = call i64 @gradc.now()
  call void %fn(ptr %args, i64 %begin, i64 %end, i64 %worker)
  %t1 = call i64 @gradc.now()
  %took = sub i64 %t1, %t0
  %word = mul i64 %worker, {_LINE}
  call void @gradc.add(ptr %log, i64 %word, i64 %took)
  ret void
}}

define internal void @gradc.add(ptr %base, i64 %word, i64 %more) #0 {{
  %cell = getelementptr i64, ptr %base, i64 %word
  %before = load i64, ptr %cell
  %after = add i64 %before, %more
  store i64 %after, ptr %cell
  ret void
}}

define internal ptr @gradc.log_of(ptr %args) #0 {{
  %cell = getelementptr ptr, ptr %args, i64 -2
  %log = load ptr, ptr %cell
  ret ptr %log
}}

define internal ptr @gradc.row(ptr %at, ptr %log) #0 {{
  %here = ptrtoint ptr %at to i64
  %start = ptrtoint ptr @gradc.records to i64
  %offset = sub i64 %here, %start
  %first = getelementptr i64, ptr %log, i64 {HEAD}
  %row = getelementptr i8, ptr %first, i64 %offset
  ret ptr %row
}}

define internal void @gradc.log(ptr %at, ptr %args, i64 %t0, i64 %parts) #0 {{
entry:
  %t1 = call i64 @gradc.now()
  %took = sub i64 %t1, %t0
  %log = call ptr @gradc.log_of(ptr %args)
  %row = call ptr @gradc.row(ptr %at, ptr %log)
  call void @gradc.add(ptr %row, i64 0, i64 %took)
  call void @gradc.add(ptr %row, i64 1, i64 1)
  %serial = icmp ule i64 %parts, 1
  br i1 %serial, label %out, label %each
each:
  %w = phi i64 [ 0, %entry ], [ %w.next, %each ]
  %sum = phi i64 [ 0, %entry ], [ %sum.next, %each ]
  %most = phi i64 [ 0, %entry ], [ %most.next, %each ]
  %word = mul i64 %w, {_LINE}
  %cell = getelementptr i64, ptr %log, i64 %word
  %busy = load i64, ptr %cell
  store i64 0, ptr %cell
  %sum.next = add i64 %sum, %busy
  %larger = icmp ugt i64 %busy, %most
  %most.next = select i1 %larger, i64 %busy, i64 %most
  %w.next = add i64 %w, 1
  %more = icmp ult i64 %w.next, {WORKERS}
  br i1 %more, label %each, label %out
out:
  %all = phi i64 [ %took, %entry ], [ %sum.next, %each ]
  %top = phi i64 [ %took, %entry ], [ %most.next, %each ]
  call void @gradc.add(ptr %row, i64 2, i64 %all)
  call void @gradc.add(ptr %row, i64 3, i64 %top)
  ret void
}}

define internal void @gradc.log_part(ptr %at, ptr %args, i64 %t0, i64 %none) #0 {{
  %t1 = call i64 @gradc.now()
  %took = sub i64 %t1, %t0
  %log = call ptr @gradc.log_of(ptr %args)
  %row = call ptr @gradc.row(ptr %at, ptr %log)
  %parts_cell = getelementptr i64, ptr %args, i64 -3
  %parts = load i64, ptr %parts_cell
  %part_cell = getelementptr i64, ptr %args, i64 -4
  %part = load i64, ptr %part_cell
  %is_first = icmp eq i64 %part, 0
  %one = zext i1 %is_first to i64
  %more = sub i64 %parts, 1
  %up = add i64 %took, %more
  %share = udiv i64 %up, %parts
  %o0 = atomicrmw add ptr %row, i64 %share monotonic
  %runs = getelementptr i64, ptr %row, i64 1
  %o1 = atomicrmw add ptr %runs, i64 %one monotonic
  %busy = getelementptr i64, ptr %row, i64 2
  %o2 = atomicrmw add ptr %busy, i64 %took monotonic
  %busiest = getelementptr i64, ptr %row, i64 3
  %o3 = atomicrmw add ptr %busiest, i64 %share monotonic
  ret void
}}

define i64 @$name_ticks() #0 {{
  %t = call i64 @gradc.now()
  ret i64 %t
}}
"""

# What the walk and the entry of ``driver`` are completed with.
PLAIN = {
    "start": "",
    "then": "advance",
    "run": "%fn",
    "stop": "",
    "came": "[ %after, %alone ], [ %after, %together ]",
    "given": "",
    "begin": "%args = alloca ptr, i64 {args}, align 16",
    "keep": "",
    "finish": "",
}
TIMED = {
    "start": """%own_cell = getelementptr ptr, ptr %args, i64 -1
  store ptr %fn, ptr %own_cell
  %t0 = call i64 @gradc.now()
  """,
    "then": "timed",
    "run": "@gradc.worker",
    "stop": """timed:
  call void @gradc.log(ptr %at, ptr %args, i64 %t0, i64 %parts)
  br label %advance
""",
    "came": "[ %after, %timed ]",
    "given": ", ptr %log",
    "begin": f"""%head = alloca ptr, i64 {{args}}, align 16
  %args = getelementptr ptr, ptr %head, i64 {BEFORE}
  %log_cell = getelementptr ptr, ptr %args, i64 -2
  store ptr %log, ptr %log_cell
  %began = call i64 @gradc.now()""",
    "keep": """%log = call ptr @gradc.log_of(ptr %args)
  %log_cell = getelementptr ptr, ptr %own_args, i64 -2
  store ptr %log, ptr %log_cell
  %parts_cell = getelementptr i64, ptr %own_args, i64 -3
  store i64 %parts, ptr %parts_cell
  %part_cell = getelementptr i64, ptr %own_args, i64 -4
  store i64 %p, ptr %part_cell
  """,
    "finish": f"""%ended = call i64 @gradc.now()
  %all = sub i64 %ended, %began
  call void @gradc.add(ptr %log, i64 {TOTAL}, i64 %all)
  """,
}


# The end of a launch in a program where some are for a part of the rows.
_EITHER = """%logger = select i1 %mine, ptr @gradc.log_part, ptr @gradc.log
  call void %logger"""


def texts(most_arguments: int, is_timed: bool, is_parted: bool) -> dict[str, str]:
    """The pieces that complete the walk and the entry of a program, timed or not; ``is_parted`` if
    threads run some of its steps abreast (``parting``).
    """
    chosen = TIMED if is_timed else PLAIN
    room = most_arguments + (BEFORE if is_timed else 0)
    begin, stop = chosen["begin"].format(args=room), chosen["stop"]
    if is_parted:
        stop = stop.replace("call void @gradc.log", _EITHER)
    return {**chosen, "begin": begin, "stop": stop, "room": str(room)}


def definitions(name: str, architecture: str) -> str:
    """The functions that a timed program called ``name`` has besides."""
    now = _X86 if architecture == "x86_64" else _OTHER
    return now + _LOG.replace("$name", name)
