"""The codes of files, limits (GC00..) and syntax (GC01..)."""

from __future__ import annotations

from gradc.frontend.codes.codes import Code
from gradc.frontend.syntax.limits import (
    MAX_BLOCKS,
    MAX_FILE_BYTES,
    MAX_IMPORT_DEPTH,
    MAX_IMPORTED_FILES,
    MAX_INTEGER,
    MAX_NAME_LENGTH,
    MAX_NESTING,
    MAX_TOKENS,
    MAX_TREE_DEPTH,
)

_FILES = (
    Code(
        "GC0001",
        "a file cannot be read",
        "The operating system refused to open or read the file; the message gives its reason. "
        "Check the\n"
        "path, that it is a file and not a directory, and its permissions.",
    ),
    Code(
        "GC0002",
        "a file is too large",
        f"A program file has at most {MAX_FILE_BYTES} bytes. A model of a hundred layers takes "
        "about two\n"
        "thousand, so a larger file is almost surely data and not a program. Weights and data are\n"
        "passed separately; long programs can be split with `import`.",
    ),
    Code(
        "GC0003",
        "a file is not UTF-8",
        "Programs are UTF-8 text (a leading byte order mark is accepted and dropped). The "
        "message names\n"
        "the first byte that is not. Save the file as UTF-8.",
    ),
    Code(
        "GC0004",
        "a character has no meaning here",
        "Programs are written with ASCII characters; other letters may stand in comments and "
        "strings.\n"
        "Names are ASCII so that they can become names in C headers and file formats unchanged.\n"
        "Characters that look like operators, such as a typographic minus or quotation mark, come\n"
        "from copying out of a document: type them again.",
        "fn f(β: float) -> float { return 2 × β }",
    ),
    Code(
        "GC0005",
        "an invisible or control character",
        "Control characters, zero-width characters and marks that change the direction of text "
        "can\n"
        "make a program look different from what it means, so they are refused everywhere, also "
        "in\n"
        "comments and strings.",
        "# a comment that \u202e turns around\ndim B",
    ),
    Code(
        "GC0006",
        "too many tokens",
        f"A program file has at most {MAX_TOKENS} tokens (names, numbers, operators, brackets). "
        "Use `for`\n"
        "over repeated layers instead of writing them out, or split the file with `import`.",
    ),
    Code(
        "GC0007",
        "nesting is too deep",
        f"At most {MAX_NESTING} brackets, {MAX_BLOCKS} of them braces, may be open at once, and "
        "the syntax\n"
        f"tree may be {MAX_TREE_DEPTH} levels deep, counting operators, calls and arguments. "
        "Long sums and\n"
        "products do not nest. Give parts of the expression names.",
        "fn f(x: float) -> float { return " + "(" * 201 + "x" + ")" * 201 + " }",
    ),
    Code(
        "GC0008",
        "a number is out of range",
        f"Integers go up to {MAX_INTEGER}. Real numbers are read as 64-bit floats: one that "
        "would become\n"
        "infinite is refused, and so is one that is not zero but would become zero.",
        "fn f(x: float) -> float { return x * 1e999 + 1e-999 }",
    ),
    Code(
        "GC0009",
        "a number is not well formed",
        "Numbers are decimal: `12`, `1_000`, `0.5`, `.5`, `1e-5`. There are no hexadecimal, "
        "binary or\n"
        "imaginary numbers and no suffixes.",
        "fn f(x: float) -> float { return x * 0x1F + 1.2.3 }",
    ),
    Code(
        "GC0010",
        "an imported file cannot be found",
        "`import` names a `.grad` file by its path relative to the file that imports it. A "
        "program that\n"
        "was passed as a string and has no directory cannot import.",
    ),
    Code(
        "GC0011",
        "an import leads out of the project",
        "Everything that a program can import lies in the project directory: the directory of "
        "the file\n"
        "that was given to gradc, and what is below it. Absolute paths, `..` and symbolic links "
        "that\n"
        "lead out of it are refused, so that checking a program of unknown origin reads nothing "
        "else.",
    ),
    Code(
        "GC0012",
        "imports go in a circle",
        "A file imports itself, directly or through others. Move what both need into a third file.",
    ),
    Code(
        "GC0013",
        "too many imports",
        f"Imports may be {MAX_IMPORT_DEPTH} levels deep and {MAX_IMPORTED_FILES} files in all. "
        "Put\n"
        "declarations that belong together into one file.",
    ),
    Code(
        "GC0014",
        "a name is too long",
        f"Names have at most {MAX_NAME_LENGTH} characters, so that they fit into the names of C "
        "symbols\n"
        "and of the entries of weight files.",
        "dim " + "B" * 256,
    ),
)

