"""Texts as steps that lanes take: the syntax tree of a text becomes nested Python functions, once;
nothing is evaluated as Python source.

An assignment inside of a branch or a loop changes active lanes only; a loop whose bounds differ
from lane to lane runs under a mask until no lane is left.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np

from gradc.codegen.cuda.grammar import OPERATORS, parse_text
from gradc.codegen.cuda.simulate import groups
from gradc.codegen.cuda.simulate.lanes import Run
from gradc.codegen.cuda.simulate.memory import Own
from gradc.codegen.cuda.simulate.shadow import SimulationError
from gradc.codegen.cuda.simulate.tensor import matrices, mma
from gradc.codegen.cuda.verbs import FUNCTIONS, TEXT_VERBS
from gradc.ir.tensor.core import DType

Variables: TypeAlias = dict[str, Any]
Value: TypeAlias = Callable[[Run, Variables], Any]
Does: TypeAlias = Callable[[Run, Variables], None]
_LITERALS = {"NAN": float("nan"), "INF": float("inf")}


@lru_cache(maxsize=512)
def steps_of(source: str) -> tuple[tuple[str, ...], Does]:
    """The parameters of a text's kernel, and what it does. Raises TextError."""
    text = parse_text(source)
    functions: dict[str, tuple[list[str], Value]] = {}
    for tree in text.functions[:-1]:
        names = [a.arg for a in tree.args.args]
        functions[tree.name] = (names, _function(tree, names, functions))
    kernel = _body(text.kernel.body, functions)
    return tuple(a.arg for a in text.kernel.args.args), kernel


_Functions: TypeAlias = "dict[str, tuple[list[str], Value]]"


def _function(tree: ast.FunctionDef, names: Sequence[str], functions: _Functions) -> Value:
    """A function that returns a value. Where numbers are elements of another domain, one that is a
    verb of the algebra is that verb.
    """
    *body, last = tree.body
    if not isinstance(last, ast.Return) or last.value is None:
        raise SimulationError("text", f"{tree.name} returns nothing")
    steps, result = _body(body, functions), _value(last.value, functions)
    verb = tree.name.rsplit("_", 1)[0]

    def call(run: Run, variables: Variables) -> Any:
        if not run.is_machine and verb in FUNCTIONS:
            return run.verb(verb, [variables[name] for name in names])
        steps(run, variables)
        return result(run, variables)

    return call


def _body(statements: Sequence[ast.stmt], functions: _Functions) -> Does:
    steps = [step for s in statements if (step := _statement(s, functions)) is not None]
    if len(steps) == 1:
        return steps[0]

    def all_of_them(run: Run, variables: Variables) -> None:
        for step in steps:
            step(run, variables)

    return all_of_them


def _statement(tree: ast.stmt, functions: _Functions) -> Does | None:
    if isinstance(tree, ast.Assign):
        return _assign(tree, functions)
    if isinstance(tree, ast.Expr):
        if isinstance(tree.value, ast.Constant):
            return None
        effect = _value(tree.value, functions)
        line = tree.lineno

        def act(run: Run, variables: Variables) -> None:
            run.line = line
            try:
                effect(run, variables)
            except SimulationError as fault:
                raise _at(fault, line) from None

        return act
    if isinstance(tree, ast.For):
        return _for(tree, functions)
    if isinstance(tree, ast.While):
        return _while(tree, functions)
    if isinstance(tree, ast.If):
        return _if(tree, functions)
    return None


def _at(fault: SimulationError, line: int) -> SimulationError:
    """The same fault with its line, the innermost only."""
    said = str(fault)
    if " (line " in said:
        return fault
    found = SimulationError(fault.kind, said.removeprefix(f"{fault.kind}: ") + f" (line {line})")
    return found


def _put(run: Run, variables: Variables, name: str, value: Any) -> None:
    if run.mask is not None and name in variables:
        value = run.keep(value, variables[name])
    variables[name] = value


