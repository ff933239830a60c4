"""The vocabulary of kernel texts for Numba: with ``numba_texts``, which makes PTX of a text, all
that knows Numba.

Each verb of ``codegen.cuda.verbs`` is an intrinsic here, emitted as NVVM IR through llvmlite.
Importing this needs the extra ``cuda``, no driver and no device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import llvmlite.ir as ll
import numba_cuda as _numba_cuda  # noqa: F401  (numba.cuda is this package only where it is there)
from numba.cuda import types
from numba.cuda.core.errors import TypingError
from numba.cuda.extending import intrinsic

from gradc.codegen.cuda.toolchain.instructions import (
    F32,
    F64,
    I32,
    I64,
    LLVM_TYPES,
    SCALARS,
    bf16_bits,
    bf16_value,
    call,
    cast,
    committed,
    const,
    copied,
    f16_bits,
    f16_value,
    fma,
    group_mma,
    is_float,
    matrices,
    mma,
    products_committed,
    products_waited,
    published,
    ready,
    shuffled,
    waited,
)
from gradc.codegen.cuda.verbs import LINES, TEXT_VERBS

DYNAMIC = "dynamic_memory"  # the name of what a launch gives every block

Emit = Callable[[Any, tuple[Any, ...], tuple[Any, ...]], Any]  # builder, values, their types
Rule = Callable[..., Any]  # types of operands -> type of the result

TYPES: Mapping[str, Any] = {
    "f32": types.float32,
    "f64": types.float64,
    "i32": types.int32,
    "u32": types.uint32,
    "i64": types.int64,
    "u16": types.uint16,
    "u8": types.uint8,
    "bool": types.boolean,
}
_NAMES = {type_: name for name, type_ in TYPES.items()}


def _name(type_: Any) -> str:
    """The vocabulary's name of a Numba type; TypingError for another type."""
    if isinstance(type_, types.Literal):
        type_ = type_.literal_type
    if type_ not in _NAMES:
        raise TypingError(f"{type_} is no type of a kernel text")
    return _NAMES[type_]


def _same(name: str, operands: tuple[Any, ...]) -> Any:
    """The one type of ``operands``; TypingError if they have several."""
    names = {_name(type_) for type_ in operands}
    if len(names) != 1:
        raise TypingError(f"{name} of {', '.join(sorted(names))}: operands are of one type")
    return TYPES[names.pop()]


def _scalar(name: str) -> Any:
    emit, is_select = SCALARS[name], name == "select"

    def rule(*operands: Any) -> Any:
        if is_select and _name(operands[0]) != "bool":
            raise TypingError("select takes a bool first")
        kind = _same(name, operands[1:] if is_select else operands)
        result = types.boolean if TEXT_VERBS[name].gives == "bool" else kind
        return result, (types.boolean, kind, kind) if is_select else (kind,) * len(operands)

    def code(b: Any, values: tuple[Any, ...], kinds: tuple[Any, ...]) -> Any:
        return emit(b, _name(kinds[-1]), *values)

    return _made(name, len(TEXT_VERBS[name].takes), rule, code)


def _made(name: str, arity: int, rule: Rule, code: Emit) -> Any:
    """The intrinsic ``name`` of ``arity`` operands: ``rule`` gives its result's type and those that
    operands are taken as.
    """

    def define(*operands: Any) -> Any:
        result, taken = rule(*operands)

        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            found = code(builder, tuple(values), signature.args)
            if isinstance(found, list):
                return context.make_tuple(builder, signature.return_type, found)
            return context.get_dummy_value() if found is None else found

        return result(*taken), generate

    # Numba counts the parameters that a definition names.
    by_arity: dict[int, Callable[..., Any]] = {
        0: lambda context: define(),
        1: lambda context, x: define(x),
        2: lambda context, x, y: define(x, y),
        3: lambda context, x, y, z: define(x, y, z),
        4: lambda context, p, i, x, y: define(p, i, x, y),
        6: lambda context, p, i, a, b, c, d: define(p, i, a, b, c, d),
    }
    definition = by_arity[arity]
    definition.__name__ = name
    return intrinsic(definition)


# ---- casts and bits -----------------------------------------------------------------------------


def _caster(target: str) -> Any:
    def rule(operand: Any) -> Any:
        return TYPES[target], (TYPES[_name(operand)],)

    def code(b: Any, values: tuple[Any, ...], kinds: tuple[Any, ...]) -> Any:
        return cast(b, _name(kinds[0]), target, values[0])

    return _made(target, 1, rule, code)


