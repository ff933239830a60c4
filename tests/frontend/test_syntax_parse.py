"""The grammar: what programs parse to, against an independent parser where there is one."""

from __future__ import annotations

import ast
import random
from pathlib import Path

import pytest

from gradc.frontend.syntax import tree as s
from gradc.frontend.syntax.parse import parse_text
from gradc.frontend.syntax.unparse import dump, unparse
from gradc.frontend.syntax.walk import depth, walk

PROGRAMS = sorted((Path(__file__).parent.parent / "programs").glob("*.grad"))
EXAMPLES = sorted((Path(__file__).parent.parent.parent / "examples").rglob("*.grad"))
PYTHON_OPERATORS: dict[type[ast.AST], str] = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%",
    ast.MatMult: "@", ast.Pow: "^", ast.USub: "-", ast.UAdd: "+", ast.Not: "not", ast.Lt: "<",
    ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=", ast.And: "and",
    ast.Or: "or",
}  # fmt: skip


def expression(text: str) -> s.Expr:
    """The tree of one expression."""
    (declaration,) = parse_text(f"fn f(x: float) -> float {{ return {text} }}").declarations
    assert isinstance(declaration, s.Function)
    (statement,) = declaration.body
    assert isinstance(statement, s.Return)
    (value,) = statement.values
    return value


def bracketed(expr: s.Expr) -> str:
    """An expression with every operation in brackets, folded to the left."""
    match expr:
        case s.Chain(first=first, rest=rest):
            text = bracketed(first)
            for link in rest:
                text = f"({text} {link.operator} {bracketed(link.operand)})"
            return text
        case s.Unary(operator=operator, operand=operand):
            return f"({operator} {bracketed(operand)})"
        case s.Name(text=text):
            return text
    raise AssertionError(type(expr))


def python_bracketed(node: ast.expr) -> str:
    """The same of a Python expression."""
    match node:
        case ast.BinOp(left=left, op=op, right=right):
            return (
                f"({python_bracketed(left)} {PYTHON_OPERATORS[type(op)]} {python_bracketed(right)})"
            )
        case ast.UnaryOp(op=op, operand=operand):
            return f"({PYTHON_OPERATORS[type(op)]} {python_bracketed(operand)})"
        case ast.Compare(left=left, ops=[op], comparators=[right]):
            return (
                f"({python_bracketed(left)} {PYTHON_OPERATORS[type(op)]} {python_bracketed(right)})"
            )
        case ast.BoolOp(op=op, values=values):
            text = python_bracketed(values[0])
            for value in values[1:]:
                text = f"({text} {PYTHON_OPERATORS[type(op)]} {python_bracketed(value)})"
            return text
        case ast.Name(id=name):
            return name
    raise AssertionError(ast.dump(node))


def random_operations(rng: random.Random, count: int) -> str:
    """Operands and operators in a row, with at most one comparison so that none chain."""
    binary = ["+", "-", "*", "/", "//", "%", "@", "^"]
    words: list[str] = []
    compared = False
    for position in range(count):
        if position:
            choice = rng.choice([*binary, "and", "or", "<"])
            if choice == "<":
                choice = "+" if compared else rng.choice(["<", "<=", ">", ">=", "==", "!="])
                compared = compared or choice != "+"
            if choice in ("and", "or"):
                compared = False
            words.append(choice)
        may_negate = not words or words[-1] in ("and", "or")
        words += rng.choice([[], [], ["-"], ["not"] if may_negate else ["+"]])
        words.append(rng.choice("abcdx"))
    return " ".join(words)


