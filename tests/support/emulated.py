"""Instructions that this machine need not have, as functions of a module, so that code made of them
runs anywhere: dot products of bf16 pairs and the matrix unit.

``isa(...)`` is the host with these facts, ``emulated(text)`` a module whose calls of the
instructions are calls of functions with Intel's meaning of them (Architecture Instruction Set
Extensions Programming Reference, ch. 3; VDPBF16PS: Software Developer's Manual, vol. 2). The unit
must have been told how large tiles are before it is used; what goes wrong traps.
"""

from __future__ import annotations

from dataclasses import replace

from gradc.codegen.llvm.isa import Isa, host

_DOT = "llvm.x86.avx512bf16.dpbf16ps.512"
_UNIT = ("ldtilecfg", "tilerelease", "tilezero", "tileloadd64", "tilestored64", "tdpbf16ps")


def isa(*, matrix: bool) -> Isa:
    """The host as if it had vectors of 64 bytes and multiplied pairs, or matrices of them."""
    found = replace(host(), vector_bytes=64, registers=32, masks=True, pairs=True, matrix=matrix)
    return replace(found, name="matrix" if matrix else "pairs")


def emulated(text: str) -> str:
    """``text`` with the instructions as functions."""
    lines = [line for line in text.splitlines() if not _declares(line)]
    body = "\n".join(lines)
    for name in (_DOT, *(f"llvm.x86.{x}" for x in _UNIT)):
        body = body.replace(f"@{name}(", f"@emulated.{name.split('.')[2]}(")
    body = body.replace("@emulated.avx512bf16(", "@emulated.dot(")
    return body + _DOT_TEXT + _UNIT_TEXT


def _declares(line: str) -> bool:
    names = (_DOT, *(f"llvm.x86.{x}" for x in _UNIT))
    return line.startswith("declare") and any(f"@{name}(" in line for name in names)


_DOT_TEXT = """
define internal <16 x float> @emulated.flushed(<16 x float> %x) alwaysinline {
  %bits = bitcast <16 x float> %x to <16 x i32>
  %exponent = and <16 x i32> %bits, splat (i32 2139095040)
  %tiny = icmp eq <16 x i32> %exponent, zeroinitializer
  %r = select <16 x i1> %tiny, <16 x float> zeroinitializer, <16 x float> %x
  ret <16 x float> %r
}
define internal <16 x float> @emulated.low(<32 x bfloat> %x) alwaysinline {
  %pairs = bitcast <32 x bfloat> %x to <16 x i32>
  %bits = shl <16 x i32> %pairs, splat (i32 16)
  %f = bitcast <16 x i32> %bits to <16 x float>
  %r = call <16 x float> @emulated.flushed(<16 x float> %f)
  ret <16 x float> %r
}
define internal <16 x float> @emulated.high(<32 x bfloat> %x) alwaysinline {
  %pairs = bitcast <32 x bfloat> %x to <16 x i32>
  %bits = and <16 x i32> %pairs, splat (i32 -65536)
  %f = bitcast <16 x i32> %bits to <16 x float>
  %r = call <16 x float> @emulated.flushed(<16 x float> %f)
  ret <16 x float> %r
}
define internal <16 x float> @emulated.dot(<16 x float> %c, <32 x bfloat> %a, <32 x bfloat> %b) {
  %a0 = call <16 x float> @emulated.low(<32 x bfloat> %a)
  %b0 = call <16 x float> @emulated.low(<32 x bfloat> %b)
  %a1 = call <16 x float> @emulated.high(<32 x bfloat> %a)
  %b1 = call <16 x float> @emulated.high(<32 x bfloat> %b)
  %p = fmul <16 x float> %a1, %b1
  %q = fmul <16 x float> %a0, %b0
  %s = fadd <16 x float> %p, %q
  %r = fadd <16 x float> %c, %s
  ret <16 x float> %r
}
"""

