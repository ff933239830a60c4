"""Diagnostics of names, types and compile-time values: a golden rendering per code, and what each
mistake is called.
"""

from __future__ import annotations

import pytest

from gradc.frontend.codes.check import CODES
from gradc.frontend.codes.codes import Code, all_codes, explain
from gradc.frontend.program import loads
from gradc.ir.diagnostics.diagnostic import Diagnostic, DiagnosticError
from gradc.ir.diagnostics.render import render_all
from tests.support.golden_files import check_golden

# Shown by flags and arrays, in tests/frontend/test_lowering_training.py and
# tests/passes/test_ad_classes.py, or never met: the checks come first.
WITHOUT_EXAMPLE = {
    "GC0213", "GC0217", "GC0312", "GC0521", "GC0522", "GC0523", "GC0524", "GC0525",
    "GC0541", "GC0542", "GC0543", "GC0544", "GC0545", "GC0546",
}  # fmt: skip


def findings(text: str) -> tuple[tuple[Diagnostic, ...], str]:
    """Everything found in ``text``, warnings included, and its rendering."""
    try:
        program = loads(text, "example.grad")
        found = program.check()
        return found, render_all(found, program.report.sources) + "\n"
    except DiagnosticError as problem:
        return problem.diagnostics, render_all(problem.diagnostics, problem.sources) + "\n"


@pytest.mark.parametrize("entry", [c for c in CODES if c.example], ids=lambda e: e.code)
def test_the_example_of_every_code_shows_it(entry: Code, request: pytest.FixtureRequest) -> None:
    found, text = findings(entry.example)
    assert {entry.code} <= {d.code for d in found} <= {entry.code, *entry.also}
    check_golden(f"diagnostics/{entry.code}.txt", text, request.config)


def test_codes_without_an_example_are_known() -> None:
    assert {c.code for c in CODES if not c.example} == WITHOUT_EXAMPLE


def test_explanations_read_well() -> None:
    for entry in CODES:
        assert all_codes()[entry.code] is entry
        text = explain(entry.code)
        assert text is not None
        assert len(entry.explanation) > 60 or entry.code == "GC0544"
        assert all(len(line) <= 104 for line in entry.explanation.split("\n"))


DIMS = "dim B, D = 4, H = 3, N = 2\n"
ARGUMENTS = "x: float[B, D], y: float[B, H], v: float[D], n: int[B], m: bool[B]"


def body(statements: str, before: str = "") -> str:
    """A model whose body is ``statements``."""
    return f"{DIMS}{before}\nmodel net({ARGUMENTS}) -> float {{\n{statements}\nreturn sum(x)\n}}\n"


def expression(text: str, before: str = "") -> str:
    return body(f"z = {text}", before)


TWICE = "fn twice(a: float[...], by = 2) -> float[...] { return a * by }"
SQUARE = (
    "layer square(K) { param w: float[K, K] ~ zeros\napply(a: float[..., K]) { return a @ w } }"
)