def _fixed(name: str, takes: str, gives: str, emit: Callable[[Any, Any], Any]) -> Any:
    def rule(operand: Any) -> Any:
        if _name(operand) != takes:
            raise TypingError(f"{name} takes {takes}, not {_name(operand)}")
        return TYPES[gives], (TYPES[takes],)

    return _made(name, 1, rule, lambda b, values, _: emit(b, values[0]))


def _halved(name: str, emit: Callable[[Any, Any], Any]) -> Any:
    def rule(operand: Any) -> Any:
        if not is_float(_name(operand)):
            raise TypingError(f"{name} takes a float")
        return types.uint16, (TYPES[_name(operand)],)

    return _made(name, 1, rule, lambda b, values, _: emit(b, values[0]))


# ---- positions, memory, threads -----------------------------------------------------------------


def _position(name: str, register: str) -> Any:
    def code(b: Any, values: tuple[Any, ...], kinds: tuple[Any, ...]) -> Any:
        return b.zext(call(b, f"llvm.nvvm.read.ptx.sreg.{register}.x", I32), I64)

    return _made(name, 0, lambda: (types.int64, ()), code)


def _pointee(name: str, pointer: Any, index: Any) -> Any:
    """The element type of ``pointer``; TypingError unless it is one and ``index`` an i64."""
    if not isinstance(pointer, types.CPointer) or _name(index) != "i64":
        raise TypingError(f"{name} takes a pointer and an i64, not {pointer} and {index}")
    return pointer.dtype


def _four(b: Any, pointer: Any, index: Any) -> Any:
    """The place of four elements as one vector."""
    vector = ll.VectorType(pointer.type.pointee, 4)
    return b.bitcast(b.gep(pointer, [index]), ll.PointerType(vector))


def _load() -> Any:
    def rule(pointer: Any, index: Any) -> Any:
        return _pointee("load", pointer, index), (pointer, types.int64)

    return _made("load", 2, rule, lambda b, v, _: b.load(b.gep(v[0], [v[1]])))


def _store() -> Any:
    def rule(pointer: Any, index: Any, value: Any) -> Any:
        kind = _pointee("store", pointer, index)
        if _name(value) != _name(kind):
            raise TypingError(f"store of {_name(value)} to a pointer of {_name(kind)}")
        return types.none, (pointer, types.int64, kind)

    def code(b: Any, values: tuple[Any, ...], kinds: tuple[Any, ...]) -> None:
        b.store(values[2], b.gep(values[0], [values[1]]))

    return _made("store", 3, rule, code)


def _load4() -> Any:
    def rule(pointer: Any, index: Any) -> Any:
        kind = _pointee("load4", pointer, index)
        return types.UniTuple(kind, 4), (pointer, types.int64)

    def code(b: Any, values: tuple[Any, ...], kinds: tuple[Any, ...]) -> Any:
        found = b.load(_four(b, *values))
        found.align = 4 * kinds[0].dtype.bitwidth // 8
        return [b.extract_element(found, const(I32, n)) for n in range(4)]

    return _made("load4", 2, rule, code)


def _store4() -> Any:
    def rule(pointer: Any, index: Any, *four: Any) -> Any:
        kind = _pointee("store4", pointer, index)
        if {_name(value) for value in four} != {_name(kind)}:
            raise TypingError(f"store4 to a pointer of {_name(kind)} takes four of it")
        return types.none, (pointer, types.int64, *(kind,) * 4)

    def code(b: Any, values: tuple[Any, ...], kinds: tuple[Any, ...]) -> None:
        vector = const(ll.VectorType(values[0].type.pointee, 4), ll.Undefined)
        for n, value in enumerate(values[2:]):
            vector = b.insert_element(vector, value, const(I32, n))
        b.store(vector, _four(b, *values[:2])).align = 4 * kinds[0].dtype.bitwidth // 8

    return _made("store4", 6, rule, code)


def _number(kind: Any) -> int:
    """The literal that an operand of this type is."""
    return int(kind.literal_value)


def _runs(b: Any, pointer: Any, index: Any, step: int, count: int) -> Iterator[Any]:
    """The places of ``count`` fours as vectors, ``step`` elements apart."""
    for n in range(count):
        yield _four(b, pointer, b.add(index, const(I64, step * n)))


