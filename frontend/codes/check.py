"""The codes of names, types, compile-time values and dimensions: 02, 03, 04 and 054."""

from __future__ import annotations

from typing import Final

from gradc.frontend.codes.codes import Code

_NAMES: Final = (
    Code(
        "GC0201",
        "an unknown name",
        "Nothing of this name is in scope: no local name, argument, dimension, declaration of "
        "the program or\n"
        "the standard library, and no word of the language. The nearest name is suggested.",
        "model m(x: float[3]) -> float {\n    return sum(sofmax(x))\n}",
    ),
    Code(
        "GC0202",
        "a name declared twice",
        "Within one body, parameters, states, layers, inputs and outputs have different names; "
        "within one\n"
        "program, so have declarations of one kind. A declaration may shadow the standard library.",
        "model m(x: float[3]) -> float {\n    param w: float[3] ~ zeros\n    param w: float[3] ~ "
        "ones\n"
        "    return sum(w * x)\n}",
    ),
    Code(
        "GC0203",
        "arguments that do not match",
        "A call gives each argument once, by position or by name, positions first, and leaves "
        "out only those\n"
        "that have a default.",
        "model m(x: float[3]) -> float {\n    use fc = dense(3)\n    return sum(fc(x))\n}",
    ),
    Code(
        "GC0204",
        "no value is returned",
        "Models, functions, `apply`, `update`, `at`, `sample` and `pullback` end with `return`, "
        "on every path\n"
        "that compile-time conditions choose.",
        "model m(x: float[3]) -> float {\n    y = sum(x)\n}",
    ),
    Code(
        "GC0205",
        "a function or layer that contains itself",
        "Functions and layers are unrolled where they are called, so they cannot recur. Loops "
        "over time are\n"
        "written with `scan`, stacks of layers with `use blocks = block(...) * count`.",
        "fn f(x: float) -> float { return f(x) }\nmodel m(x: float) -> float { return f(x) }",
    ),
    Code(
        "GC0206",
        "something that cannot be called, or is no layer",
        "Functions, words and layer instances are called. A layer is first made with `use`, "
        "because its\n"
        "parameters need a place and a name.",
        "model m(x: float[3]) -> float {\n    return sum(dense(3, 2)(x))\n}",
    ),
    Code(
        "GC0207",
        "something out of place",
        "A state is written outside of `scan` (carry the value and write it afterwards); random "
        "starts are\n"
        "drawn in `sample` of an initializer; dropout stands in models, layers and functions.",
        "model m(xs: float[3]) -> float {\n    state s: float ~ zeros\n    if training {\n"
        "        scan x in xs carry h = 0.0 {\n            state s = x\n            h = h + x\n  "
        "      }\n"
        "    }\n    return sum(xs)\n}",
    ),
    Code(
        "GC0208",
        "no initializer",
        "A parameter or state says how it starts: `param w: float[I, O] ~ he_normal`. The "
        "standard library has\n"
        "zeros, ones, constant, uniform, normal, glorot, xavier, he, kaiming and orthogonal.",
        "model m(x: float[3]) -> float {\n    param w: float[3]\n    return sum(w * x)\n}",
    ),
    Code(
        "GC0209",
        "no such part",
        "After a dot stands a parameter, layer or state of a layer instance, as in `emb.w`. The "
        "only attribute\n"
        "of an array is `.T`.",
        "model m(x: float[3]) -> float {\n    use fc = dense(3, 2)\n    return sum(fc.weight) + "
        "sum(fc(x))\n}",
    ),
    Code(
        "GC0210",
        "a parameter that is never used",
        "A warning: nothing reads this parameter, so it has no gradient and is not trained.",
        "model m(x: float[3]) -> float {\n    param w: float[3] ~ zeros\n    return sum(x)\n}",
    ),
    Code(
        "GC0211",
        "a parameter that does not reach the loss",
        "A warning: the parameter is read, but every way from it to the loss is interrupted by\n"
        "`stop_gradient`, by a comparison or by rounding. Its gradient is zero. The place is "
        "the operation "
        "that\n"
        "interrupts it. A parameter that is read by `stop_gradient` alone is frozen on purpose, "
        "and not told.",
        "model m(x: float[3]) -> float {\n    param w: float[3] ~ ones\n"
        "    return sum(x * stop_gradient(2 * w))\n}",
    ),
    Code(
        "GC0212",
        "an input that is never used",
        "A warning: a call of the model must hand in an array that nothing reads.",
        "model m(x: float[3], y: float[3]) -> float {\n    return sum(x)\n}",
    ),
    Code(
        "GC0213",
        "which model is meant",
        "The program declares no model, several of which one must be chosen (`entry` in Python, "
        "`--entry` on\n"
        "the command line), or none of the name that was given.",
    ),
    Code(
        "GC0214",
        "a state written outside of training",
        "Stored values change while training only, so that using a model gives the same answer "
        "every time.\n"
        "Write them under `if training { ... }`.",
        "model m(x: float) -> float {\n    state s: float ~ zeros\n    state s = x\n    return "
        "x\n}",
    ),
    Code(
        "GC0215",
        "a checkpoint without effect",
        "A warning: no name that the block assigns is used after it, so nothing is recomputed.",
        "model m(x: float) -> float {\n    checkpoint { y = exp(x) }\n    return x\n}",
    ),
    Code(
        "GC0216",
        "a wrong number of names",
        "Several names on the left of `=` take a list of as many values: of `split`, of a "
        "function that\n"
        "returns several, or written out.",
        "model m(x: float[4]) -> float {\n    a, b, c = split(x, 2)\n    return sum(a)\n}",
    ),
    Code(
        "GC0217",
        "not an optimizer or schedule",
        "An optimizer or a schedule is given as a name with arguments: `adamw(lr=1e-3)`,\n"
        "`warmup_cosine(peak=3e-4, warmup=100, total=1000)`.",
    ),
    Code(
        "GC0218",
        "softmax applied twice",
        "A warning: `cross_entropy` takes logits and applies the softmax itself. Of "
        "probabilities it "
        "makes\n"
        "nearly equal ones, so the gradient is small and the loss never comes near zero.",
        "dim B\nmodel m(x: float[B, 3], y: int[B]) -> float {\n    use fc = dense(3, 4)\n"
        "    return mean(cross_entropy(softmax(fc(x)), y))\n}",
    ),
    Code(
        "GC0219",
        "sigmoid applied twice",
        "A warning: `binary_cross_entropy_logits` takes logits and applies the sigmoid itself. "
        "Hand in "
        "the\n"
        "logits, or use `binary_cross_entropy`, which takes probabilities.",
        "dim B\nmodel m(x: float[B, 3], y: float[B, 1]) -> float {\n    use fc = dense(3, 1)\n"
        "    return mean(binary_cross_entropy_logits(sigmoid(fc(x)), y))\n}",
    ),
    Code(
        "GC0220",
        "a softmax over the samples",
        "A warning: the probabilities of a class sum to 1 over the samples of a batch, and not "
        "those of "
        "a sample\n"
        "over the classes. What is predicted for one sample then depends on the others.",
        "dim B\nmodel m(x: float[B, 3], y: float[B, 4]) -> float {\n    use fc = dense(3, 4)\n"
        "    return -mean(y * log(softmax(fc(x), axis = 0)))\n}",
    ),
    Code(
        "GC0221",
        "two products that one could do",
        "A warning: between two products with weights lie only affine operations, so both "
        "together are "
        "one affine\n"
        "map. Told only where the size between them is no bottleneck: low-rank factors are left "
        "alone.",
        "dim B\nmodel m(x: float[B, 3]) -> float {\n    use a = dense(3, 8)\n    use b = "
        "dense(8, 2)\n"
        "    return mean(b(a(x))^2)\n}",
    ),
    Code(
        "GC0222",
        "every pair in place of every element",
        "A warning: a column `[B, 1]` and a row `[B]` stretch to `[B, B]`. In a loss each "
        "prediction is "
        "then\n"
        "compared with every target, and the best prediction is their mean. An outer difference "
        "that is\n"
        "meant is written `x[:, None] - y`.",
        "dim B\nmodel m(x: float[B, 3], y: float[B]) -> float {\n    use fc = dense(3, 1)\n"
        "    return mean((fc(x) - y)^2)\n}",
    ),
    Code(
        "GC0223",
        "a mean over one number",
        "A warning: a value minus its mean over an axis of size 1 is zero, so a normalisation "
        "passes "
        "nothing on.\n"
        "It happens with `layernorm(1)`, and with batch normalisation where the batch has one "
        "sample.",
        "dim B\nmodel m(x: float[B, 3]) -> float {\n    use fc = dense(3, 1)\n"
        "    use ln = layernorm(1)\n    return mean(ln(fc(x))^2)\n}",
    ),
    Code(
        "GC0224",
        "an optimizer that divides by zero",
        "A warning: the update divides by a root of the gradients so far. Where they all were "
        "zero, as "
        "behind a\n"
        "ReLU that did not fire, it gives NaN. Add a small number to the divisor.",
        "dim B\noptimizer mine(lr = 0.1) {\n    state v ~ zeros\n    update(p, g, t) {\n"
        "        v = 0.9 * v + 0.1 * g^2\n        return p - lr * g / sqrt(v)\n    }\n}\n"
        "model m(x: float[B, 3]) -> float {\n    use fc = dense(3, 1)\n    return mean(fc(x)^2)\n}",
    ),
)