CASES: list[tuple[str, str, str]] = [
    # names
    (expression("xx + 1"), "GC0201", "did you mean `x`"),
    (expression("reluu(x)"), "GC0201", "did you mean `relu`"),
    (expression("layernrm(x)"), "GC0201", "did you mean `layernorm`"),
    (expression("reshape(x, [B, DD])"), "GC0201", "did you mean `D`"),
    (expression("zeros([B, Q])"), "GC0201", "there is no `Q`"),
    (expression("cast(n, flaot)"), "GC0201", "did you mean `float`"),
    (body("param w: flot[D] ~ zeros"), "GC0201", "there is no type `flot`"),
    (body("param w: float[D] ~ he_norml"), "GC0201", "did you mean `he_normal`"),
    (body("z = state mean"), "GC0201", "declare it"),
    (body("state mean = 1.0"), "GC0201", "there is no state `mean`"),
    (body("use fc = dens(D, H)"), "GC0201", "did you mean `dense`"),
    (body("if trainin { z = 1 }"), "GC0201", "did you mean `training`"),
    (expression("twice(x)", "fn twice(a: float[...]) { return a * b }"), "GC0201", "no `b` here"),
    ("model net(x: flat[3]) -> float { return sum(x) }", "GC0201", "there is no type `flat`"),
    ("model net(x: float[3]) -> flot { return sum(x) }", "GC0201", "there is no type `flot`"),
    (body("output z"), "GC0201", "there is no `z`"),
    (body("output y\noutput y"), "GC0202", "two outputs `y`"),
    (body("param w: float ~ zeros\nuse w = dense(D, H)"), "GC0202", "layer `w`"),
    (body("state w: float ~ zeros\nparam w: float ~ zeros"), "GC0202", "parameter `w`"),
    ("model net(x: float, x: float) -> float { return x }", "GC0202", "two inputs `x`"),
    ("dim B, B\nmodel net(x: float[B]) -> float { return sum(x) }", "GC0202", "dimension `B`"),
    (body("", TWICE + "\n" + TWICE), "GC0202", "function or layer `twice`"),
    (expression("relu(x, 1)"), "GC0203", "takes 1 argument"),
    (expression("sum(x, axes = 1)"), "GC0203", "did you mean `axis`"),
    (expression("twice(x, a = x)", TWICE), "GC0203", "twice"),
    (expression("twice(by = 3)", TWICE), "GC0203", "misses its argument `a`"),
    (expression("twice(x, 2, 3)", TWICE), "GC0203", "is number 3"),
    (expression("twice(x, time = 3)", TWICE), "GC0203", "no argument `time`"),
    (body("use fc = dense(D)"), "GC0203", "misses its argument `O`"),
    (body("use fc = dense(D, H, D)"), "GC0203", "`I`, `O`"),
    (body("use fc = dense(D, H)\nz = fc()"), "GC0203", "misses its argument `x`"),
    (body("use fc = dense(D, H)\nz = fc(x, y)"), "GC0203", "takes 1 argument"),
    (body("param w: float[D] ~ normal(0.1, 0, 3)"), "GC0203", "takes 2 arguments"),
    (body("param w: float[D] ~ constant"), "GC0203", "misses its argument `value`"),
    (expression("max(x, 1, axis = 0)"), "GC0203", "has no `axis`"),
    (expression("f(x)", "fn f(a: float[...]) { b = a }"), "GC0204", "function `f`"),
    (expression("f(x)", "fn f(a: float[...]) { if D > 9 { return a } }"), "GC0204", "`f`"),
    (body("use s = s1(2)", "layer s1(K) { use t = s1(K)\napply(a: float) { return a } }"),
     "GC0205", "`s1` calls itself"),
    (expression("f(x)", "fn f(a: float[...]) { return g(a) }\nfn g(a: float[...]) { return f(a) }"),
     "GC0205", "calls itself"),
    (expression("x(1)"), "GC0206", "cannot be called"),
    (expression("dense(D, H)"), "GC0206", "make an instance first"),
    (body("use blocks = square(D) * 2\nz = blocks(x)", SQUARE), "GC0206", "for b in blocks"),
    (body("use t = twice(2)", TWICE), "GC0206", "call them without `use`"),
    (expression("3(x)"), "GC0206", "write `*`"),
    (expression("random_normal([3])"), "GC0207", "`sample`"),
    (body("use fc = dense(D, H)\nz = fc.bias"), "GC0209", "no part `bias`"),
    (expression("x.t"), "GC0209", "the only attribute of an array is `.T`"),
    (expression("D.T"), "GC0209", "no part `T`"),
    (body("a, b = x"), "GC0216", "2 names are assigned one value"),
    (body("a, b = x, y, v"), "GC0216", "3 values"),
    # shapes and types
    (expression("x + y"), "GC0301", "`D` against `H`"),
    (expression("x * v[:, None]"), "GC0301", "`x` is float[B, D]"),
    (expression("where(x > 0, x, y)"), "GC0301", "`where`"),
    (expression("where(m, x, x)"), "GC0301", "`where`"),
    (expression("max(x, y)"), "GC0301", "`max`"),
    (expression("concat([x, y], axis = 0)"), "GC0301", "`concat`"),
    (expression("stack([x, y])"), "GC0301", "`stack`"),
    (expression("broadcast(x, [D, B])"), "GC0301", "does not stretch"),
    (expression("twice(x) + twice(y)", TWICE), "GC0301", "this is float[B, D]"),
    (expression("x @ y"), "GC0302", "inner sizes are `D` and `B`"),
    (expression("y.T @ x.T"), "GC0302", "do not multiply"),
    (expression("x @ x"), "GC0302", "`a @ b.T`"),
    (expression("x @ 2"), "GC0302", "not the number `2`"),
    (expression("x @ sum(v)"), "GC0302", "`float`"),
    (expression("zeros([2, 3, 4]) @ zeros([5, 4, 2])"), "GC0302", "stacks of matrices"),
    (expression('einsum("bi,bj->ij", x, zeros([3, 2]))'), "GC0302", "axis `b`"),
    (expression("conv2d(x, zeros([1, 1, 2, 2]))"), "GC0302", "[batch, channels, height, width]"),
    (expression("conv2d(zeros([1, 3, 8, 8]), zeros([4, 2, 3, 3]))"), "GC0302", ("3 channels "
                                                                               "against 2")),
    (expression("conv2d(zeros([1, 2, 2, 8]), zeros([4, 2, 3, 3]))"), "GC0302", ("larger than the "
                                                                               "padded")),
    (expression("conv3d(zeros([1, 2, 8, 8]), ones([4, 2, 3, 3, 3]))"), "GC0302", "depth, height"),
    (expression("conv_transpose1d(zeros([1, 3, 8]), ones([4, 2, 3]))"), "GC0302",
     "[inputs, outputs / groups, length]"),
    (expression("conv_transpose1d(zeros([1, 2, 1]), ones([2, 2, 3]), padding = 2)"), "GC0302",
     "leaves nothing"),
    (expression("max_pool(zeros([1, 2, 2]), 3)"), "GC0302", "window of 3 is larger"),
    (expression("max_pool(zeros([2, 2]), 3)"), "GC0302", "[batch, channels, length]"),
    (expression('conv1d(zeros([1, 2, 8]), ones([2, 2, 3]), padding = "full")'), "GC0308",
     "causal"),
    (expression("conv3d(zeros([1, 2, 8, 8, 8]), ones([2, 2, 3, 3, 3]), stride = (1, 2))"),
     "GC0308", "one number or 3"),
    (expression('conv2d(zeros([1, 2, 8, 8]), ones([2, 2, 3, 3]), padding = "causal")'), "GC0405",
     "sequences"),
    (expression('conv1d(zeros([1, 2, 8]), ones([2, 2, 3]), padding = "same", stride = 2)'),
     "GC0405", "keeps sizes"),
    (expression("conv_transpose1d(zeros([1, 2, 8]), ones([2, 2, 3]), output_padding = 1)"),
     "GC0405", "less than the stride"),
    (expression("max_pool(zeros([1, 2, 2, 8]), 3)"), "GC0302", "window of 3 x 3"),
    (expression("max_pool(zeros([1, 2, 8, 8]), 2, padding = 2)"), "GC0302", "must be less"),
    (expression("n * 0.5"), "GC0303", "cast(x, float)"),
    (expression("cast(n, float) + n"), "GC0303", "element types differ"),
    (expression("exp(n)"), "GC0303", "floating-point"),
    (expression("mean(n)"), "GC0303", "floating-point"),
    (expression("m + m"), "GC0303", "`bool`"),
    (expression("sum(m)"), "GC0303", "count with"),
    (expression("n / n"), "GC0303", "`//`"),
    (expression("x // x"), "GC0303", "floor(a / b)"),
    (expression("x and m"), "GC0303", "`and` of `float` and `bool`"),
    (expression("x > 0 and x"), "GC0303", "element types differ"),
    (expression("where(x, 1, 2)"), "GC0303", "where(x > 0, a, b)"),
    (expression("-m"), "GC0303", "not"),
    (expression("not x"), "GC0308", "not (x > 0)"),
    (expression("x + true"), "GC0303", "do not mix"),
    (expression("cast(x, f64) * x"), "GC0303", "`f64` and `float`"),
    (expression("n^0.5"), "GC0303", "powers 1 to 4"),
    (expression("one_hot(x, 3)"), "GC0303", "takes integers"),
    (body("state s: float ~ zeros\nif training { state s = v }"), "GC0303", "holds `float`"),
    (expression("twice(n)", TWICE), "GC0304", "`a: float[...]`"),
    (expression("f(x)", "fn f(a: float[B, H]) { return a }"), "GC0304", "`H` does not match `D`"),
    (expression("f(v)", "fn f(a: float[B, D]) { return a }"), "GC0304", "2 dimensions, found 1"),
    (expression("f(sum(v))", "fn f(a: float[..., Z]) { return a }"), "GC0304", "at least 1"),
    (expression("f(y)", "fn f(a: float[B, 2*Z]) { return a }"), "GC0304", "no `Z` makes `2*Z"),
    (expression("f(x)", "fn f(a: float[Z, Z]) { return a }"), "GC0304", ("`Z = B` does not match "
                                                                        "`D`")),
    (expression("f([1, 2])", "fn f(a: float[2]) { return a }"), "GC0304", "a list"),
    (expression("f(x)", "fn f(a: float[B, D]) -> float[B] { return a }"), "GC0305", "2"),
    (expression("f(x)", "fn f(a: float[...]) -> (float, float) { return a }"), "GC0305",
    "2 declared"),
    ("model net(x: float[3]) -> float { return x }", "GC0305", "declared as the result"),
    ("model net(x: float) -> float { return x, x }", "GC0305", "returns one value"),
    (expression("sum(x, axis = 5)"), "GC0306", "axes 0 to 1"),
    (expression("sum(x, axis = [0, -2])"), "GC0306", "named twice"),
    (expression("sum(x, axis = 0.5)"), "GC0306", "known integer"),
    (expression("transpose(x, [0, 0])"), "GC0306", "each axis"),
    (expression("argmax(sum(v), axis = 0)"), "GC0306", "is a scalar"),
    (expression("reshape(x, [B, 5])"), "GC0307", "elements"),
    (expression("zeros([Z // 3]) + zeros([W // 3])", "dim Z, W"), "GC0301", "against"),
    (expression("reshape(zeros([Z]), [N, Z // H])", "dim Z"), "GC0307", "leave a rest"),
    (expression("reshape(x, [-1, -1])"), "GC0307", "at most one -1"),
    (expression("split(x, 3, axis = 1)"), "GC0307", "3 equal parts"),
    (expression("split(x, [1, 2], axis = 1)"), "GC0307", "add up to 3"),
    (expression("squeeze(x, 1)"), "GC0307", "size 1"),
    (expression("pad(x, [1, 2, 3])"), "GC0307", "2 axes"),
    (expression("pad(x, -1)"), "GC0307", "at least 0"),
    (expression("concat(x)"), "GC0308", "list of arrays"),
    (expression("concat([])"), "GC0308", "empty"),
    (expression("x + [1, 2]"), "GC0308", "not a list"),
    (expression("sum(x, keepdims = 1)"), "GC0308", "`true` or `false`"),
    (expression("cast(x, 3)"), "GC0308", "such as `float`"),
    (expression("relu(dense)"), "GC0308", "the layer `dense`"),
    (expression("v.T"), "GC0308", "transposes matrices"),
    (expression("true and 1"), "GC0308", "joins conditions"),
    (body("param w: float ~ 0.5"), "GC0308", "constant(0.5)"),
    (body("scan a in x carry h = v { h = sum(h) }"), "GC0309", "is carried as `float[D]`"),
    (body("scan a in sum(v) carry h = v { h = h }"), "GC0310", "first axis"),
    (body("scan a in x, b in v carry h = v { h = h }"), "GC0310", "B and D slices"),
    (body("a, b = scan c in x carry h = v { yield c }"), "GC0310", "1 value and"),
    (body("a = scan c in x carry h = v { yield c\nyield c }"), "GC0310", "once"),
    (expression("x[0, 0, 0]"), "GC0311", "3 indices for 2 axes"),
    (expression("v[9]"), "GC0311", "out of range"),
    (expression("x[v]"), "GC0311", "cast(i, int)"),
    (expression("x[m]"), "GC0311", "where(mask, x, 0)"),
    (expression("x[n, n]"), "GC0311", "only one array"),
    (expression("x[::0]"), "GC0311", "other than 0"),
    (expression("x[::-2]"), "GC0311", "backwards"),
    (expression("x[0.5]"), "GC0311", "number `0.5`"),
    (expression("x[0.5:]"), "GC0311", "slices take"),
    (expression("D[0]"), "GC0311", "cannot be indexed"),
    (body("use blocks = square(D) * 2\nz = blocks[2](x)", SQUARE), "GC0311", "has 2 parts"),
    (body("param w: int[3] ~ zeros"), "GC0313", "no derivative"),
    ("model net(x: int) -> int { return x }", "GC0313", "floating-point loss"),
    (expression('einsum("bd", x)'), "GC0314", "no `->`"),
    (expression('einsum("bd,d->b", x)'), "GC0314", "names 2 operands"),
    (expression('einsum("bd->bq", x)'), "GC0314", "`q` of the result"),
    (expression('einsum("b d->bb", x)'), "GC0314", "twice"),
    (expression('einsum("b1->b", x)'), "GC0314", "letters"),
    (expression("einsum(x, x)"), "GC0314", "begins with a text"),
    # compile-time values
    (body("if x > 0 { z = 1 }"), "GC0401", "where(condition, a, b)"),
    (body("if D { z = 1 }"), "GC0401", "takes a condition"),
    (body("for b in x { z = b }"), "GC0401", "scan x in xs"),
    (body("use fc = dense(D, D)\nfor b in fc { z = b }"), "GC0401", "* 4"),
    (body("use fc = dense(D, D) * 2.5"), "GC0401", "number of layers"),
    (body("use fc = dense(D, D) * -1"), "GC0401", "number of layers"),
    (expression("split(x, n)"), "GC0401", "number of parts"),
    (expression("dropout(x, sum(v))"), "GC0401", "before running"),
    (expression("leaky_relu(x, v)"), "GC0401", "before running"),
    (body("scan a in x carry h = v truncate 0 { h = h }"), "GC0401", "at least 1"),
    (body("param w: float[n] ~ zeros"), "GC0401", "known before running"),
    (expression("zeros([D / 2])"), "GC0402", "this is the number"),
    (expression("reshape(x, 2.5)"), "GC0402", "a shape is a list"),
    (expression("iota(2.5)"), "GC0402", "takes a dimension"),
    (body("dim k = 1.5"), "GC0402", "use `//`"),
    ("dim D = 1.5\nmodel net(x: float[D]) -> float { return sum(x) }", "GC0402", "`D`"),
    ("model net(x: float[2.5]) -> float { return sum(x) }", "GC0402", "this is 2.5"),
    (expression("9223372036854775807 * 2"), "GC0402", "beyond 64 bits"),
    (expression("D // (H - H)"), "GC0403", "divided by zero"),
    (expression("zeros([-3])"), "GC0405", "cannot be negative"),
    ("dim D = -3\nmodel net(x: float[D]) -> float { return sum(x) }", "GC0405", "`D` is -3"),
    ("model net(x: float[2 - 5]) -> float { return sum(x) }", "GC0405", "this is -3"),
    (expression("split(x, 0)"), "GC0405", "at least 1"),
    (expression("conv2d(zeros([1, 1, 4, 4]), zeros([1, 1, 2, 2]), stride = 0)"), "GC0405",
    "stride"),
    # declarations that no model uses
    (body("", "fn f(a: float) -> float { return b }"), "GC0201", "no `b`"),
    (body("", "fn f(a: float[3]) -> float { return sum(a @ ones([4])) }"), "GC0302", "multiply"),
    (body("", "layer l(K) { apply(a: float[K]) { return a + q } }"), "GC0201", "no `q`"),
    (body("", "layer l(K = 2) { apply(a: float[K]) { return a + ones([3]) } }"), "GC0301", "`+`"),
    (body("", "optimizer o(lr) { update(p, g, t) { return p - rate * g } }"), "GC0201", "`rate`"),
    (body("", "optimizer o(lr) { update(p, g) { return p - lr * g } }"), "GC0203", "(p, g, t)"),
    (body("", "optimizer o(lr) { state s ~ normal\nupdate(p, g, t) { return p } }"), "GC0208",
    "zeros"),
    (body("", "schedule s(peak) { at(t) { return peek } }"), "GC0201", "did you mean `peak`"),
    (body("", "schedule s(peak) { at(t) { r = peak } }"), "GC0204", "schedule `s`"),
    (body("", "initializer i { sample(shape) { return ones(shap) } }"), "GC0201", "`shape`"),
    (body("", "fn f(a: float) -> float { return a\npullback(ct, more) { return ct } }"), "GC0305",
    "per result"),
    (body("", "fn f(a: float) -> float { return a\npullback(ct) { return ct, ct } }"), "GC0305",
    "1 of them"),
    (body("", "fn f(a: float[3]) -> float[3] { return a\npullback(ct) { return sum(ct) } }"),
     "GC0305", "the cotangent of `a` must be `float[3]`"),
    (body("", "fn f(a: float) -> float { return a\npullback(ct) { b = ct } }"), "GC0204",
    "`pullback`"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "code", "words"), CASES)
