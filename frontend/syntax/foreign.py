"""What people write who come from PyTorch, NumPy, JAX or Keras, and what says the same here.

A name that other libraries give a meaning is never answered with the nearest word of gradc: ``elu``
is not ``gelu`` and ``sort`` is not ``sqrt``. Each row is a line that compiles (a test tries every
one, over ``x`` and ``y``: float[4, 3],
``ids``: int[4]) or an honest absence, with what can be written instead. All other public names of
these libraries are in `foreign_names.txt` (``tests.support.foreign_names`` writes it).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final


@dataclass(frozen=True, slots=True)
class Answer:
    """``line`` says the same in gradc; with ``is_missing`` it is what can be written until gradc
    has the word.
    """

    line: str = ""
    is_missing: bool = False

    def hint(self, name: str) -> str:
        """The hint for an unknown ``name``."""
        if not self.is_missing:
            return f"write `{self.line}`"
        rest = f"; write `{self.line}`" if self.line else ""
        return f"gradc has no `{name}` yet{rest}"


def _rows(text: str) -> dict[str, Answer]:
    """Rows ``name, name: line``; ``!`` before the line marks what is missing here."""
    found: dict[str, Answer] = {}
    for row in text.strip().splitlines():
        names, _, line = row.partition(":")
        is_missing = line.strip().startswith("!")
        answer = Answer(line.strip().lstrip("! "), is_missing)
        found.update((name.strip(), answer) for name in names.split(","))
    return found


FOREIGN: Final = _rows("""
linear, Linear, Dense, fully_connected: use f = dense(3, 2)
Conv2d, Conv2D, Conv: use c = conv(3, 8, 3, padding = 1)
Conv1d, Conv1D: use c = conv1d(3, 8, 3, padding = 1)
Conv3d, Conv3D: use c = conv3d(3, 8, 3, padding = 1)
ConvTranspose2d, Conv2DTranspose: use c = conv_transpose(3, 8, 4, stride = 2, padding = 1)
ConvTranspose1d, Conv1DTranspose: use c = conv_transpose1d(3, 8, 4, stride = 2, padding = 1)
ConvTranspose3d, Conv3DTranspose: use c = conv_transpose3d(3, 8, 4, stride = 2, padding = 1)
LayerNorm, layer_norm, LayerNormalization: use n = layernorm(3)
BatchNorm1d, BatchNormalization, batch_norm: use n = batchnorm(3)
BatchNorm2d: use n = batchnorm2d(3)
RMSNorm, rms_norm: use n = rmsnorm(3)
Embedding: use e = embedding(10, 3)
LSTM: use r = lstm(3, 4)
GRU: use r = gru(3, 4)
RNN, SimpleRNN: use r = rnn(3, 4)
MultiheadAttention, MultiHeadAttention: use a = attention(12, 3)
Dropout: dropout(x, 0.1)
ReLU: relu(x)
GELU: gelu(x)
Sigmoid, expit: sigmoid(x)
Tanh: tanh(x)
LeakyReLU: leaky_relu(x, slope = 0.01)
SiLU, swish, Swish: silu(x)
Softmax: softmax(x, axis = -1)
LogSoftmax: log_softmax(x, axis = -1)
MaxPool2d, MaxPooling2D, max_pool2d: max_pool(reshape(x, [1, 1, 4, 3]), 2)
MaxPool1d, MaxPooling1D, max_pool1d: max_pool(reshape(x, [1, 4, 3]), 2)
AvgPool1d, AveragePooling1D, avg_pool1d: avg_pool(reshape(x, [1, 4, 3]), 2)
AvgPool2d, AveragePooling2D, avg_pool2d: avg_pool(reshape(x, [1, 1, 4, 3]), 2)
GlobalAveragePooling2D: global_avg_pool(reshape(x, [1, 1, 4, 3]))
elu, ELU: where(x > 0, x, exp(min(x, 0)) - 1)
selu, SELU: 1.0507 * where(x > 0, x, 1.67326 * (exp(min(x, 0)) - 1))
relu6, ReLU6: clip(x, 0, 6)
hardtanh: clip(x, -1, 1)
hardsigmoid, hard_sigmoid: clip(x / 6 + 0.5, 0, 1)
hardswish, hard_swish: x * clip(x / 6 + 0.5, 0, 1)
mish: x * tanh(softplus(x))
celu: where(x > 0, x, exp(min(x, 0)) - 1)
logsigmoid, log_sigmoid: -softplus(-x)
softsign: x / (1 + abs(x))
prelu: where(x > 0, x, 0.25 * x)
unsqueeze, expand_dims, newaxis: x[:, None]
view, resize: reshape(x, [3, 4])
flatten, ravel: reshape(x, [-1])
permute, swapaxes, moveaxis: transpose(x, [1, 0])
cat, concatenate: concat([x, y], axis = 0)
vstack, row_stack: concat([x, y], axis = 0)
hstack, column_stack: concat([x, y], axis = 1)
chunk, array_split: split(x, 3, axis = 1)[0]
expand, broadcast_to, expand_as: broadcast(x, [2, 4, 3])
tile, repeat: concat([x, x], axis = 0)
flip, fliplr, flipud: x[::-1]
roll: concat([x[-1:], x[:-1]], axis = 0)
diff: x[1:] - x[:-1]
gather, index_select, take, embedding_lookup: x[ids]
arange: iota(5)
linspace: cast(iota(5), float) / 4
zeros_like: 0 * x
ones_like: 0 * x + 1
eye, identity: one_hot(iota(3), 3)
tril: where(causal_mask(3), x[:3], 0)
triu: where(causal_mask(3).T, x[:3], 0)
matmul, dot, mm, bmm, tensordot: x @ y.T
inner, vdot: sum(x * y)
outer: x[:, 0][:, None] * y[:, 0]
trace: sum(x[:3] * one_hot(iota(3), 3))
diag, diagonal: sum(x[:3] * one_hot(iota(3), 3), axis = 1)
add: x + y
sub, subtract: x - y
mul, multiply: x * y
div, divide, true_divide: x / y
pow, power: x ^ 2
square: x^2
reciprocal: 1 / x
negative: -x
absolute, fabs: abs(x)
cube: x^3
exp2: 2 ^ x
log2: log(x) / log(2)
log10: log(x) / log(10)
logaddexp: max(x, y) + softplus(-abs(x - y))
cbrt: sign(x) * abs(x) ^ 0.3333333333
ceil: -floor(-x)
trunc, fix: sign(x) * floor(abs(x))
sinh: 0.5 * (exp(x) - exp(-x))
cosh: 0.5 * (exp(x) + exp(-x))
hypot: sqrt(x^2 + y^2)
clamp, clip_by_value: clip(x, 0, 1)
maximum, fmax: max(x, y)
minimum, fmin: min(x, y)
amax: max(x, axis = -1)
amin: min(x, axis = -1)
argmin: argmax(-x)
sum_: sum(x)
nansum: sum(where(x == x, x, 0))
average: mean(x)
count_nonzero: sum(where(x != 0, 1, 0))
all: min(where(x > 0, 1, 0)) > 0
any: max(where(x > 0, 1, 0)) > 0
isnan: x != x
isfinite: abs(x) < inf
cumprod, cummax, cummin: !
isinf: abs(x) == inf
equal, eq, array_equal: x == y
not_equal, ne: x != y
greater, gt: x > y
greater_equal, ge: x >= y
less, lt: x < y
less_equal, le: x <= y
logical_and, bitwise_and: x > 0 and y > 0
logical_or, bitwise_or: x > 0 or y > 0
logical_not, bitwise_not: not (x > 0)
allclose, isclose: abs(x - y) <= 0.00001
copysign: abs(x) * sign(y)
deg2rad, radians: x * (pi / 180)
rad2deg, degrees: x * (180 / pi)
frac: x - floor(x)
heaviside: where(x > 0, 1, 0)
lerp: x + 0.5 * (y - x)
logit: log(x) - log1p(-x)
logcumsumexp: log(cumsum(exp(x), axis = 1))
masked_fill: where(x > 0, 0, x)
nan_to_num: where(x == x, x, 0)
ptp: max(x) - min(x)
xlogy: where(x == 0, 0, x * log(y))
sinc: where(x == 0, 1, sin(pi * x) / (pi * x))
softmin: softmax(-x)
glu, GLU: x[:, 0:1] * sigmoid(x[:, 1:2])
tanhshrink: x - tanh(x)
hardshrink, threshold: where(abs(x) > 0.5, x, 0)
softshrink: x - clip(x, -0.5, 0.5)
trapz, trapezoid: 0.5 * sum(x[1:] + x[:-1], axis = 0)
cdist, pairwise_distance: norm(x[:, None] - y[None, :], axis = -1)
cov: (x - mean(x, axis = 0)).T @ (x - mean(x, axis = 0)) / 3
kron: reshape(x[:, None, :, None] * y[None, :, None, :], [16, 9])
mv, matvec: x @ y[0]
addmm: x + x @ y.T @ y
repeat_interleave: reshape(broadcast(x[:, None], [4, 2, 3]), [8, 3])
reshape_as, view_as, unflatten: reshape(x, [3, 4])
t, adjoint: x.T
unbind, unstack, select: x[0]
narrow_copy, slice: x[1:3]
copy, clone, contiguous, deepcopy: x
empty, new_zeros: zeros([4, 3])
full_like: 0 * x + 2
rand, uniform, random_sample, randn, standard_normal: !
reduce_sum: sum(x)
reduce_mean: mean(x)
l2_normalize: x / norm(x, axis = -1, keepdims = true)
range: iota(5)
int32, int64, long: cast(x, int)
half, float16: cast(x, f16)
bfloat16: cast(x, bf16)
double, float64: cast(x, f64)
scaled_dot_product_attention: scaled_attention(x, y, y)
Flatten: reshape(x, [-1])
erfc: 1 - erf(x)
detach, no_grad, lax_stop_gradient, StopGradient: stop_gradient(x)
astype, to, float32: cast(ids, float)
len: size(x, 0)
shape: size(x, 0)
ndim, dim_count: rank(x)
numel: size(x)
nll_loss, NLLLoss: cross_entropy(x, ids)
softmax_cross_entropy, CrossEntropyLoss, sparse_categorical_crossentropy: cross_entropy(x, ids)
categorical_crossentropy: cross_entropy(x, softmax(y))
mse_loss, MSELoss, mean_squared_error: mse(x, y)
l1_loss, L1Loss, mean_absolute_error, mae: mean(abs(x - y))
huber_loss, smooth_l1_loss, HuberLoss: \
mean(where(abs(x - y) < 1, 0.5 * (x - y)^2, abs(x - y) - 0.5))
bce, BCELoss, binary_crossentropy: binary_cross_entropy(sigmoid(x), sigmoid(y))
bce_with_logits, BCEWithLogitsLoss: binary_cross_entropy_logits(x, sigmoid(y))
kl_div: sum(softmax(x) * (log_softmax(x) - log_softmax(y)))
cosine_similarity: sum(x * y, axis = 1) / (norm(x, axis = 1) * norm(y, axis = 1))
normalize: x / norm(x, axis = 1, keepdims = true)
print: ! output x
topk, top_k: -sort(-x, axis = 1)[:, 0:2]
unique, searchsorted: !
median, quantile, percentile: !
fft, rfft, ifft: !
svd, eig, eigh, qr, cholesky, inv, solve, det, slogdet: !
arctan2, atan2: !
arcsin, asin, arccos, acos, arctan, atan: !
arcsinh, asinh, arccosh, acosh: !
arctanh, atanh: ! 0.5 * (log1p(x) - log1p(-x))
scatter, scatter_add, index_add, segment_sum: !
interpolate, upsample: !
group_norm, GroupNorm, instance_norm: !
while_loop, cond: !
""")


# Names of arguments, and statements of other languages.
ARGUMENTS: Final = {
    "dim": "axis",
    "keepdim": "keepdims",
    "p": "rate",
    "kernel_size": "size",
    "negative_slope": "slope",
}
STATEMENTS: Final = {
    "print": "nothing is printed while a model runs; `output name` hands a value out beside the "
    "loss",
    "break": "loops run to their end; choose with `where`, or leave out the last trips: `for i "
    "in 2`",
    "continue": "loops run every trip; choose with `where` or `if`",
    "pass": "an empty block needs no word",
}


def foreign_hint(name: str) -> str:
    """What to write for a name of another library, or an empty string."""
    answer = FOREIGN.get(name)
    return "" if answer is None else answer.hint(name)


@cache
def foreign_names() -> frozenset[str]:
    """The public names of other libraries that gradc does not have."""
    text = files("gradc.frontend").joinpath("foreign_names.txt").read_text(encoding="utf-8")
    return frozenset(text.split())
