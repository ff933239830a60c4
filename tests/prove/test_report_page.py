"""The verification page: complete, well formed, self-contained, and honest about what failed."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

import gradc
from gradc.passes.prove.report import Accuracy, Report, Status, Verdict
from gradc.runtime.reports.report_html import report_page

WORKED = Path(__file__).resolve().parent.parent.parent / "examples" / "worked"
VOID = {"meta", "br", "mspace", "path", "rect", "link", "hr"}


class Shape(HTMLParser):
    """Checks that tags close in order, and collects links."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.links += [v or "" for n, v in attrs if n in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def shape(markup: str) -> Shape:
    found = Shape()
    found.feed(markup)
    assert found.open == []
    return found


def report(*verdicts: Verdict) -> Report:
    return Report(
        model="m",
        file="m.grad",
        source_digest="aa",
        program_digest="bb",
        plan_digest="cc",
        dims={"B": 3},
        chosen=(),
        probe_dims={"B": 3},
        precision="f32",
        options={"wrt": "params", "budget": "None"},
        seed=7,
        versions={"gradc": "0"},
        verdicts=verdicts,
        accuracy=(Accuracy("w", 0.6, 1.5, 1e-6, 1e-9, "balls, 50 digits"),),
        trusted=("LLVM & <the hardware>",),
        seconds={"total": 1.25},
    )


PROVED = Verdict("parameter", "w", Status.PROVED_ALL, "composition", assumptions=("a < b",))
REFUTED = Verdict(
    "parameter", "w", Status.REFUTED, "balls", "digits differ", point={"x[0]": "0.5 & more"}
)


def test_the_verdict_comes_first() -> None:
    markup = report_page(report(PROVED))
    assert markup.index('class="verdict good"') < markup.index("<h2>")
    assert "The gradient is proved" in markup
    refuted = report_page(report(REFUTED))
    assert 'class="verdict bad"' in refuted
    assert "Refuted" in refuted
    assert "0.5 &amp; more" in refuted
    undecided = report_page(report(replace(PROVED, status=Status.UNDECIDED)))
    assert 'class="verdict warn"' in undecided


def test_everything_in_the_report_is_on_the_page() -> None:
    found = report(PROVED, Verdict("rule", "tanh", Status.PROVED_ALL, "exact fractions"))
    markup = report_page(found)
    for text in (found.digest, "aa", "bb", "cc", "balls, 50 digits", "0.6", "1.25"):
        assert text in markup
    assert "LLVM &amp; &lt;the hardware&gt;" in markup
    assert "a &lt; b" in markup
    assert "gradc verify m.grad -D B=3 --precision f32 --wrt params" in markup
    # The rule of tanh is read off the registry.
    assert re.search(r"<mn>1</mn><mo>−</mo><msup>.*?<mi>y</mi>", markup)


@pytest.mark.parametrize("number", [9, 11])
def test_the_page_of_a_model_is_well_formed_and_needs_nothing_else(number: int) -> None:
    net = gradc.load(WORKED / f"w{number:02d}.grad")
    markup = report_page(report(PROVED), net)
    found = shape(markup)
    assert found.links == []
    assert "script" not in found.seen
    assert {"math", "svg", "details", "table", "style"} <= found.seen
    assert "http" not in re.sub(r'xmlns="http[^"]*"', "", markup)
    assert "prefers-color-scheme:dark" in markup and "@media print" in markup


def test_the_three_ways_of_batch_normalisation_are_shown() -> None:
    markup = report_page(report(PROVED), gradc.load(WORKED / "w11.grad"))
    for text in ("d z: 3 ways back", "direct", "through the mean centre", "through the variance"):
        assert text in markup


def test_hazards_are_shown_with_their_rewrite() -> None:
    net = gradc.loads("model m(x: float[3]) -> float { return sqrt(sum(x^2)) }")
    markup = report_page(report(PROVED), net)
    assert "sqrt at 0" in markup
    assert "where(sum(x^2) &gt; 0, sqrt(sum(x^2)), 0)" in markup
    assert "proved equal" in markup


BLOCKS = """
dim B = 2, D = 3
model net(x: float[B, D]) -> float {
    use layers = dense(D, D) * 7
    h = x
    for f in layers { h = tanh(f(h)) }
    return mean(h^2)
}
"""


def test_many_parameters_are_folded_by_block_and_rows_know_their_columns() -> None:
    net = gradc.loads(BLOCKS)
    page = report_page(net.verify(sympy=0), net)
    for number in range(7):
        assert f"<summary>layers.{number} (2, weakest: " in page
    assert '<td data-label="verdict">' in page
    assert "14 parameters, least certain first" in page
    assert "no gradient can become" not in page
    few = gradc.loads(BLOCKS.replace("* 7", "* 3"))
    assert "least certain first" not in report_page(few.verify(sympy=0), few)


def test_a_gradient_that_is_zero_is_measured_absolutely() -> None:
    text = """
    dim B = 4
    model m(x: float[B, 3], y: float[B, 2]) -> float {
        use fc = dense(3, 2)
        use bn = batchnorm(2)
        return mean((tanh(bn(fc(x))) - y)^2)
    }
    """
    found = gradc.loads(text).verify(sympy=0, numbers=True)
    (bias,) = [a for a in found.accuracy if a.tensor == "fc.b"]
    assert bias.of_largest < 50 and bias.elementwise < 50