def test_mistakes_are_called_by_their_name(text: str, code: str, words: str) -> None:
    found, shown = findings(text)
    errors = [d for d in found if d.severity == "error"]
    assert [d.code for d in errors] == [code], shown
    assert words in shown


def test_names_in_the_branch_not_taken_are_looked_at() -> None:
    text = """
    if D > 9 {
        a, b = split(x, 2, axis = num)
        use fc = dens(D, H)
        for f in fcs { c = f(a, axes = b) }
        ys = scan r in rows carry h = v { yield r + h }
        state s = e
        output missing
    } else { x = x }
    """
    found, shown = findings(body(text))
    names = [d.message.split("`")[1] for d in found if d.code == "GC0201"]
    assert names == ["num", "dens", "fcs", "rows", "e"], shown
    quiet = (
        "if D > 9 { a = fancy + 1\nfancy = a.T\nparam p: float[D] ~ odd(D)\n"
        "b = state s } else { a = x }"
    )
    assert [d for d in findings(body(quiet))[0] if d.severity == "error"] == []


def test_several_mistakes_are_found_in_one_run() -> None:
    text = body(
        "a = x + y\nb = a * 2\nc = sofmax(b)\nd = x @ y\nuse e = dense(D)\nf = e(x)\ng = sum(n, "
        "axis = 3)"
    )
    found, _ = findings(text)
    assert [d.code for d in found] == ["GC0301", "GC0201", "GC0302", "GC0203", "GC0306"]