def _assign(tree: ast.Assign, functions: _Functions) -> Does:
    (target,) = tree.targets
    line = tree.lineno
    call = tree.value
    name = call.func.id if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) else ""
    if name in _DECLARED and isinstance(target, ast.Name) and isinstance(call, ast.Call):
        return _declaration(name, target.id, call)
    value = _value(tree.value, functions)
    if isinstance(target, ast.Name):
        variable = target.id

        def assign(run: Run, variables: Variables) -> None:
            try:
                _put(run, variables, variable, value(run, variables))
            except SimulationError as fault:
                raise _at(fault, line) from None

        return assign
    assert isinstance(target, ast.Tuple)
    names = [part.id for part in target.elts if isinstance(part, ast.Name)]

    def assign_all(run: Run, variables: Variables) -> None:
        try:
            found = value(run, variables)
        except SimulationError as fault:
            raise _at(fault, line) from None
        if not isinstance(found, tuple) or len(found) != len(names):
            raise SimulationError("text", f"{len(names)} names for another number (line {line})")
        for one, x in zip(names, found, strict=True):
            _put(run, variables, one, x)

    return assign_all


_DECLARED: dict[str, Callable[..., Own]] = {
    "shared": Run.shared,
    "shared_lines": Run.shared_lines,
    "dynamic": Run.dynamic,
    "local": Run.local,
}


def _declaration(kind: str, variable: str, call: ast.Call) -> Does:
    of, *numbers = call.args
    assert isinstance(of, ast.Name)
    dtype, make = of.id, _DECLARED[kind]
    sizes = [n.value for n in numbers if isinstance(n, ast.Constant)]

    def declare(run: Run, variables: Variables) -> None:
        if variable not in variables:
            variables[variable] = make(run, variable, dtype, *sizes)

    return declare


def _for(tree: ast.For, functions: _Functions) -> Does:
    assert isinstance(tree.iter, ast.Call) and isinstance(tree.target, ast.Name)
    bounds = [_value(x, functions) for x in tree.iter.args]
    body, name, line = _body(tree.body, functions), tree.target.id, tree.lineno

    def repeat(run: Run, variables: Variables) -> None:
        given = [bound(run, variables) for bound in bounds]
        start, stop, step = {1: [0, *given, 1], 2: [*given, 1], 3: given}[len(given)]
        trips = 0
        for at in run.steps(start, stop, step):
            variables[name] = at
            body(run, variables)
            trips += 1
        run.trips[line] = max(run.trips.get(line, 0), trips)

    return repeat


def _while(tree: ast.While, functions: _Functions) -> Does:
    test, body = _value(tree.test, functions), _body(tree.body, functions)

    def repeat(run: Run, variables: Variables) -> None:
        before = run.mask
        while True:
            mask = run.both(test(run, variables))
            if not mask.any():
                break
            run.mask = None if mask.all() else mask
            body(run, variables)
            run.mask = before
        run.mask = before

    return repeat


def _if(tree: ast.If, functions: _Functions) -> Does:
    test = _value(tree.test, functions)
    body, other = _body(tree.body, functions), _body(tree.orelse, functions)

    def choose(run: Run, variables: Variables) -> None:
        condition = test(run, variables)
        before = run.mask
        for chosen, branch in ((condition, body), (np.logical_not(condition), other)):
            run.mask = before
            mask = run.both(chosen)
            if mask.any():
                # All lanes in one branch are no branch, unless the text is told apart by data.
                run.mask = before if mask.all() and before is None else mask
                branch(run, variables)
        run.mask = before

    return choose


# ---- expressions


def _value(tree: ast.expr, functions: _Functions) -> Value:
    if isinstance(tree, ast.Name):
        name = tree.id
        if name in _LITERALS:
            return _constant(_LITERALS[name])
        return lambda run, variables: variables[name]
    if isinstance(tree, ast.Constant):
        return _constant(tree.value)
    if isinstance(tree, ast.UnaryOp):
        operand = tree.operand
        number = operand.value if isinstance(operand, ast.Constant) else _LITERALS["INF"]
        return _constant(-number)  # type: ignore[operator]
    if isinstance(tree, ast.BinOp):
        return _operator(OPERATORS[type(tree.op)], [tree.left, tree.right], functions)
    if isinstance(tree, ast.Compare):
        operands = [tree.left, tree.comparators[0]]
        return _operator(OPERATORS[type(tree.ops[0])], operands, functions)
    if isinstance(tree, ast.Tuple):
        parts = [_value(x, functions) for x in tree.elts]
        return lambda run, variables: tuple(part(run, variables) for part in parts)
    if isinstance(tree, ast.Subscript):
        whole, place = _value(tree.value, functions), tree.slice.value  # type: ignore[attr-defined]
        return lambda run, variables: whole(run, variables)[place]
    assert isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name)
    return _call(tree.func.id, tree.args, functions)