@pytest.mark.parametrize("seed", range(40))
def test_precedence_is_that_of_python(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(15):
        text = random_operations(rng, rng.randint(1, 9))
        python = ast.parse(text.replace("^", "**"), mode="eval").body
        assert bracketed(expression(text)) == python_bracketed(python), text


@pytest.mark.parametrize("path", [*PROGRAMS, *EXAMPLES], ids=lambda p: p.name)
def test_every_program_parses_and_prints_back(path: Path) -> None:
    program = parse_text(path.read_text(encoding="utf-8"), path.name)
    assert program.declarations
    assert parse_text(unparse(program)) == program


def test_the_programs_of_the_language_page_are_all_there() -> None:
    kinds = {type(d) for path in PROGRAMS for d in parse_text(path.read_text()).declarations}
    assert {s.Model, s.Layer, s.Function, s.Optimizer, s.Schedule, s.DimDeclaration} <= kinds
    statements = {type(n) for p in PROGRAMS for n in walk(parse_text(p.read_text()))}
    assert {s.Scan, s.Yield, s.Checkpoint, s.For, s.If, s.StateWrite, s.StateRead} <= statements
    assert {s.Output, s.Pullback, s.Slice, s.UseDeclaration} <= statements | {s.Slice}


def test_spans_cover_the_text_of_every_node() -> None:
    for path in PROGRAMS:
        text = path.read_text()
        lines = text.split("\n")
        for node in walk(parse_text(text, path.name)):
            span = node.span
            assert span.file == path.name
            assert (span.line, span.column) <= (span.end_line, span.end_column)
            if span.line == span.end_line:
                cut = lines[span.line - 1][span.column - 1 : span.end_column - 1]
                assert cut == cut.strip()
                if isinstance(node, s.Name):
                    assert cut == node.text
                if isinstance(node, s.Expr):
                    assert expression(cut) == node if not isinstance(node, s.TupleExpr) else True


def test_a_bracketed_operand_is_inside_the_span_of_its_operation() -> None:
    tree = expression("(a + b) * c")
    assert isinstance(tree, s.Chain)
    assert tree.span.column == tree.first.span.column
    assert tree.prefix_span(0) == tree.first.span
    assert tree.prefix_span(1).end_column == tree.rest[0].operand.span.end_column


def test_long_sums_are_flat_and_right_powers_nest() -> None:
    tree = expression(" + ".join(["a"] * 5000))
    assert isinstance(tree, s.Chain)
    assert len(tree.rest) == 4999
    assert depth(tree) == 3
    assert bracketed(expression("a ^ b ^ -c ^ d")) == "(a ^ (b ^ (- (c ^ d))))"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x[:, 0]", "x[:, 0]"),
        ("x[..., 1:]", "x[..., 1:]"),
        ("x[None, ::-1, a:b:2]", "x[None, ::-1, a:b:2]"),
        ("x[-1]", "x[-1]"),
        ("x[1:,]", "x[1:]"),
        ("f(a, axis = -1,)", "f(a, axis = -1)"),
        ("f()(x)[0].T", "f()(x)[0].T"),
        ("emb.w.T", "emb.w.T"),
        ("blocks[0](x)", "blocks[0](x)"),
        ("[B, T, D // N]", "[B, T, D // N]"),
        ("(1,)", "(1,)"),
        ("()", "()"),
        ("((a))", "a"),
        ("1_000 + .5 + 1. + 2e3", "1000 + 0.5 + 1.0 + 2000.0"),
        ("not a and b", "not a and b"),
        ("not (a and b)", "not (a and b)"),
        ("(a ^ b) ^ c", "(a^b)^c"),
        ("(-a) ^ 2 - -a ^ 2", "(-a)^2 - -a^2"),
        ("a - (b - c)", "a - (b - c)"),
        ("state mean * 2", "state mean * 2"),
        ('einsum("ij,jk", a)', 'einsum("ij,jk", a)'),
        ("true or false", "true or false"),
    ],
)
def test_expressions_print_canonically(text: str, expected: str) -> None:
    assert unparse(expression(text)) == expected


def test_index_items() -> None:
    tree = expression("x[..., None, 1:, i]")
    assert isinstance(tree, s.Index)
    kinds = [type(item) for item in tree.items]
    assert kinds == [s.Ellipsis, s.NewAxis, s.Slice, s.Name]


@pytest.mark.parametrize(
    "text",
    [
        "a = x; b = a; return b",
        "a = x;; b = a;\n\n return b\n",
        "a = (x +\n\n  1) # c\n b = a\n return b",
        "a = x # one; b = 3\n b = a\n return b",
        "\n\n a = x\n\n\n b = a\n return b\n\n",
    ],
)
def test_newlines_and_semicolons_separate_statements(text: str) -> None:
    (declaration,) = parse_text(f"fn f(x: float) -> float {{{text}}}").declarations
    assert isinstance(declaration, s.Function)
    assert [type(x) for x in declaration.body] == [s.Assign, s.Assign, s.Return]


