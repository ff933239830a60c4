"""Which axis a plot gets, and what is drawn on it."""

import pytest

from gradc.runtime.render.plot import Panel, Series, plot_svg, spans_decades


@pytest.mark.parametrize(
    ("values", "spans"),
    [
        ([], False),
        ([0.0, 0.0], False),
        ([1.0, 2.0, 29.0], False),
        ([1.0, 31.0], True),
        ([0.0, 1e-9, 1.0], True),  # a loss that reached 0
        ([-1.0, 1.0, 100.0], False),
        ([float("nan"), 1.0, float("inf"), 40.0], True),
    ],
)
def test_values_over_decades_get_a_logarithmic_axis(values: list[float], spans: bool) -> None:
    assert spans_decades(values) is spans
    text = plot_svg(
        [Panel("loss", "step", "loss", [Series("a", range(len(values)), values)], spans)]
    )
    assert ("1e" in text) is spans