def _load_runs() -> Any:
    def rule(pointer: Any, index: Any, step: Any, count: Any) -> Any:
        kind, size = _pointee("load_runs", pointer, index), _literal(count, "how many are loaded")
        _literal(step, "how far runs are apart")
        return types.UniTuple(kind, size), (pointer, types.int64, step, count)

    def code(b: Any, values: tuple[Any, ...], kinds: tuple[Any, ...]) -> Any:
        parts = []
        for place in _runs(b, values[0], values[1], _number(kinds[2]), _number(kinds[3]) // 4):
            found = b.load(place)
            found.align = min(16, 4 * kinds[0].dtype.bitwidth // 8)
            parts += [b.extract_element(found, const(I32, n)) for n in range(4)]
        return parts

    return _made("load_runs", 4, rule, code)


def _store_runs() -> Any:
    def rule(pointer: Any, index: Any, step: Any, values: Any) -> Any:
        kind = _pointee("store_runs", pointer, index)
        _literal(step, "how far runs are apart")
        if not isinstance(values, types.UniTuple) or _name(values.dtype) != _name(kind):
            raise TypingError(f"store_runs to a pointer of {_name(kind)} takes a tuple of it")
        return types.none, (pointer, types.int64, step, values)

    def code(b: Any, values: tuple[Any, ...], kinds: tuple[Any, ...]) -> None:
        parts = _parts(b, values[3])
        places = _runs(b, values[0], values[1], _number(kinds[2]), len(parts) // 4)
        for number, place in enumerate(places):
            vector = const(ll.VectorType(values[0].type.pointee, 4), ll.Undefined)
            for n, value in enumerate(parts[4 * number : 4 * number + 4]):
                vector = b.insert_element(vector, value, const(I32, n))
            b.store(vector, place).align = min(16, 4 * kinds[0].dtype.bitwidth // 8)

    return _made("store_runs", 4, rule, code)


def _copy_define(to: Any, i: Any, source: Any, j: Any, count: Any, condition: Any) -> Any:
    kind, size = _pointee("copy_async", to, i), _literal(count, "how many are copied")
    nbytes = size * kind.bitwidth // 8
    if _pointee("copy_async", source, j) != kind or nbytes not in (4, 8, 16):
        raise TypingError("copy_async is of 4, 8 or 16 bytes of one type")

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        target, i, source, j, _, condition = values
        places = builder.gep(target, [i]), builder.gep(source, [j])
        copied(builder, *places, nbytes, condition)
        return context.get_dummy_value()

    return types.none(to, types.int64, source, types.int64, count, types.boolean), generate


def _copy() -> Any:
    def definition(context: Any, p: Any, i: Any, q: Any, j: Any, n: Any, c: Any) -> Any:
        return _copy_define(p, i, q, j, n, c)

    definition.__name__ = "copy_async"
    return intrinsic(definition)


def _wait() -> Any:
    def rule(groups: Any) -> Any:
        _literal(groups, "how many groups stay in flight")
        return types.none, (groups,)

    return _made("wait_copies", 1, rule, lambda b, v, kinds: waited(b, _number(kinds[0])))


def _nothing() -> Any:
    return types.none, ()


def _barrier(b: Any, values: tuple[Any, ...], kinds: tuple[Any, ...]) -> None:
    call(b, "llvm.nvvm.barrier0", ll.VoidType())


def _literal(value: Any, what: str) -> int:
    if not isinstance(value, types.IntegerLiteral):
        raise TypingError(f"{what} is a literal")
    return int(value.literal_value)


def _typed(name: str, define: Callable[[Any, Any], Any]) -> Any:
    """An intrinsic of two operands of which one is a literal."""

    def definition(context: Any, x: Any, n: Any) -> Any:
        return define(x, n)

    definition.__name__ = name
    return intrinsic(definition)


def _element(kind: Any) -> str:
    """The vocabulary's name of a type that a text names: its cast."""
    for name in CASTS:
        if getattr(kind, "typing_key", None) is VERBS[name]:
            return name
    raise TypingError(f"{kind} is no element type")


def _shared_define(kind: Any, count: Any, align: int = 16) -> Any:
    name, size = _element(kind), _literal(count, "the size of shared memory")

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        array = ll.ArrayType(LLVM_TYPES[name], size)
        place = builder.module.get_unique_name("shared")
        memory = ll.GlobalVariable(builder.module, array, place, addrspace=3)
        memory.linkage, memory.align = "internal", align
        memory.initializer = const(array, ll.Undefined)
        generic = builder.addrspacecast(memory, ll.PointerType(array))
        return builder.bitcast(generic, ll.PointerType(LLVM_TYPES[name]))

    return types.CPointer(TYPES[name])(kind, count), generate


def _dynamic() -> Any:
    def definition(context: Any, kind: Any, count: Any, at: Any) -> Any:
        name, begin = _element(kind), _literal(at, "where dynamic memory begins")
        _literal(count, "the size of shared memory")

        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            memory = builder.module.globals.get(DYNAMIC)
            if memory is None:  # one for all: a launch says how large it is
                array = ll.ArrayType(ll.IntType(8), 0)
                memory = ll.GlobalVariable(builder.module, array, DYNAMIC, addrspace=3)
                memory.linkage, memory.align = "external", 16
            generic = builder.addrspacecast(memory, ll.PointerType(memory.value_type))
            place = builder.gep(generic, [const(I64, 0), const(I64, begin)], inbounds=False)
            return builder.bitcast(place, ll.PointerType(LLVM_TYPES[name]))

        return types.CPointer(TYPES[name])(kind, count, at), generate

    definition.__name__ = "dynamic"
    return intrinsic(definition)


def _local_define(kind: Any, count: Any) -> Any:
    name, size = _element(kind), _literal(count, "the size of local memory")

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        array = ll.ArrayType(LLVM_TYPES[name], size)
        with builder.goto_entry_block():
            memory = builder.alloca(array)
            memory.align = 16
        return builder.bitcast(memory, ll.PointerType(LLVM_TYPES[name]))

    return types.CPointer(TYPES[name])(kind, count), generate


def _zeros_define(kind: Any, count: Any) -> Any:
    name, size = _element(kind), _literal(count, "the length of a tuple")

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        zero = const(LLVM_TYPES[name], 0.0 if is_float(name) else 0)
        return context.make_tuple(builder, signature.return_type, [zero] * size)

    return types.UniTuple(TYPES[name], size)(kind, count), generate


def _shuffle_define(value: Any, mask: Any) -> Any:
    kind, bits = TYPES[_name(value)], _literal(mask, "what lanes differ in")

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return shuffled(builder, values[0], bits)

    return kind(kind, mask), generate


# ---- tuples -------------------------------------------------------------------------------------


def _parts(b: Any, tuple_: Any) -> list[Any]:
    return [b.extract_value(tuple_, n) for n in range(tuple_.type.count)]


def _outer_code(b: Any, values: tuple[Any, ...], kinds: tuple[Any, ...]) -> list[Any]:
    total, left, right = (_parts(b, v) for v in values)
    name, width = _name(kinds[0].dtype), len(right)
    return [
        fma(b, name, x, y, total[width * i + j])
        for i, x in enumerate(left)
        for j, y in enumerate(right)
    ]


def _outer_rule(total: Any, left: Any, right: Any) -> Any:
    if total.count != left.count * right.count:
        raise TypingError("outer: the sums are as many as products")
    return total, (total, left, right)


def _each_code(b: Any, values: tuple[Any, ...], kinds: tuple[Any, ...]) -> list[Any]:
    pairs = zip(*(_parts(b, v) for v in values), strict=True)
    add = SCALARS["add"]
    return [add(b, _name(kinds[0].dtype), x, y) for x, y in pairs]


def _matrices(name: str, is_turned: bool) -> Any:
    def rule(pointer: Any, index: Any) -> Any:
        if _name(_pointee(name, pointer, index)) != "u16":
            raise TypingError(f"{name} are of half words")
        return types.UniTuple(types.uint32, 4), (pointer, types.int64)

    def code(b: Any, values: tuple[Any, ...], kinds: tuple[Any, ...]) -> Any:
        return matrices(b, b.gep(values[0], [values[1]]), is_turned)

    return _made(name, 2, rule, code)


def _mma(name: str, kind: str) -> Any:
    def rule(total: Any, left: Any, right: Any) -> Any:
        if total.count != 4 * (left.count // 4) * (right.count // 2):
            raise TypingError(f"{name}: sums are as many as products")
        return total, (total, left, right)

    def code(b: Any, values: tuple[Any, ...], kinds: tuple[Any, ...]) -> list[Any]:
        total, left, right = (_parts(b, v) for v in values)
        found: list[Any] = []
        for i in range(0, len(left), 4):
            for j in range(0, len(right), 2):
                own = total[len(found) : len(found) + 4]
                found += mma(b, kind, own, left[i : i + 4], right[j : j + 2])
        return found

    return _made(name, 3, rule, code)


def _is_sums(kind: Any) -> bool:
    return isinstance(kind, types.UniTuple) and _name(kind.dtype) == "f32" and kind.count == 32


def _group_define(kind: str, sums: Any, left: Any, right: Any, turned: tuple[Any, Any]) -> Any:
    flags = [_literal(one, "whether a factor is turned") for one in turned]
    if not _is_sums(sums):
        raise TypingError("a group has 64 x 64 sums")

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        total, left, i, _, right, j, _ = values
        places = builder.gep(left, [i]), builder.gep(right, [j])
        factors = list(zip(places, flags, strict=True))
        found = group_mma(builder, kind, _parts(builder, total), *factors)
        return context.make_tuple(builder, signature.return_type, found)

    return sums(sums, left, types.int64, turned[0], right, types.int64, turned[1]), generate


def _group(name: str, kind: str) -> Any:
    def definition(context: Any, s: Any, p: Any, i: Any, m: Any, q: Any, j: Any, n: Any) -> Any:
        if {_name(_pointee(name, *each)) for each in ((p, i), (q, j))} != {"u16"}:
            raise TypingError(f"{name} is of half words")
        return _group_define(kind, s, p, q, (m, n))

    definition.__name__ = name
    return intrinsic(definition)


def _wait_products_define(sums: Any, groups: Any) -> Any:
    count = _literal(groups, "how many groups stay in flight")

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        found = products_waited(builder, _parts(builder, values[0]), count)
        return context.make_tuple(builder, signature.return_type, found)

    return sums(sums, groups), generate


def _turned_define(values: Any, count: Any) -> Any:
    first = _literal(count, "by how many a tuple is turned")

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        parts = _parts(builder, given[0])
        turned = [*parts[first:], *parts[:first]]
        return context.make_tuple(builder, signature.return_type, turned)

    return values(values, count), generate


CASTS = ("f64", "f32", "i32", "u32", "i64", "u16", "u8")

VERBS: dict[str, Any] = {
    **{name: _scalar(name) for name in SCALARS},
    **{name: _caster(name) for name in CASTS},
    "f32_bits": _fixed("f32_bits", "f32", "u32", lambda b, x: b.bitcast(x, I32)),
    "f32_of": _fixed("f32_of", "u32", "f32", lambda b, x: b.bitcast(x, F32)),
    "f64_bits": _fixed("f64_bits", "f64", "i64", lambda b, x: b.bitcast(x, I64)),
    "f64_of": _fixed("f64_of", "i64", "f64", lambda b, x: b.bitcast(x, F64)),
    "bf16_bits": _halved("bf16_bits", bf16_bits),
    "bf16_value": _fixed("bf16_value", "u16", "f32", bf16_value),
    "f16_bits": _halved("f16_bits", f16_bits),
    "f16_value": _fixed("f16_value", "u16", "f32", f16_value),
    "block": _position("block", "ctaid"),
    "thread": _position("thread", "tid"),
    "load": _load(),
    "store": _store(),
    "load4": _load4(),
    "store4": _store4(),
    "load_runs": _load_runs(),
    "store_runs": _store_runs(),
    "copy_async": _copy(),
    "commit_copies": _made("commit_copies", 0, _nothing, lambda b, *_: committed(b)),
    "wait_copies": _wait(),
    "barrier": _made("barrier", 0, _nothing, _barrier),
    "shared": _typed("shared", _shared_define),
    "dynamic": _dynamic(),
    "local": _typed("local", _local_define),
    "zeros": _typed("zeros", _zeros_define),
    "shuffle_xor": _typed("shuffle_xor", _shuffle_define),
    "matrices": _matrices("matrices", False),
    "turned_matrices": _matrices("turned_matrices", True),
    "mma_bf16": _mma("mma_bf16", "bf16"),
    "mma_f16": _mma("mma_f16", "f16"),
    "shared_lines": _typed("shared_lines", lambda x, n: _shared_define(x, n, LINES)),
    "publish": _made("publish", 0, _nothing, lambda b, *_: published(b)),
    "ready": _made("ready", 1, lambda x: (x, (x,)), lambda b, v, _: ready(b, _parts(b, v[0]))),
    "group_bf16": _group("group_bf16", "bf16"),
    "group_f16": _group("group_f16", "f16"),
    "commit_products": _made("commit_products", 0, _nothing, lambda b, *_: products_committed(b)),
    "wait_products": _typed("wait_products", _wait_products_define),
    "turned": _typed("turned", _turned_define),
    "outer": _made("outer", 3, _outer_rule, _outer_code),
    "each_sum": _made("each_sum", 2, lambda x, y: (x, (x, y)), _each_code),
}
