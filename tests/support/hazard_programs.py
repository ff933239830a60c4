"""Programs known to make gradients that are not finite, as people publish them, and healthy ones.

Each is the body of a model over ``x`` and ``y`` (float[3]), ``on`` (bool[3]) and a parameter ``w``
(float[3], ones).
"""

HEAD = """model m(x: float[3], y: float[3], on: bool[3]) -> float {
    param w: float[3] ~ ones
    z = w * x
"""

BROKEN = {
    "std of constants by hand": "m = mean(z)\n    return sqrt(mean((z - m)^2))",
    "norm at 0": "return sqrt(sum(z^2))",
    "distance of equal points": "return sqrt(sum((z - y)^2))",
    "sqrt at 0": "return sum(sqrt(relu(z)))  * 1.0 + sum(sqrt(abs(z)))",
    "rsqrt at 0": "return sum(rsqrt(z^2))",
    "square root of 1 - cos^2": "return sum(sqrt(1 - cos(z)^2))",
    "square root of 1 - sin^2": "return sum(sqrt(1 - sin(z)^2))",
    "square root of 1 - clip^2": "return sum(sqrt(1 - clip(z, -1, 1)^2))",
    "slope of acos at 1": "c = clip(z, -1, 1)\n    return sum(y / sqrt(1 - c * c))",
    "log of 1 - tanh^2": "return sum(log(1 - tanh(z)^2))",
    "log of a softmax": "return -sum(y * log(softmax(z)))",
    "log of a sigmoid": "return -sum(log(sigmoid(z)))",
    "binary cross-entropy by hand": "p = sigmoid(z)\n    return -sum(y * log(p) + (1 - y) * "
    "log(1 - p))",
    "entropy by hand": "p = softmax(z)\n    return -sum(p * log(p))",
    "log of relu": "return sum(log(relu(z)))",
    "log1p at -1": "return sum(log1p(z))",
    "atanh at 1": "return sum(0.5 * log((1 + z) / (1 - z)))",
    "atanh of tanh": "t = tanh(z)\n    return sum(0.5 * (log(1 + t) - log(1 - t)))",
    "division by a variance": "return sum((z - mean(z)) / var(z))",
    "normalisation without epsilon": "return sum(((z - mean(z)) / std(z))^2 * y)",
    "cosine similarity": "return sum(z * y) / (sqrt(sum(z^2)) * sqrt(sum(y^2)))",
    "division by a sum": "return sum(z / sum(z) * y)",
    "division by an absolute value": "return sum(z / abs(z))",
    "reciprocal": "return sum(1 / z)",
    "pole at a constant": "return sum(1 / (z - 3.25))",
    "slope of arctan2 at the origin": "return sum(z / (z^2 + y^2))",
    "angle from halves": "return sum(y / (z + sqrt(z^2 + y^2)))",
    "power of 0.5": "return sum(abs(z)^0.5)",
    "power of 0.3": "return sum(abs(z)^0.3)",
    "power of a power": "return sum(relu(z)^relu(y))",
    "negative power": "return sum(z^-2)",
    "guarded after the fact": "return sum(where(y > 0, sqrt(z - 1), 0))",
    "guard of the other side": "return sum(where(z > 0, y, 1 / z))",
    "exp overflows": "return sum(exp(z))",
    "exp of exp": "return sum(exp(-exp(z)) * exp(exp(z)))",
    "softmax by hand": "e = exp(z)\n    return sum(e / sum(e) * y)",
    "logsumexp by hand": "return log(sum(exp(z)))",
    "sigmoid by hand": "return sum(1 / (1 + exp(-z)) * y)",
    "softplus by hand": "return sum(log(1 + exp(z)))",
    "tanh by hand": "return sum((exp(z) - exp(-z)) / (exp(z) + exp(-z)))",
    "a row of -inf": "return sum(softmax(where(on, z, -inf)) * y)",
    "logsumexp of a masked row": "return sum(exp(z - log(sum(where(on, exp(z), 0)))))",
    "mean over a mask": "m = cast(on, float)\n    return sum(z * m) / sum(m)",
    "overflow before a factor of 0": "return sum(exp(-z^2) * z^40 * 1e30)",
    "gaussian far away": "p = exp(-z^2)\n    return -sum(log(p))",
    "t - t*t": "t = sigmoid(z)\n    return sum(y / (t - t * t))",
    "product over zeros": "return sum(prod(z) / z)",
    "geometric mean": "return exp(mean(log(abs(z))))",
    "harmonic mean": "return 3 / sum(1 / z)",
    "log of a difference": "return sum(log(z - y))",
}
