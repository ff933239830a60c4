"""Programs whose parameters are cut among ranks along a dimension."""

PRODUCTS = """
dim B = 3, D = 5, H = 6
model m(x: float[B, D], y: int[B]) -> float {
    use up = dense(D, H)
    use gate = dense(D, H)
    use down = dense(H, 4)
    h = gelu(up(x)) * sigmoid(gate(x))
    return mean(cross_entropy(down(dropout(h, 0.4)), y)) + 0.1 * sum(down.w^2)
}
"""
HEADS = """
dim B = 2, T = 3, D = 4, N = 2, K = 3, V = 5
model m(tokens: int[B, T], targets: int[B, T]) -> float {
    param e: float[V, D] ~ normal(1)
    param q: float[D, N, K] ~ normal(0.5)
    param k: float[D, N, K] ~ normal(0.5)
    param o: float[N, K, D] ~ normal(0.5)
    use ln = layernorm(D)
    h = e[tokens]
    x = ln(h)
    s = einsum("bqnk,btnk->bnqt", einsum("btd,dnk->btnk", x, q), einsum("btd,dnk->btnk", x, k))
    a = softmax(where(causal_mask(T), s, -inf), axis = -1)
    h = h + einsum("bqnk,nkd->bqd", einsum("bnqt,btnk->bqnk", a, einsum("btd,dnk->btnk", x, k)), o)
    logits = h @ e.T
    output logits
    return mean(cross_entropy(logits, targets))
}
"""
RECURRENT = """
dim B = 2, T = 4, E = 6, H = 3
model m(xs: float[T, B, E]) -> float {
    use rnn = lstm(E, H)
    param g: float[E] ~ normal(1)
    return mean(rnn(xs * g)^2)
}
"""
# Parameters that have the cut index twice: a rank has their first axis.
TWICE = """
dim B = 3, T = 4, D = 2, H = 6
model m(xs: float[T, B, D]) -> float {
    param u: float[D, H] ~ normal(0.5)
    param w: float[H, H] ~ normal(0.5)
    param b: float[H] ~ normal(0.5)
    param q: float[H, 2, H] ~ normal(0.5)
    hs = scan x in xs carry h = zeros([B, H]) {
        h = tanh(x @ u + h @ w + b)
        yield h
    }
    s = softmax(einsum("tbh,hgk,sbk->bgts", hs, q, hs), axis = -1)
    return mean(einsum("bgts,sbh->bgth", s, hs @ w.T)^2) + sum(w^2)
}
"""
# The cut index is normalised and compared along, looked at in a loop, and met by what all have.
NORMALISED = """
dim B = 2, D = 6, T = 3
model m(x: float[B, D], xs: float[T, D]) -> float {
    use n = layernorm(D)
    param w: float[D] ~ normal(1)
    param v: float[3] ~ normal(1)
    z = n(x) * w + sum(v) * mean(where(causal_mask(D), x[0], 0), axis = 1)
    a = softmax(z, axis = -1)
    hs = scan r in xs carry s = zeros([D]) {
        s = 0.5 * s + r * w * max(z)
        yield sum(s^2) * s
    }
    return sum(a * z) + min(z) + mean(hs)
}
"""


# Embedding and cross-entropy over a cut vocabulary; an id that no rank has gives NaN, as for one.
VOCABULARY = """
dim B = 2, T = 3, D = 4, V = 6
model m(tokens: int[B, T], targets: int[B, T]) -> float {
    param e: float[V, D] ~ normal(1)
    param weight: float[V] ~ normal(1)
    use ln = layernorm(D)
    logits = ln(e[tokens]) @ e.T
    output logits
    return mean(cross_entropy(logits, targets) * weight[targets]^2)
}
"""

# The greatest of all ranks matters, as it does not to a softmax.
GREATEST = """
dim B = 3, D = 2, H = 4
model m(x: float[B, D]) -> float {
    param w: float[D, H] ~ normal(1)
    z = x @ w
    return mean(max(z, axis = 1)^2) + mean(min(z, axis = 1)^2)
}
"""

# The gates of recurrent layers lie beside each other: an index of H is in each of four and three
# blocks.
GATES = """
dim B = 2, T = 3, E = 2, H = 6
model m(xs: float[T, B, E]) -> float {
    use rnn = lstm(E, H)
    use after = gru(H, H)
    use head = dense(H, 3)
    return mean(head(after(rnn(xs)))^2)
}
"""
# Queries, keys and values of heads in one matrix, and of an MLP what is let through with what lets
# it: by a reshape, by slices, by a split along a middle axis, and joined again.
FUSED = """
dim B = 2, T = 3, D = 4, H = 2, K = 3, F = 2
model m(x: float[B, T, D]) -> float {
    param qkv: float[D, 3*H*K] ~ normal(0.5)
    param b: float[3*H*K] ~ normal(0.5)
    param o: float[H*K, D] ~ normal(0.5)
    param up: float[D, 2*F*H] ~ normal(0.5)
    param last: float[H, 2*F] ~ normal(0.5)
    p = reshape(x @ qkv + b, [B, T, 3, H, K])
    a = softmax(einsum("bqhk,bthk->bhqt", p[:, :, 0], p[:, :, 1]), axis = -1)
    h = x + reshape(einsum("bhqt,bthk->bqhk", a, p[:, :, 2]), [B, T, H*K]) @ o
    gate, value = split(h @ up, 2, axis = -1)
    z = concat([gate, sigmoid(gate) * value, value], axis = -1)
    y = reshape(z, [B, T, 3, F, H])
    return mean((sum(y, axis = 2) @ last)^2) + sum(up^2)
}
"""
# Heads that no parameter names, and groups of a convolution.
LIBRARY_HEADS = """
dim B = 2, T = 3, D = 8, N = 4
model m(x: float[B, T, D]) -> float {
    use attend = attention(D, N)
    return mean(attend(x)^2)
}
"""
GROUPS = """
dim B = 2, C = 4
model m(x: float[B, C, 3, 4]) -> float {
    use each = conv(C, C, 3, padding = 1, groups = C)
    use mixed = conv(C, 3, 1)
    return mean(mixed(each(x))^2)
}
"""
