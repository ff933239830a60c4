"""What objects say of themselves: one short line of text, and markup that is whole, escaped and
without script.
"""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

import gradc

TEXT = """
dim B, D = 4, H = 3
model net(x: float[B, D], y: float[B]) -> float {
    use first = dense(D, H)
    use last = dense(H, 1)
    p = squeeze(last(tanh(first(x))), axis = 1)
    output p
    return mean((p - y)^2)
}
"""
VOID = {"meta", "br", "hr", "img", "input", "link"}


class Markup(HTMLParser):
    """Tags must nest; what is framed is read as well."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attributes:
            assert not name.startswith("on") and name not in ("href", "src")
            if name == "srcdoc":
                inner = read(value or "")
                self.seen += inner.seen
                self.text += inner.text

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text.append(data)


def read(markup: str) -> Markup:
    found = Markup()
    found.feed(markup)
    found.close()
    assert not found.open
    assert "script" not in found.seen
    return found


@pytest.fixture(scope="module")
def shown() -> dict[str, tuple[Any, str, str]]:
    """Objects by name, with what their text is, and what a notebook shows besides."""
    net = gradc.loads(TEXT, precision="f64", dims={"B": 6})
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {"x": rng.normal(size=(6, 4)), "y": rng.normal(size=6)}
    params = net.init(0)
    step = net.train_step("adam(lr=0.01)", clip_norm=1.0)
    state = step.init(params)
    step(state, **arrays)
    gradient = net.value_and_grad(threads=1)
    gradient(params, **arrays)
    plan = net.plan()
    return {
        "model": (net, "<gradc model net(x: f64[6, 4], y: f64[6]), 4 parameters>", "first.w"),
        "compiled": (gradient, "<net.value_and_grad(threads=1): f(params, x=..., y=...)>", "6×4"),
        "step": (step, "<net.train_step('adam(lr=0.01)', clip_norm=1.0)>", "adam(lr=0.01)"),
        "state": (state, "<training state after 1 step: 4 parameters, 8 slots>", "first.b"),
        "memory": (plan, f"<plan of net: peak {plan.peak_bytes} bytes", "launches"),
        "plan": (plan.plan, "<plan net: 12 ports", "first.w"),
        "report": (net.verify(sympy=0), "<verification of net: ", "first.w"),
        "whiteboard": (net.explain(params, **arrays), "<whiteboard of net: ", "first.w"),
        "diagnosis": (net.diagnose(params, **arrays), "<diagnosis of ", "first"),
    }


NAMES = (
    "model",
    "compiled",
    "step",
    "state",
    "memory",
    "plan",
    "report",
    "whiteboard",
    "diagnosis",
)


@pytest.mark.parametrize("name", NAMES)
def test_texts_are_one_short_line(shown: dict[str, tuple[Any, str, str]], name: str) -> None:
    item, text, _ = shown[name]
    assert repr(item).startswith(text)
    assert len(repr(item)) < 200 and "\n" not in repr(item)


@pytest.mark.parametrize("name", NAMES[:-1])
def test_notebooks_show_whole_markup(shown: dict[str, tuple[Any, str, str]], name: str) -> None:
    item, _, said = shown[name]
    markup = item._repr_html_()
    found = read(markup)
    assert said in "".join(found.text)
    assert "<div" in markup or "<iframe" in markup


def test_names_of_users_are_escaped() -> None:
    net = gradc.loads("model net(x: float[2]) -> float { return sum(x) }")
    step = net.train_step
    with pytest.raises(Exception, match="<b>"):
        step("<b>")
    net.name = "<script>alert(1)</script>"
    assert "<script>" not in net._repr_html_()
    read(net._repr_html_())
