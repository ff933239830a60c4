"""Large networks are proved at their own shape, and tried at a small one: the numbers that they
write are read as smaller ones where no dimension can be.
"""

import gradc
from gradc.passes.prove.programs.shapes import work
from gradc.passes.prove.report import Status
from gradc.runtime.reports.smaller import smaller

IMAGES = """
dim B = 4
model net(x: float[B, 3, 32, 32], y: int[B]) -> float {
    use first = conv(3, 16, 3, padding = 1)
    use second = conv(16, 24, 3, padding = 1)
    use head = dense(1536, 10)
    h = max_pool(relu(second(max_pool(relu(first(x)), 2))), 2)
    return mean(cross_entropy(head(reshape(h, [B, 1536])), y))
}
"""
# What is written once as 64 and once as a power of two means the same only as it is written.
TWICE = """
fn wide(x: float[...]) -> float[...] {
    return x * 64
    pullback(ct) { return ct * 2^6 }
}
dim B = 2
model net(x: float[B, 512], y: float[B, 512]) -> float {
    param w: float[512, 512] ~ normal(0.1)
    return mean((wide(x @ w) - y)^2)
}
"""


def test_what_layers_and_images_write_is_read_smaller() -> None:
    net = gradc.loads(IMAGES)
    found = smaller(net, {"B": 4})
    assert found is not None
    small, real = (model.lower({"B": 4}).function for model in (found.model, net))
    assert 20 * work(small) < work(real)
    assert [s.name for s in small.parameters] == [s.name for s in real.parameters]
    assert found.model.signature.inputs[0].type.shape[2:] == (4, 4)
    assert "1536 read as 3" in str(found)


def test_rules_are_composed_at_the_real_shape_and_points_say_what_was_read() -> None:
    report = gradc.loads(IMAGES).verify(sympy=60)
    rows = [v for v in report.verdicts if v.kind == "parameter"]
    assert {v.status for v in rows} == {Status.PROVED_SHAPE}
    assert report.dims == {"B": 4}
    independent = [v for v in report.verdicts if v.kind == "sympy"]
    assert {v.status for v in independent} <= {Status.AGREES, Status.PROVED_SHAPE}
    assert all("24 read as" in v.detail for v in independent)


def test_a_number_that_means_something_else_refutes_nothing() -> None:
    report = gradc.loads(TWICE).verify(sympy=0)
    assert report.ok
    assert not any("read as" in v.detail for v in report.verdicts)