_TYPES: Final = (
    Code(
        "GC0301",
        "shapes that do not fit",
        "Operands of elementwise operations have equal shapes after stretching: trailing "
        "dimensions are\n"
        "aligned, and only a dimension that is written 1 stretches. Two different dimensions "
        "never do, even\n"
        "if they happen to have the same size or size 1.",
        "dim B, D, H\nmodel m(x: float[B, D], w: float[B, H]) -> float {\n    return sum(x + w)\n}",
    ),
    Code(
        "GC0302",
        "shapes that do not multiply",
        "In `a @ b` the last dimension of a is the first of the matrix b; in `einsum` all axes "
        "of one letter\n"
        "have one size; in `conv2d` the channels of image and kernel are equal.",
        "dim B, D = 3, H = 4\nmodel m(x: float[B, D]) -> float {\n    param w: float[H, D] ~ "
        "he_normal\n"
        "    return sum(x @ w)\n}",
    ),
    Code(
        "GC0303",
        "element types that do not mix",
        "Numbers in the text adapt to the array beside them. Arrays of different types do not: "
        "integers are\n"
        "converted with `cast(x, float)`, conditions are used with `where`.",
        "model m(x: float[3], n: int[3]) -> float {\n    return sum(x * n)\n}",
    ),
    Code(
        "GC0304",
        "an argument of the wrong type",
        "An array that is handed to a function or layer has the element type and the dimensions "
        "that the\n"
        "signature says. Dimension names that are in scope must match; others are bound by the "
        "call.",
        "model m(x: float[5, 3]) -> float {\n    use fc = dense(4, 2)\n    return sum(fc(x))\n}",
    ),
    Code(
        "GC0305",
        "a result of the wrong type",
        "What is returned has the declared type: of a model, function or layer, of an "
        "initializer (the\n"
        "parameter's shape), of an optimizer (the parameter's type), of a pullback (that of each "
        "argument).",
        "fn f(x: float[3]) -> float[2] { return x }\nmodel m(x: float[3]) -> float { return "
        "sum(f(x)) }",
    ),
    Code(
        "GC0306",
        "an axis that does not exist",
        "Axes count from 0, or from -1 at the end, and are named once each.",
        "model m(x: float[5, 3]) -> float {\n    return sum(softmax(x, axis = 2))\n}",
    ),
    Code(
        "GC0307",
        "sizes that do not add up",
        "`reshape` keeps the number of elements, `split` cuts an axis into equal parts or parts "
        "that add up to\n"
        "it, `squeeze` removes an axis of size 1, `pad` has a width for each axis.",
        "dim B, D = 6\nmodel m(x: float[B, D]) -> float {\n    return sum(reshape(x, [B, 2, "
        "4]))\n}",
    ),
    Code(
        "GC0308",
        "something of the wrong kind",
        "Operators take numbers and arrays; words say which of their arguments are arrays, "
        "shapes, numbers,\n"
        "types or lists.",
        'model m(x: float[3]) -> float {\n    return sum(x + "one")\n}',
    ),
    Code(
        "GC0309",
        "a carried value that changes its type",
        "What a `scan` carries has one type at the beginning and the end of every step.",
        "model m(xs: float[3]) -> float {\n    scan x in xs carry h = 0 {\n        h = x\n    "
        "}\n    return h\n}",
    ),
    Code(
        "GC0310",
        "a loop that does not fit",
        "A `scan` walks arrays of equal length along their first axis, and yields once in each "
        "step, as many\n"
        "values as there are names on its left.",
        "model m(xs: float[3]) -> float {\n    ys = scan x in xs carry h = 0.0 {\n        h = h "
        "+ x\n    }\n"
        "    return h\n}",
    ),
    Code(
        "GC0311",
        "an index that does not fit",
        "An index is a known integer in range, a slice, `...`, `None` for a new axis, or one "
        "array of integers.",
        "model m(x: float[5, 3]) -> float {\n    return sum(x[:, 3])\n}",
    ),
    Code(
        "GC0312",
        "an operation that refuses its operands",
        "The operation cannot be applied to operands of these types, or with these options. The "
        "message is the\n"
        "operation's own.",
    ),
    Code(
        "GC0313",
        "a derivative of integers",
        "Only floating-point numbers have derivatives: parameters are `float`, and so is what a "
        "model returns.",
        "model m(x: float[3]) -> int {\n    return argmax(x)\n}",
    ),
    Code(
        "GC0314",
        "an einsum that is not described well",
        "The text names each axis of each operand with a letter, operands separated by commas, "
        "then `->` and the\n"
        "axes of the result, each of which is in an operand.",
        'model m(x: float[5, 3]) -> float {\n    return sum(einsum("ijk->ik", x))\n}',
    ),
)

