"""The fork-join thread pool, as LLVM IR text that needs nothing but libc.

``@gradc_parallel(fn, args, total, parts)`` runs ``fn(args, begin, end, worker)`` over contiguous
ranges of ``[0, total)``, two per part. ``worker`` is below ``parts`` and no two calls at a time
have the same: the caller is 0. How the range is cut depends on ``total`` and ``parts`` only, and
kernels give the same bits however they are cut, so it does not matter who runs what: ranges are
claimed one by one by whoever is free, the caller included. A worker that the system has put aside
therefore holds up nothing that it has not begun.

Invariants:
* One 64-bit word says which job is on: ticket (32 bits), number of ranges (16), next range (16). A
  range belongs to whoever increments the word; the caller returns when all are done, so a claimed
  range's job is always alive.
* A worker claims a range only if its number is below the job's parts. Both are read before the word
  is incremented, and a job's parts change only after its last range was claimed, so the increment
  fails if they were another job's.
* One caller at a time owns the pool (``@gradc_pool.lock``); another, or a nested one, runs its
  whole range itself.
* Workers spin about a millisecond, then sleep on a futex (the ticket). All signals are blocked in
  them.
* Workers run under the caller's MXCSR, so rounding and denormal modes do not depend on the thread.
* ``@gradc_pool_stop`` ends and joins the workers; ``@gradc_pool_forget`` is for the child after a
  fork, where they are gone. If a thread cannot be started the ranges are run by fewer.

Non-goals: nested parallelism, systems without futexes (there the caller runs everything).
"""

from __future__ import annotations

from string import Template

MAX_WORKERS = 63
STACK_BYTES = (
    1 << 20
)  # of a worker; kernels use a few kilobytes, other libraries' thread-local data lies there too
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
  call void %fn(ptr %args, i64 0, i64 %total, i64 0)
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