@pytest.mark.parametrize(
    ("statements", "code"),
    [
        ("if trainin { z = 1\nreturn z } else { z = x }\na = z + y", "GC0201"),
        ("if sum(x) > 0 { z = 1 } else { z = x }\na = z + y", "GC0401"),
        ("for i in x { z = 1 }\na = z + y", "GC0401"),
        ("for i in xs { z = i }\na = z + y", "GC0201"),
        ("use f = dens(D, H)\na = f(x) + f.w\nb = a @ y", "GC0201"),
        ("zs = scan r in q carry h = v { yield h }\na = zs + h + y", "GC0201"),
        ("param w: float[Q] ~ zeros\nstate s: float[Q] ~ zeros\na = w + state s + y", "GC0201"),
        ("a, b = y + x\nc = a + b", "GC0301"),
        ("a = f(x)\nb = f(y)", "GC0304"),
    ],
)
def test_one_mistake_gives_one_diagnostic(statements: str, code: str) -> None:
    before = "fn f(a: float[B, 7 // Z + D]) -> float[B] { return sum(a, axis = 1) }"
    found, shown = findings(body(statements, before if code == "GC0304" else ""))
    places = {(d.code, d.message) for d in found if d.severity == "error"}
    assert {d[0] for d in places} == {code}, shown
    assert len(places) <= 2