_SYNTAX = (
    Code(
        "GC0101",
        "something unexpected",
        "The text does not fit the grammar at this place. The message says what was found and "
        "what\n"
        "could have stood there. Later lines are still checked.",
        "model m(x: float[3]) -> float {\n    output x y\n    return sum(x)\n}",
    ),
    Code(
        "GC0102",
        "a reserved word used as a name",
        "These words cannot be names: and carry checkpoint dim else false fn for if import in\n"
        "initializer layer model not optimizer or output param pullback return scan schedule "
        "state\n"
        "true truncate use yield.",
        "layer l(I) {\n    param output: float[I] ~ zeros\n"
        "    apply(x: float[I]) -> float[I] { return x }\n}",
    ),
    Code(
        "GC0103",
        "an operator of another language",
        "Powers are written `^`, logic is written `and`, `or`, `not`, inequality `!=`.",
        "fn square(x: float) -> float { return x ** 2 }",
    ),
    Code(
        "GC0104",
        "a bracket is never closed",
        "The message points at the bracket that was opened. A round or square bracket must close "
        "before\n"
        "the statement ends; a brace before the next declaration or the end of the file.",
        "fn f(x: float) -> float {\n    y = exp(x\n    return y\n}",
    ),
    Code(
        "GC0105",
        "a bracket closes nothing",
        "There is a closing bracket without an opening one, or of another kind than the "
        "innermost open\n"
        "one, which the message shows.",
        "fn f(x: float) -> float { return exp(x)) }",
    ),
    Code(
        "GC0106",
        "a string is not closed, or stands in single quotes",
        "Strings stand in double quotes on one line and have no escapes.",
        "fn f(x: float[2, 2]) -> float { return sum(einsum('ij->ji', x)) }",
    ),
    Code(
        "GC0107",
        "a value is missing",
        "An operator, a comma or a word such as `return` is followed by nothing. A newline ends a\n"
        "statement unless a round or square bracket is open, so break long expressions inside "
        "brackets.",
        "fn f(x: float) -> float {\n    y = x +\n        1\n    return y\n}",
        also=("GC0111",),
    ),
    Code(
        "GC0108",
        "a separator or an operator is missing",
        "Two things stand side by side that need something between them: a comma between items, "
        "`:`\n"
        "between a name and its type, `=` before a value, an operator between values, or a "
        "newline\n"
        "or `;` between statements.",
        "layer l(I) {\n    param w float[I] ~ zeros\n"
        "    apply(x: float[I]) -> float[I] { return 2 x + w }\n}",
    ),
    Code(
        "GC0109",
        "`=` instead of `==` or `~`",
        "`=` gives a name a value, once per statement. Conditions compare with `==`. The "
        "initializer of a\n"
        "parameter stands after `~`.",
        "layer l(I) {\n    param w: float[I] = zeros\n    apply(x: float[I]) -> float[I] {\n"
        "        if I = 1 { return x }\n        return x + w\n    }\n}",
    ),
    Code(
        "GC0110",
        "something that cannot be assigned to",
        "Only names stand on the left of `=`. Values are immutable: build a new one, for example "
        "with\n"
        "`where`, `concat` or arithmetic. Stored values of a layer are written `state name = ...`.",
        "fn f(x: float[3]) -> float {\n    x[0] = 1\n    return sum(x)\n}",
    ),
    Code(
        "GC0111",
        "a value that nothing uses",
        "A statement that only computes a value has no effect. Assign it, `return` it, or make "
        "it an\n"
        "`output`.",
        "model m(x: float[3]) -> float {\n    exp(x)\n    return sum(x)\n}",
    ),
    Code(
        "GC0112",
        "a habit from another language",
        "This way of saying it exists in Python or elsewhere, but not here; the help line says "
        "how it is\n"
        "said in this language.",
        "import numpy\n\ndef f(x) { return x }",
    ),
    Code(
        "GC0113",
        "a block without braces",
        "Blocks stand in braces; a colon and indentation do not make one. Indentation is free, "
        "and\n"
        "`gradc fmt` sets it.",
        "fn f(x: float) -> float {\n    if training:\n        x = 2 * x\n    return x\n}",
    ),
    Code(
        "GC0114",
        "comparisons do not chain",
        "A comparison gives a boolean, and booleans are not ordered, so `a < b < c` is not a "
        "program.\n"
        "Say `a < b and b < c`.",
        "fn f(x: float) -> float { return where(0 < x < 1, x, 0.0) }",
    ),
    Code(
        "GC0115",
        "arguments in the wrong order, or one given twice",
        "In a call, arguments without names come first, then those with names, each name once.",
        "fn f(x: float[3]) -> float { return sum(axis = 0, x) + sum(x, axis = 0, axis = 0) }",
    ),
    Code(
        "GC0116",
        "a statement in the wrong place",
        "`param` and `use` stand in models and directly in layers; `state` also in optimizers; "
        "`output` in\n"
        "models; `yield` in a `scan`; `return` in the body of a model, function or method (also "
        "under\n"
        "`if`), not in a loop; `pullback` directly in a function, and between its cotangents and "
        "its body\n"
        "nothing but `asserted`.",
        "fn f(x: float) -> float {\n    param w: float ~ zeros\n    yield x\n    return w * x\n}",
    ),
    Code(
        "GC0117",
        "a declaration without its method",
        "A layer has one `apply`, an optimizer one `update`, a schedule one `at`, an initializer "
        "one\n"
        "`sample`, and no others.",
        "optimizer sgd(lr) {\n    step(p, g, t) { return p - lr * g }\n}\n\nlayer empty { }",
    ),
    Code(
        "GC0118",
        "an argument without a type",
        "Arguments of models and of `apply` hold arrays and say which: `x: float[B, D]`, or `x: "
        "float`\n"
        "for a scalar. Arguments of layers, optimizers and schedules are dimensions and numbers "
        "and\n"
        "have no type; those of functions may do without, and then take anything.",
        "model m(x, y: float) -> float { return x + y }",
    ),
    Code(
        "GC0119",
        "an index that says nothing, or too much",
        "An index has at least one item and at most one `...`, which stands for as many `:` as "
        "there are\n"
        "axes left.",
        "fn f(x: float[3, 3]) -> float { return sum(x[]) + sum(x[..., 0, ...]) }",
    ),
    Code(
        "GC0120",
        "`True`, `False` or `None`",
        "The constants are `true` and `false`. `None` is written inside an index only, where it "
        "makes an\n"
        "axis of size one: `x[:, None]`.",
        "fn f(x: float[3]) -> float { return sum(x, axis = None, keepdims = True) }",
    ),
    Code(
        "GC0121",
        "a dimension without a value inside a body",
        "`dim` in a body names a computed dimension and so has a value: `dim inner = 4 * D`. "
        "Dimensions\n"
        "that are bound by the arrays of a call are declared at the top of the file.",
        "model m(x: float[3]) -> float {\n    dim inner\n    return sum(x)\n}",
    ),
    Code(
        "GC0122",
        "a value changed in place",
        "Values are immutable, so there is no `+=`. Give the name a new value: `x = x + 1`.",
        "fn f(x: float) -> float {\n    x += 1\n    return x\n}",
    ),
    Code(
        "GC0123",
        "a declaration inside another",
        "Models, layers, functions, optimizers, schedules, initializers and imports stand at the "
        "top\n"
        "level of a file.",
        "model m(x: float) -> float {\n    fn f(x: float) -> float { return x }\n    return x\n}",
    ),
    Code(
        "GC0124",
        "`use` without a layer",
        "`use name = layer(arguments)` makes an instance of a layer by calling it, also where "
        "the layer\n"
        "takes no arguments: `use act = gate()`.",
        "model m(x: float[3]) -> float {\n    use fc = dense\n    return sum(x)\n}",
    ),
)

CODES = (*_FILES, *_SYNTAX)