def test_braces_and_else_may_start_a_line() -> None:
    text = (
        "fn f(x: float) -> float\n{\n if a\n {\n  y = x\n }\n else\n {\n  y = 1\n }\n return y\n}"
    )
    compact = "fn f(x: float) -> float { if a { y = x } else { y = 1 }; return y }"
    assert parse_text(text) == parse_text(compact)


def test_contextual_words_are_names() -> None:
    text = "fn f(apply: float, at: float, update: float, sample: float, training: float) -> float {"
    assert parse_text(text + " return apply + at + update + sample + training }").declarations


def test_scan_parts() -> None:
    text = """fn f(xs: float[T], ys: float[T]) -> float {
        a, b = scan x in xs, y in ys, t in iota(T) carry h = 0.0, c = x truncate 2 * k {
            yield h, c
        }
        scan x in xs { yield x }
        return h
    }"""
    (declaration,) = parse_text(text).declarations
    assert isinstance(declaration, s.Function)
    scan, bare, _ = declaration.body
    assert isinstance(scan, s.Scan)
    assert isinstance(bare, s.Scan)
    assert [n.text for n in scan.targets] == ["a", "b"]
    assert [i.target.text for i in scan.inputs] == ["x", "y", "t"]
    assert [c.name.text for c in scan.carries] == ["h", "c"]
    assert scan.truncate is not None
    assert not bare.targets and not bare.carries
    assert bare.truncate is None


def test_pullback_is_a_part_of_its_function() -> None:
    (_, declaration) = parse_text((PROGRAMS[0].parent / "functions.grad").read_text()).declarations
    assert isinstance(declaration, s.Function)
    assert declaration.pullback is not None
    assert [p.name.text for p in declaration.pullback.parameters] == ["ct"]
    assert [type(x) for x in declaration.body] == [s.Return]


def test_else_if_nests_and_a_use_counts() -> None:
    text = """model m(x: float) -> float {
        use blocks = block(D, N) * 2*L
        if a { y = x } else if b { y = 1 } else { y = 2 }
        return y
    }"""
    (declaration,) = parse_text(text).declarations
    assert isinstance(declaration, s.Model)
    use, choice, _ = declaration.body
    assert isinstance(use, s.UseDeclaration)
    assert use.count is not None
    assert unparse(use.count) == "2 * L"
    assert isinstance(choice, s.If)
    (inner,) = choice.otherwise
    assert isinstance(inner, s.If)
    assert len(inner.otherwise) == 1


def test_an_empty_file_and_a_file_of_comments_are_programs() -> None:
    for text in ("", "\n", "# nothing\n", "\n\n # nothing"):
        assert parse_text(text).declarations == ()


def test_dump_is_stable() -> None:
    text = "dim B, D = 4\nfn f(x: float[..., D]) -> float { return -x[0] ^ 2 }\n"
    assert dump(parse_text(text)) == (
        "Program @1:1-2:53\n"
        "  declarations[0]: DimDeclaration @1:1-1:13\n"
        "    entries[0]: DimEntry @1:5-1:6\n"
        "      name: Name 'B' @1:5-1:6\n"
        "    entries[1]: DimEntry @1:8-1:13\n"
        "      name: Name 'D' @1:8-1:9\n"
        "      default: IntLiteral 4 @1:12-1:13\n"
        "  declarations[1]: Function @2:1-2:53\n"
        "    name: Name 'f' @2:4-2:5\n"
        "    parameters[0]: Parameter @2:6-2:22\n"
        "      name: Name 'x' @2:6-2:7\n"
        "      type: TypeExpr @2:9-2:22\n"
        "        element: Name 'float' @2:9-2:14\n"
        "        dims[0]: Ellipsis @2:15-2:18\n"
        "        dims[1]: Name 'D' @2:20-2:21\n"
        "    results[0]: TypeExpr @2:27-2:32\n"
        "      element: Name 'float' @2:27-2:32\n"
        "    body[0]: Return @2:35-2:51\n"
        "      values[0]: Unary '-' @2:42-2:51\n"
        "        operand: Chain @2:43-2:51\n"
        "          first: Index @2:43-2:47\n"
        "            base: Name 'x' @2:43-2:44\n"
        "            items[0]: IntLiteral 0 @2:45-2:46\n"
        "          rest[0]: Link '^' @2:48-2:51\n"
        "            operand: IntLiteral 2 @2:50-2:51\n"
    )