def test_a_mistake_in_a_layer_is_reported_once_with_the_place_of_its_use() -> None:
    before = "layer l(K) { apply(a: float[..., K]) { return a + ones([K + 1]) } }"
    found, shown = findings(body("use ls = l(D) * 3\nfor one in ls { z = one(x) }", before))
    assert [d.code for d in found] == ["GC0301"]
    assert "used: at example.grad:5" in shown


def test_branches_for_training_and_use_are_both_checked() -> None:
    found, _ = findings(body("if training { a = x + 1 } else { a = x + y }"))
    assert [d.code for d in found] == ["GC0301"]


@pytest.mark.parametrize(
    ("statements", "code", "name"),
    [
        ("param w: float[D] ~ zeros", "GC0210", "`w`"),
        ("use fc = dense(D, H)\nz = fc(x)", "GC0211", "`fc.w`"),
        ("param w: float[D] ~ zeros\nz = floor(w)\nx = x + z", "GC0211", "`w`"),
        ("param w: float[D] ~ zeros\nx = where(w > 0, x, 0)", "GC0211", "`w`"),
    ],
)
def test_warnings_name_what_is_in_vain(statements: str, code: str, name: str) -> None:
    found, shown = findings(body(statements))
    assert all(d.severity == "warning" for d in found), shown
    assert any(d.code == code and name in d.message for d in found), shown


def test_types_are_called_as_the_program_calls_them() -> None:
    _, shown = findings("dim B\nmodel m(x: float[B, 3]) -> float { return sum(x @ x) }")
    assert "`float[B, 3]` @ `float[B, 3]`" in shown and "f32" not in shown
    _, shown = findings("dim B\nmodel m(x: f32[B, 3]) -> float { return sum(x @ x) }")
    assert "`f32[B, 3]` @ `f32[B, 3]`" in shown
    _, shown = findings(
        "dim B\nmodel m(x: f64[B, 3], y: float[B, 3]) -> float { return sum(x * y) }"
    )
    assert "`f64` and `float`" in shown and "`y` is float[B, 3]" in shown


def test_a_dead_end_names_every_instance() -> None:
    text = "model m(x: float[2, 3]) -> float {\n use fs = dense(3, 3) * 3\n h = x\n"
    _, shown = findings(text + " for f in fs { h = h + floor(f(h)) }\n return sum(h) }")
    assert "parameters `fs.0.w`, `fs.1.w`, `fs.2.w`, `fs.0.b`, `fs.1.b`, `fs.2.b` do not" in shown
