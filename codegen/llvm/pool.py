"""The fork-join thread pool, as LLVM IR text that needs nothing but libc.

``@gradc_parallel(fn, args, total, parts)`` runs ``fn(args, begin, end)`` over ``parts`` contiguous ranges of
``[0, total)``: the caller takes the first, workers 1.. the others. How the range is cut depends on ``total`` and
``parts`` only, and kernels give the same bits however they are cut.

Invariants:
* Every worker has its own mailbox (two cache lines). The caller writes job then ``ticket``; the worker writes ``done``.
* One caller at a time owns the pool (``@gradc_pool.lock``); another, or a nested one, runs its whole range itself.
* Workers spin about a millisecond, then sleep on a futex. All signals are blocked in them.
* Workers run under the caller's MXCSR, so rounding and denormal modes do not depend on the thread.
* ``@gradc_pool_stop`` ends and joins the workers; ``@gradc_pool_forget`` is for the child after a fork, where they
  are gone. If a thread cannot be started the ranges are run by fewer.

Non-goals: nested parallelism, work stealing, systems without futexes (there ``parts`` is always 1).
"""

from __future__ import annotations

from string import Template

MAX_WORKERS = 63
_SPINS = 12000  # of a pause each: near a millisecond

_FUTEX_CALL = {"x86_64": 202, "aarch64": 98, "riscv64": 98}
_PAUSE = {
    "x86_64": "call void @llvm.x86.sse2.pause()",
    "aarch64": "call void @llvm.aarch64.hint(i32 1)",
    "riscv64": "fence release",
}
_PAUSE_DECLARE = {
    "x86_64": "declare void @llvm.x86.sse2.pause()",
    "aarch64": "declare void @llvm.aarch64.hint(i32)",
    "riscv64": "",
}

_SERIAL = """
define $linkage void @gradc_parallel(ptr %fn, ptr %args, i64 %total, i64 %parts) nounwind {
  call void %fn(ptr %args, i64 0, i64 %total)
  ret void
}
"""

_MXCSR = """
declare void @llvm.x86.sse.stmxcsr(ptr)
declare void @llvm.x86.sse.ldmxcsr(ptr)
define internal i32 @gradc_pool.mode() nounwind {
  %cell = alloca i32
  call void @llvm.x86.sse.stmxcsr(ptr %cell)
  %mode = load i32, ptr %cell
  ret i32 %mode
}
define internal void @gradc_pool.set_mode(i32 %mode) nounwind {
  %cell = alloca i32
  store i32 %mode, ptr %cell
  call void @llvm.x86.sse.ldmxcsr(ptr %cell)
  ret void
}
"""

_NO_MXCSR = """
define internal i32 @gradc_pool.mode() nounwind { ret i32 0 }
define internal void @gradc_pool.set_mode(i32 %mode) nounwind { ret void }
"""