_VALUES: Final = (
    Code(
        "GC0401",
        "a value that must be known before running",
        "Conditions of `if`, numbers of layers, axes and options are known when the program is "
        "compiled. Choices\n"
        "by data are made with `where`.",
        "model m(x: float) -> float {\n    if x > 0 { return x }\n    return -x\n}",
    ),
    Code(
        "GC0402",
        "not an integer",
        "Dimensions and shapes are integers: `//` divides them, `/` gives a float.",
        "dim D = 6\nmodel m(x: float[D]) -> float {\n    return sum(reshape(x, [2, D / 2]))\n}",
    ),
    Code(
        "GC0403",
        "a dimension divided by zero",
        "`//` and `%` of dimensions need a divisor other than 0, also with the defaults of "
        "dimensions.",
        "dim D = 6 // 0\nmodel m(x: float[D]) -> float { return sum(x) }",
    ),
    Code(
        "GC0404",
        "a program that is too large",
        "Calls within calls, expressions within expressions and the number of operations after "
        "unrolling are\n"
        "bounded, so that checking any text ends soon.",
        "layer l(D) {\n    use inner = dense(D, D) * 9000\n    apply(x: float[D]) -> float[D] { "
        "return x }\n}\n"
        "model m(x: float[3]) -> float {\n    use outer = l(3) * 9000\n    return sum(x)\n}",
    ),
    Code(
        "GC0405",
        "a number out of range",
        "Sizes are at least 0, strides and numbers of parts at least 1, the rate of dropout is "
        "from 0 to 1.",
        "model m(x: float[3]) -> float {\n    return sum(dropout(x, 1.5))\n}",
    ),
)