# A job: 0 fn, 8 args, 16 total, 24 parts, 32 mode.
_POOL = """
@gradc_pool.word = internal global i64 0, align 64
@gradc_pool.job = internal global [8 x i64] zeroinitializer, align 64
@gradc_pool.done = internal global i64 0, align 64
@gradc_pool.asleep = internal global i32 0, align 64
@gradc_pool.lock = internal global i32 0, align 64
@gradc_pool.quit = internal global i32 0, align 64
@gradc_pool.workers = internal global i64 0, align 64
@gradc_pool.threads = internal global [$most x i64] zeroinitializer, align 64

declare i32 @pthread_create(ptr, ptr, ptr, ptr)
declare i32 @pthread_join(i64, ptr)
declare i32 @pthread_sigmask(i32, ptr, ptr)
declare i32 @pthread_attr_init(ptr)
declare i32 @pthread_attr_setstacksize(ptr, i64)
declare i32 @pthread_attr_destroy(ptr)
declare i32 @sigfillset(ptr)
declare i32 @sched_yield()
declare i64 @syscall(i64, ...)
$pause_declare
$modes
define internal void @gradc_pool.help(i64 %worker) nounwind {
entry:
  %parts_cell = getelementptr i8, ptr @gradc_pool.job, i64 24
  br label %look
look:
  %word = load atomic i64, ptr @gradc_pool.word acquire, align 8
  %next = and i64 %word, 65535
  %shifted = lshr i64 %word, 16
  %count = and i64 %shifted, 65535
  %free = icmp ult i64 %next, %count
  br i1 %free, label %fit, label %out
fit:
  %parts = load atomic i64, ptr %parts_cell acquire, align 8
  %wanted = icmp ult i64 %worker, %parts
  br i1 %wanted, label %claim, label %out
claim:
  %bumped = add i64 %word, 1
  %took = cmpxchg ptr @gradc_pool.word, i64 %word, i64 %bumped acq_rel monotonic
  %mine = extractvalue { i64, i1 } %took, 1
  br i1 %mine, label %run, label %look
run:
  %fn = load ptr, ptr @gradc_pool.job
  %args_cell = getelementptr i8, ptr @gradc_pool.job, i64 8
  %args = load ptr, ptr %args_cell
  %total_cell = getelementptr i8, ptr @gradc_pool.job, i64 16
  %total = load i64, ptr %total_cell
  %mode_cell = getelementptr i8, ptr @gradc_pool.job, i64 32
  %mode = load i32, ptr %mode_cell
  call void @gradc_pool.set_mode(i32 %mode)
  %b0 = mul i64 %total, %next
  %begin = udiv i64 %b0, %count
  %after = add i64 %next, 1
  %e0 = mul i64 %total, %after
  %end = udiv i64 %e0, %count
  call void %fn(ptr %args, i64 %begin, i64 %end, i64 %worker)
  %ignored = atomicrmw add ptr @gradc_pool.done, i64 1 acq_rel
  br label %look
out:
  ret void
}

define internal ptr @gradc_pool.worker(ptr %number) nounwind {
entry:
  %index = ptrtoint ptr %number to i64
  %futex = getelementptr i8, ptr @gradc_pool.word, i64 4
  %parts_cell = getelementptr i8, ptr @gradc_pool.job, i64 24
  br label %wait
wait:
  %last = phi i32 [ 0, %entry ], [ %ticket, %helped ]
  br label %spin
spin:
  %spins = phi i32 [ 0, %wait ], [ %spins.next, %spun ], [ 0, %woken ]
  %word = load atomic i64, ptr @gradc_pool.word acquire, align 8
  %high = lshr i64 %word, 32
  %ticket = trunc i64 %high to i32
  %fresh = icmp ne i32 %ticket, %last
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
  %n0 = atomicrmw add ptr @gradc_pool.asleep, i32 1 seq_cst
  %r = call i64 (i64, ...) @syscall(i64 $futex, ptr %futex, i32 128, i32 %last, ptr null)
  %n1 = atomicrmw sub ptr @gradc_pool.asleep, i32 1 seq_cst
  br label %woken
woken:
  br label %spin
go:
  %quit = load atomic i32, ptr @gradc_pool.quit acquire, align 4
  %leaves = icmp ne i32 %quit, 0
  br i1 %leaves, label %leave, label %stay
stay:
  %parts = load atomic i64, ptr %parts_cell monotonic, align 8
  %needed = icmp ult i64 %index, %parts
  br i1 %needed, label %help, label %helped
help:
  call void @gradc_pool.help(i64 %index)
  br label %helped
helped:
  br label %wait
leave:
  ret ptr null
}

define internal void @gradc_pool.post(i64 %ranges) nounwind {
  %word = load atomic i64, ptr @gradc_pool.word monotonic, align 8
  %ticket = lshr i64 %word, 32
  %next = add i64 %ticket, 1
  %high = shl i64 %next, 32
  %low = shl i64 %ranges, 16
  %new = or i64 %high, %low
  store atomic i64 %new, ptr @gradc_pool.word seq_cst, align 8
  %asleep = load atomic i32, ptr @gradc_pool.asleep seq_cst, align 4
  %sleeping = icmp ne i32 %asleep, 0
  br i1 %sleeping, label %wake, label %out
wake:
  %futex = getelementptr i8, ptr @gradc_pool.word, i64 4
  %r = call i64 (i64, ...) @syscall(i64 $futex, ptr %futex, i32 129, i32 2147483647)
  br label %out
out:
  ret void
}

define internal void @gradc_pool.grow(i64 %wanted) nounwind {
entry:
  %everything = alloca [128 x i8], align 16
  %before = alloca [128 x i8], align 16
  %attributes = alloca [128 x i8], align 16
  %have = load i64, ptr @gradc_pool.workers
  %enough = icmp uge i64 %have, %wanted
  br i1 %enough, label %out, label %block
block:
  %f = call i32 @sigfillset(ptr %everything)
  %m = call i32 @pthread_sigmask(i32 2, ptr %everything, ptr %before)
  %a0 = call i32 @pthread_attr_init(ptr %attributes)
  %a1 = call i32 @pthread_attr_setstacksize(ptr %attributes, i64 $stack)
  br label %start
start:
  %i = phi i64 [ %have, %block ], [ %i.next, %started ]
  %thread = getelementptr i64, ptr @gradc_pool.threads, i64 %i
  %i.next = add i64 %i, 1
  %number = inttoptr i64 %i.next to ptr
  %r = call i32 @pthread_create(ptr %thread, ptr %attributes, ptr @gradc_pool.worker, ptr %number)
  %ok = icmp eq i32 %r, 0
  br i1 %ok, label %started, label %unblock
started:
  store i64 %i.next, ptr @gradc_pool.workers
  %more = icmp ult i64 %i.next, %wanted
  br i1 %more, label %start, label %unblock
unblock:
  %a2 = call i32 @pthread_attr_destroy(ptr %attributes)
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
  %p = select i1 %c1, i64 %p0, i64 $most
  %single = icmp ule i64 %p, 1
  br i1 %single, label %alone, label %take
take:
  %took = cmpxchg ptr @gradc_pool.lock, i32 0, i32 1 acquire monotonic
  %mine = extractvalue { i32, i1 } %took, 1
  br i1 %mine, label %owner, label %alone
alone:
  call void %fn(ptr %args, i64 0, i64 %total, i64 0)
  ret void
owner:
  %helpers = sub i64 %p, 1
  call void @gradc_pool.grow(i64 %helpers)
  store ptr %fn, ptr @gradc_pool.job
  %args_cell = getelementptr i8, ptr @gradc_pool.job, i64 8
  store ptr %args, ptr %args_cell
  %total_cell = getelementptr i8, ptr @gradc_pool.job, i64 16
  store i64 %total, ptr %total_cell
  %parts_cell = getelementptr i8, ptr @gradc_pool.job, i64 24
  store atomic i64 %p, ptr %parts_cell monotonic, align 8
  %mode = call i32 @gradc_pool.mode()
  %mode_cell = getelementptr i8, ptr @gradc_pool.job, i64 32
  store i32 %mode, ptr %mode_cell
  store atomic i64 0, ptr @gradc_pool.done monotonic, align 8
  %twice = shl i64 %p, 1
  %c2 = icmp ult i64 %twice, %total
  %ranges = select i1 %c2, i64 %twice, i64 %total
  call void @gradc_pool.post(i64 %ranges)
  call void @gradc_pool.help(i64 0)
  br label %poll
poll:
  %n = phi i32 [ 0, %owner ], [ %n.next, %polled ]
  %d = load atomic i64, ptr @gradc_pool.done acquire, align 8
  %ready = icmp eq i64 %d, %ranges
  br i1 %ready, label %free, label %unready
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
  store atomic i32 1, ptr @gradc_pool.quit release, align 4
  call void @gradc_pool.post(i64 0)
  %n = load i64, ptr @gradc_pool.workers
  %none = icmp eq i64 %n, 0
  br i1 %none, label %out, label %each
each:
  %i = phi i64 [ 0, %owner ], [ %i.next, %each ]
  %thread_cell = getelementptr i64, ptr @gradc_pool.threads, i64 %i
  %thread = load i64, ptr %thread_cell
  %r = call i32 @pthread_join(i64 %thread, ptr null)
  %i.next = add i64 %i, 1
  %more = icmp ult i64 %i.next, %n
  br i1 %more, label %each, label %out
out:
  store i64 0, ptr @gradc_pool.workers
  store atomic i32 0, ptr @gradc_pool.quit release, align 4
  store atomic i32 0, ptr @gradc_pool.lock release, align 4
  ret void
}

define $linkage void @gradc_pool_forget() nounwind {
  store i64 0, ptr @gradc_pool.workers
  store atomic i32 0, ptr @gradc_pool.asleep monotonic, align 4
  store atomic i32 0, ptr @gradc_pool.quit monotonic, align 4
  store atomic i32 0, ptr @gradc_pool.lock release, align 4
  ret void
}

define $linkage i64 @gradc_pool_workers() nounwind {
  %n = load i64, ptr @gradc_pool.workers
  ret i64 %n
}
"""


def has_workers(architecture: str, linux: bool) -> bool:
    """Whether the pool of this target has threads; elsewhere the caller runs everything."""
    return linux and architecture in _FUTEX_CALL


def pool_text(architecture: str, linux: bool, *, linkage: str = "") -> str:
    """The pool's IR for one target: exported for the process-wide library, or ``weak hidden`` in an
    artifact.
    """
    if not has_workers(architecture, linux):
        return Template(_SERIAL).substitute(linkage=linkage)
    return Template(_POOL).substitute(
        linkage=linkage,
        most=MAX_WORKERS + 1,
        stack=STACK_BYTES,
        spins=_SPINS,
        futex=_FUTEX_CALL[architecture],
        pause=_PAUSE[architecture],
        pause_declare=_PAUSE_DECLARE[architecture],
        modes=_MXCSR if architecture == "x86_64" else _NO_MXCSR,
    )