# A mailbox: 0 ticket, 4 asleep, 8 fn, 16 args, 24 begin, 32 end, 40 mode, 48 thread; 64 done (its own line).
_POOL = """
%gradc_box = type { i32, i32, ptr, ptr, i64, i64, i32, i32, i64, i64, i32, [60 x i8] }
@gradc_pool.boxes = internal global [$slots x %gradc_box] zeroinitializer, align 64
@gradc_pool.lock = internal global i32 0, align 64
@gradc_pool.workers = internal global i64 0, align 64

declare i32 @pthread_create(ptr, ptr, ptr, ptr)
declare i32 @pthread_join(i64, ptr)
declare i32 @pthread_sigmask(i32, ptr, ptr)
declare i32 @sigfillset(ptr)
declare i32 @sched_yield()
declare i64 @syscall(i64, ...)
$pause_declare
$modes
define internal ptr @gradc_pool.worker(ptr %box) nounwind {
entry:
  %asleep = getelementptr i8, ptr %box, i64 4
  %fn_cell = getelementptr i8, ptr %box, i64 8
  %args_cell = getelementptr i8, ptr %box, i64 16
  %begin_cell = getelementptr i8, ptr %box, i64 24
  %end_cell = getelementptr i8, ptr %box, i64 32
  %mode_cell = getelementptr i8, ptr %box, i64 40
  %done = getelementptr i8, ptr %box, i64 64
  br label %wait
wait:
  %last = phi i32 [ 0, %entry ], [ %now, %finish ]
  br label %spin
spin:
  %spins = phi i32 [ 0, %wait ], [ %spins.next, %spun ], [ 0, %woken ]
  %now = load atomic i32, ptr %box acquire, align 4
  %fresh = icmp ne i32 %now, %last
  br i1 %fresh, label %go, label %idle
idle:
  $pause
  %spins.next = add i32 %spins, 1
  %low = and i32 %spins.next, 127
  %yields = icmp eq i32 %low, 0
  br i1 %yields, label %yield, label %spun
yield:
  %ignored = call i32 @sched_yield()
  br label %spun
spun:
  %tired = icmp uge i32 %spins.next, $spins
  br i1 %tired, label %doze, label %spin
doze:
  store atomic i32 1, ptr %asleep seq_cst, align 4
  %again = load atomic i32, ptr %box seq_cst, align 4
  %same = icmp eq i32 %again, %last
  br i1 %same, label %sleep, label %woken
sleep:
  %r = call i64 (i64, ...) @syscall(i64 $futex, ptr %box, i32 128, i32 %last, ptr null)
  br label %woken
woken:
  store atomic i32 0, ptr %asleep seq_cst, align 4
  br label %spin
go:
  %fn = load ptr, ptr %fn_cell
  %quit = icmp eq ptr %fn, null
  br i1 %quit, label %leave, label %run
run:
  %args = load ptr, ptr %args_cell
  %begin = load i64, ptr %begin_cell
  %end = load i64, ptr %end_cell
  %mode = load i32, ptr %mode_cell
  call void @gradc_pool.set_mode(i32 %mode)
  call void %fn(ptr %args, i64 %begin, i64 %end)
  br label %finish
finish:
  store atomic i32 %now, ptr %done release, align 4
  br label %wait
leave:
  ret ptr null
}

define internal void @gradc_pool.post(ptr %box) nounwind {
  %ticket = load i32, ptr %box
  %next = add i32 %ticket, 1
  store atomic i32 %next, ptr %box seq_cst, align 4
  %asleep = getelementptr i8, ptr %box, i64 4
  %s = load atomic i32, ptr %asleep seq_cst, align 4
  %sleeping = icmp ne i32 %s, 0
  br i1 %sleeping, label %wake, label %out
wake:
  %r = call i64 (i64, ...) @syscall(i64 $futex, ptr %box, i32 129, i32 1)
  br label %out
out:
  ret void
}

define internal void @gradc_pool.grow(i64 %wanted) nounwind {
entry:
  %everything = alloca [128 x i8], align 16
  %before = alloca [128 x i8], align 16
  %have = load i64, ptr @gradc_pool.workers
  %enough = icmp uge i64 %have, %wanted
  br i1 %enough, label %out, label %block
block:
  %f = call i32 @sigfillset(ptr %everything)
  %m = call i32 @pthread_sigmask(i32 2, ptr %everything, ptr %before)
  br label %start
start:
  %i = phi i64 [ %have, %block ], [ %i.next, %started ]
  %box = getelementptr %gradc_box, ptr @gradc_pool.boxes, i64 %i
  store atomic i32 0, ptr %box monotonic, align 4
  %done = getelementptr i8, ptr %box, i64 64
  store atomic i32 0, ptr %done monotonic, align 4
  %thread = getelementptr i8, ptr %box, i64 48
  %r = call i32 @pthread_create(ptr %thread, ptr null, ptr @gradc_pool.worker, ptr %box)
  %ok = icmp eq i32 %r, 0
  br i1 %ok, label %started, label %unblock
started:
  %i.next = add i64 %i, 1
  store i64 %i.next, ptr @gradc_pool.workers
  %more = icmp ult i64 %i.next, %wanted
  br i1 %more, label %start, label %unblock
unblock:
  %u = call i32 @pthread_sigmask(i32 2, ptr %before, ptr null)
  br label %out
out:
  ret void
}

define $linkage void @gradc_parallel(ptr %fn, ptr %args, i64 %total, i64 %parts) nounwind {
entry:
  %c0 = icmp ult i64 %parts, %total
  %p0 = select i1 %c0, i64 %parts, i64 %total
  %c1 = icmp ult i64 %p0, $most
  %p1 = select i1 %c1, i64 %p0, i64 $most
  %single = icmp ule i64 %p1, 1
  br i1 %single, label %alone, label %take
take:
  %took = cmpxchg ptr @gradc_pool.lock, i32 0, i32 1 acquire monotonic
  %mine = extractvalue { i32, i1 } %took, 1
  br i1 %mine, label %owner, label %alone
alone:
  call void %fn(ptr %args, i64 0, i64 %total)
  ret void
owner:
  %helpers = sub i64 %p1, 1
  call void @gradc_pool.grow(i64 %helpers)
  %have = load i64, ptr @gradc_pool.workers
  %c2 = icmp ult i64 %helpers, %have
  %h = select i1 %c2, i64 %helpers, i64 %have
  %p = add i64 %h, 1
  %mode = call i32 @gradc_pool.mode()
  %none = icmp eq i64 %h, 0
  br i1 %none, label %own, label %send
send:
  %i = phi i64 [ 1, %owner ], [ %i.next, %send ]
  %slot = sub i64 %i, 1
  %box = getelementptr %gradc_box, ptr @gradc_pool.boxes, i64 %slot
  %i.next = add i64 %i, 1
  %b0 = mul i64 %total, %i
  %b = udiv i64 %b0, %p
  %e0 = mul i64 %total, %i.next
  %e = udiv i64 %e0, %p
  %fn_cell = getelementptr i8, ptr %box, i64 8
  store ptr %fn, ptr %fn_cell
  %args_cell = getelementptr i8, ptr %box, i64 16
  store ptr %args, ptr %args_cell
  %begin_cell = getelementptr i8, ptr %box, i64 24
  store i64 %b, ptr %begin_cell
  %end_cell = getelementptr i8, ptr %box, i64 32
  store i64 %e, ptr %end_cell
  %mode_cell = getelementptr i8, ptr %box, i64 40
  store i32 %mode, ptr %mode_cell
  call void @gradc_pool.post(ptr %box)
  %more = icmp ult i64 %i.next, %p
  br i1 %more, label %send, label %own
own:
  %e1 = udiv i64 %total, %p
  call void %fn(ptr %args, i64 0, i64 %e1)
  br i1 %none, label %free, label %join
join:
  %k = phi i64 [ 0, %own ], [ %k.next, %joined ]
  %kbox = getelementptr %gradc_box, ptr @gradc_pool.boxes, i64 %k
  %kticket = load i32, ptr %kbox
  %kdone = getelementptr i8, ptr %kbox, i64 64
  br label %poll
poll:
  %n = phi i32 [ 0, %join ], [ %n.next, %polled ]
  %d = load atomic i32, ptr %kdone acquire, align 4
  %ready = icmp eq i32 %d, %kticket
  br i1 %ready, label %joined, label %unready
unready:
  $pause
  %n.next = add i32 %n, 1
  %nlow = and i32 %n.next, 255
  %nyield = icmp eq i32 %nlow, 0
  br i1 %nyield, label %give, label %polled
give:
  %g = call i32 @sched_yield()
  br label %polled
polled:
  br label %poll
joined:
  %k.next = add i64 %k, 1
  %left = icmp ult i64 %k.next, %h
  br i1 %left, label %join, label %free
free:
  store atomic i32 0, ptr @gradc_pool.lock release, align 4
  ret void
}

define $linkage void @gradc_pool_stop() nounwind {
entry:
  %took = cmpxchg ptr @gradc_pool.lock, i32 0, i32 1 acquire monotonic
  %mine = extractvalue { i32, i1 } %took, 1
  br i1 %mine, label %owner, label %busy
busy:
  ret void
owner:
  %n = load i64, ptr @gradc_pool.workers
  %none = icmp eq i64 %n, 0
  br i1 %none, label %out, label %each
each:
  %i = phi i64 [ 0, %owner ], [ %i.next, %each ]
  %box = getelementptr %gradc_box, ptr @gradc_pool.boxes, i64 %i
  %fn_cell = getelementptr i8, ptr %box, i64 8
  store ptr null, ptr %fn_cell
  call void @gradc_pool.post(ptr %box)
  %thread_cell = getelementptr i8, ptr %box, i64 48
  %thread = load i64, ptr %thread_cell
  %r = call i32 @pthread_join(i64 %thread, ptr null)
  %i.next = add i64 %i, 1
  %more = icmp ult i64 %i.next, %n
  br i1 %more, label %each, label %out
out:
  store i64 0, ptr @gradc_pool.workers
  store atomic i32 0, ptr @gradc_pool.lock release, align 4
  ret void
}

define $linkage void @gradc_pool_forget() nounwind {
  store i64 0, ptr @gradc_pool.workers
  store atomic i32 0, ptr @gradc_pool.lock release, align 4
  ret void
}

define $linkage i64 @gradc_pool_workers() nounwind {
  %n = load i64, ptr @gradc_pool.workers
  ret i64 %n
}
"""


def pool_text(architecture: str, linux: bool, *, linkage: str = "") -> str:
    """The pool's IR for one target: exported for the process-wide library, or ``weak hidden`` in an artifact."""
    if not linux or architecture not in _FUTEX_CALL:
        return Template(_SERIAL).substitute(linkage=linkage)
    return Template(_POOL).substitute(
        linkage=linkage,
        slots=MAX_WORKERS,
        most=MAX_WORKERS + 1,
        spins=_SPINS,
        futex=_FUTEX_CALL[architecture],
        pause=_PAUSE[architecture],
        pause_declare=_PAUSE_DECLARE[architecture],
        modes=_MXCSR if architecture == "x86_64" else _NO_MXCSR,
    )