_DERIVATIVES: Final = (
    Code(
        "GC0521",
        "a program without a loss",
        "Gradients are those of the loss, which is what the model returns. A function without "
        "one has\n"
        "Jacobians and products with them (`vjp`, `jvp`), but no gradient.",
    ),
    Code(
        "GC0522",
        "a loss that is not one number",
        "A gradient is the derivative of a single floating number: reduce an array with `sum` or "
        "`mean`.",
    ),
    Code(
        "GC0523",
        "a derivative by or of something unknown",
        "Derivatives are asked for by the names of parameters, inputs and results.",
    ),
    Code(
        "GC0524",
        "a derivative of integers or booleans",
        "Only floating numbers have derivatives. The answer for an integer is not zero, it does "
        "not exist.",
    ),
    Code(
        "GC0525",
        "no forward derivative",
        "Forward mode through a function with a `pullback` of its own needs that pullback to be "
        "linear in\n"
        "its cotangent, so that it can be transposed. One that clips the cotangent works in "
        "reverse mode only.",
    ),
)

_BINDING: Final = (
    Code(
        "GC0541",
        "a dimension without a value",
        "Dimensions without a default are bound by the arrays of a call, by `dims=` in Python or "
        "by `-D` on the\n"
        "command line. Commands that need no arrays need the values.",
    ),
    Code(
        "GC0542",
        "arrays that contradict each other",
        "Two arrays give one dimension different sizes, or an array contradicts a default or a "
        "value that was\n"
        "given. Defaults are overridden by `dims=` or `-D`, never by an array.",
    ),
    Code(
        "GC0543",
        "an unknown dimension",
        "A value was given for a dimension that the program does not have.",
    ),
    Code(
        "GC0544",
        "a value that no dimension can have",
        "A dimension is an integer of at least 0.",
    ),
    Code(
        "GC0545",
        "an array that is no input",
        "The model has no input of this name, or the array has another number of axes than the "
        "input.",
    ),
    Code(
        "GC0546",
        "an unknown precision",
        "The precision of a program is f64, f32, bf16 or f16: it is what `float` means.",
    ),
)

CODES = (*_NAMES, *_TYPES, *_VALUES, *_DERIVATIVES, *_BINDING)