# Tiles are rows of 16 x 32 bits; the sizes are those of the last ldtilecfg, none before it.
_UNIT_TEXT = """
@emulated.tiles = internal global [8 x [16 x <16 x i32>]] zeroinitializer, align 64
@emulated.rows = internal global [8 x i8] zeroinitializer
@emulated.bytes = internal global [8 x i16] zeroinitializer
declare void @llvm.trap()
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)

define internal void @emulated.ldtilecfg(ptr %from) {
  %palette = load i8, ptr %from
  %is_one = icmp eq i8 %palette, 1
  br i1 %is_one, label %good, label %bad
bad:
  call void @llvm.trap()
  unreachable
good:
  %bytes = getelementptr i8, ptr %from, i64 16
  %rows = getelementptr i8, ptr %from, i64 48
  call void @llvm.memcpy.p0.p0.i64(ptr @emulated.bytes, ptr %bytes, i64 16, i1 false)
  call void @llvm.memcpy.p0.p0.i64(ptr @emulated.rows, ptr %rows, i64 8, i1 false)
  call void @llvm.memset.p0.i64(ptr @emulated.tiles, i8 0, i64 8192, i1 false)
  ret void
}
define internal void @emulated.tilerelease() {
  call void @llvm.memset.p0.i64(ptr @emulated.rows, i8 0, i64 8, i1 false)
  call void @llvm.memset.p0.i64(ptr @emulated.bytes, i8 0, i64 16, i1 false)
  call void @llvm.memset.p0.i64(ptr @emulated.tiles, i8 0, i64 8192, i1 false)
  ret void
}
define internal {i64, i64} @emulated.size(i8 %t) {
  %r.at = getelementptr [8 x i8], ptr @emulated.rows, i64 0, i8 %t
  %b.at = getelementptr [8 x i16], ptr @emulated.bytes, i64 0, i8 %t
  %r8 = load i8, ptr %r.at
  %b16 = load i16, ptr %b.at
  %r = zext i8 %r8 to i64
  %b = zext i16 %b16 to i64
  %none = icmp eq i64 %r, 0
  br i1 %none, label %bad, label %good
bad:
  call void @llvm.trap()
  unreachable
good:
  %one = insertvalue {i64, i64} poison, i64 %r, 0
  %two = insertvalue {i64, i64} %one, i64 %b, 1
  ret {i64, i64} %two
}
define internal void @emulated.tilezero(i8 %t) {
  %size = call {i64, i64} @emulated.size(i8 %t)
  %at = getelementptr [8 x [16 x <16 x i32>]], ptr @emulated.tiles, i64 0, i8 %t
  call void @llvm.memset.p0.i64(ptr %at, i8 0, i64 1024, i1 false)
  ret void
}
define internal void @emulated.tileloadd64(i8 %t, ptr %from, i64 %stride) {
  call void @emulated.tilezero(i8 %t)
  call void @emulated.move(i8 %t, ptr %from, i64 %stride, i1 true)
  ret void
}
define internal void @emulated.tilestored64(i8 %t, ptr %to, i64 %stride) {
  call void @emulated.move(i8 %t, ptr %to, i64 %stride, i1 false)
  ret void
}
define internal void @emulated.move(i8 %t, ptr %memory, i64 %stride, i1 %is_load) {
entry:
  %size = call {i64, i64} @emulated.size(i8 %t)
  %rows = extractvalue {i64, i64} %size, 0
  %bytes = extractvalue {i64, i64} %size, 1
  br label %row
row:
  %r = phi i64 [0, %entry], [%r.next, %row]
  %line = getelementptr [8 x [16 x <16 x i32>]], ptr @emulated.tiles, i64 0, i8 %t, i64 %r
  %away = mul i64 %r, %stride
  %there = getelementptr i8, ptr %memory, i64 %away
  %to = select i1 %is_load, ptr %line, ptr %there
  %from = select i1 %is_load, ptr %there, ptr %line
  call void @llvm.memcpy.p0.p0.i64(ptr %to, ptr %from, i64 %bytes, i1 false)
  %r.next = add i64 %r, 1
  %more = icmp ult i64 %r.next, %rows
  br i1 %more, label %row, label %done
done:
  ret void
}
define internal void @emulated.tdpbf16ps(i8 %tc, i8 %ta, i8 %tb) {
entry:
  %size.c = call {i64, i64} @emulated.size(i8 %tc)
  %size.b = call {i64, i64} @emulated.size(i8 %tb)
  %rows = extractvalue {i64, i64} %size.c, 0
  %steps = extractvalue {i64, i64} %size.b, 0
  br label %row
row:
  %m = phi i64 [0, %entry], [%m.next, %end]
  %c.at = getelementptr [8 x [16 x <16 x i32>]], ptr @emulated.tiles, i64 0, i8 %tc, i64 %m
  br label %step
step:
  %k = phi i64 [0, %row], [%k.next, %step]
  %even = phi <16 x float> [zeroinitializer, %row], [%even.next, %step]
  %odd = phi <16 x float> [zeroinitializer, %row], [%odd.next, %step]
  %a.at = getelementptr [8 x [16 x [16 x i32]]], ptr @emulated.tiles, i64 0, i8 %ta, i64 %m, i64 %k
  %a.pair = load i32, ptr %a.at
  %a.first = insertelement <16 x i32> poison, i32 %a.pair, i64 0
  %a.all = shufflevector <16 x i32> %a.first, <16 x i32> poison, <16 x i32> zeroinitializer
  %a = bitcast <16 x i32> %a.all to <32 x bfloat>
  %b.at = getelementptr [8 x [16 x <16 x i32>]], ptr @emulated.tiles, i64 0, i8 %tb, i64 %k
  %b.row = load <16 x i32>, ptr %b.at
  %b = bitcast <16 x i32> %b.row to <32 x bfloat>
  %a0 = call <16 x float> @emulated.low(<32 x bfloat> %a)
  %b0 = call <16 x float> @emulated.low(<32 x bfloat> %b)
  %a1 = call <16 x float> @emulated.high(<32 x bfloat> %a)
  %b1 = call <16 x float> @emulated.high(<32 x bfloat> %b)
  %p0 = fmul <16 x float> %a0, %b0
  %p1 = fmul <16 x float> %a1, %b1
  %even.next = fadd <16 x float> %even, %p0
  %odd.next = fadd <16 x float> %odd, %p1
  %k.next = add i64 %k, 1
  %k.more = icmp ult i64 %k.next, %steps
  br i1 %k.more, label %step, label %end
end:
  %both = fadd <16 x float> %even.next, %odd.next
  %c = load <16 x float>, ptr %c.at
  %sum = fadd <16 x float> %c, %both
  store <16 x float> %sum, ptr %c.at
  %m.next = add i64 %m, 1
  %m.more = icmp ult i64 %m.next, %rows
  br i1 %m.more, label %row, label %done
done:
  ret void
}
"""