def _constant(value: Any) -> Value:
    return lambda run, variables: value


def _operator(name: str, operands: Sequence[ast.expr], functions: _Functions) -> Value:
    left, right = (_value(x, functions) for x in operands)
    is_arithmetic = name in _ARITHMETIC

    def apply(run: Run, variables: Variables) -> Any:
        a, b = left(run, variables), right(run, variables)
        if isinstance(a, tuple):
            return a + b
        if is_arithmetic and run.dtype(a, b) in (DType.I32, DType.U32):
            raise SimulationError("text", f"{name} of 32-bit integers is a verb")
        return run.verb(name, [a, b])

    return apply


_ARITHMETIC = ("add", "sub", "mul", "logical_and", "logical_or", "bitxor")


def _call(name: str, arguments: Sequence[ast.expr], functions: _Functions) -> Value:
    if name in ("zeros",):
        of, count = arguments
        assert isinstance(of, ast.Name) and isinstance(count, ast.Constant)
        dtype, size = of.id, int(count.value)  # type: ignore[arg-type]
        return lambda run, variables: (run.cast(dtype, 0),) * size
    given = [_value(x, functions) for x in arguments]
    if name in functions:
        names, body = functions[name]

        def call(run: Run, variables: Variables) -> Any:
            values = [x(run, variables) for x in given]
            return body(run, dict(zip(names, values, strict=True)))

        return call
    kind = TEXT_VERBS[name].kind
    if kind == "scalar":
        return lambda run, variables: run.verb(name, [x(run, variables) for x in given])
    if kind == "cast":
        (only,) = given
        return lambda run, variables: run.cast(name, only(run, variables))
    if kind == "bits":
        (only,) = given
        return lambda run, variables: run.bits(name, only(run, variables))
    act = _ACTS[name]
    return lambda run, variables: act(run, [x(run, variables) for x in given])


def _outer(run: Run, given: Sequence[Any]) -> Any:
    total, left, right = given
    if len(total) != len(left) * len(right):
        raise SimulationError("text", f"an outer product of {len(left)} and {len(right)}")
    pairs = ((x, y) for x in left for y in right)
    return tuple(run.verb("fma", [x, y, a]) for a, (x, y) in zip(total, pairs, strict=True))


def _each_sum(run: Run, given: Sequence[Any]) -> Any:
    return tuple(run.verb("add", [a, b]) for a, b in zip(*given, strict=True))


_ACTS: dict[str, Callable[[Run, Sequence[Any]], Any]] = {
    "block": lambda run, given: run.block,
    "thread": lambda run, given: run.thread,
    "load": lambda run, given: run.load(given[0], given[1]),
    "load4": lambda run, given: run.load(given[0], given[1], 4),
    "store": lambda run, given: run.store(given[0], given[1], given[2:]),
    "store4": lambda run, given: run.store(given[0], given[1], given[2:]),
    "load_runs": lambda run, given: run.load_runs(*given),
    "store_runs": lambda run, given: run.store_runs(*given),
    "copy_async": lambda run, given: run.copy(*given),
    "commit_copies": lambda run, given: run.commit(),
    "wait_copies": lambda run, given: run.wait(*given),
    "barrier": lambda run, given: run.barrier(),
    "shuffle_xor": lambda run, given: run.shuffle_xor(*given),
    "outer": _outer,
    "each_sum": _each_sum,
    "matrices": lambda run, given: matrices(run, given[0], given[1], False),
    "turned_matrices": lambda run, given: matrices(run, given[0], given[1], True),
    "mma_bf16": lambda run, given: mma(run, "bf16_value", *given),
    "mma_f16": lambda run, given: mma(run, "f16_value", *given),
    "publish": lambda run, given: run.publish(),
    "ready": lambda run, given: groups.ready(run, *given),
    "group_bf16": lambda run, given: groups.multiply(run, "bf16_value", *given),
    "group_f16": lambda run, given: groups.multiply(run, "f16_value", *given),
    "commit_products": lambda run, given: groups.commit(run),
    "wait_products": lambda run, given: groups.wait(run, *given),
    "turned": lambda run, given: (*given[0][given[1] :], *given[0][: given[1]]),
}
