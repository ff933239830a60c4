"""``profile --target cuda`` without a device: what machine code and data sheets say, and that
nothing was measured.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from gradc.codegen.cuda import estimate
from gradc.codegen.cuda.program import Program
from gradc.codegen.cuda.toolchain import sass
from tests.support.command_line import gradc

PROGRAM = """
    dim B
    model m(x: float[B, 6], y: float[B]) -> float {
        param w: float[6] ~ normal(0.5)
        return mean((tanh(x) @ w - y)^2)
    }
"""


LISTING = """
//--------------------- .text.k                --------------------------
k:
        /*0000*/                   S2R R2, SR_TID.X ;
.L_x_1:
        /*0010*/                   LDS.128 R4, [R2] ;
.L_x_2:
        /*0020*/                   FFMA R8, R4, R5, R8 ;
        /*0030*/                   FFMA R9, R4, R6, R9 ;
        /*0040*/                   IADD3 R2, R2, 0x1, RZ ;
        /*0050*/               @P0 BRA `(.L_x_2) ;
.L_x_3:
        /*0060*/                   FADD R8, R8, R9 ;
        /*0070*/               @P1 BRA `(.L_x_3) ;
        /*0080*/               @!P2 BRA `(.L_x_1) ;
        /*0090*/                   EXIT ;
.L_x_0:
        /*00a0*/                   BRA `(.L_x_0);
        /*00b0*/                   NOP;
//--------------------- .text.straight         --------------------------
straight:
        /*0000*/                   EXIT ;
.L_x_9:
        /*0010*/                   BRA `(.L_x_9);
"""


def test_the_main_loop_is_the_innermost_one_with_most_multiply_adds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sass, "listing", lambda code: LISTING)
    assert sass.main_loops(b"") == {"k": sass.Loop(4, 2, 0)}


@pytest.mark.parametrize(
    "op, work",
    [
        ("HMMA.16816.F32.BF16", 64),
        ("HMMA.1688.F32", 32),
        ("HGMMA.64x64x16.F32.BF16", 512),
        ("HGMMA.64x256x16.F32", 2048),
        ("DMMA.884", 8),
        ("FFMA", 0),
    ],
)
def test_an_instruction_of_tensor_cores_counts_what_it_multiplies(op: str, work: int) -> None:
    assert sass.matrix_work(op) == work


def test_units_that_multiply_have_work_for_a_part_of_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A slice of 128 x 128 x 32 by 256 threads is 2048 multiply-adds a thread, whatever the
    instruction; what is slower than the schedulers is busy all the time.
    """
    group = ("HGMMA.64x64x16.F32.BF16 R24, gdesc[UR4], R24", 4)
    warp = ("HMMA.16816.F32.BF16 R24, R4, R8, R24", 32)
    rates = estimate.RATES
    for (op, count), isa, others in ((group, "sm_90", 300), (warp, "sm_80", 10)):
        lines = [f"/*0000*/ {op} ;"] * count + ["/*0010*/ IADD3 R2, R2, 0x1, RZ ;"] * others
        text = "\n".join(
            [LISTING.split("k:")[0], ".L_x_1:", *lines, "/*0020*/ @P0 BRA `(.L_x_1) ;"]
        )
        monkeypatch.setattr(sass, "listing", lambda code, text=text: text)
        loop = sass.main_loops(b"")["k"]
        assert (loop.tensor, loop.multiply_adds) == (count, 2048)
        expected = 2048 / 16 / (count + others + 1) if isa == "sm_90" else 1.0
        assert loop.busy(rates[isa]) == pytest.approx(expected)
    assert sass.Loop(40, 30, 0).busy(rates["sm_90"]) == 0.75
    assert sass.Loop(40, 30, 0).busy(rates["sm_80"]) == 1.0  # two clocks each
    assert sass.Loop(40, 15, 0, doubles=15).busy(rates["sm_90"]) == 0.75


def test_peaks_of_data_sheets_are_rates_at_a_clock() -> None:
    """By every type the same clock, between 1 and 2.2 GHz."""
    for isa, sheets in estimate.SHEETS.items():
        rates = estimate.RATES[isa]
        for sheet in sheets:
            pairs = (("f32", rates.f32), ("f64", rates.f64), ("bf16", rates.matrix))
            clocks = [sheet.flops[n] / 2 / rate / sheet.multiprocessors for n, rate in pairs]
            assert 1e9 < min(clocks) and max(clocks) < 2.3e9 and max(clocks) < 1.25 * min(clocks)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program, where there is neither a driver nor a toolchain: machine code as it might be."""
    path = tmp_path / "m.grad"
    path.write_text(PROGRAM)

    def made(program: Program, capability: object) -> SimpleNamespace:
        return SimpleNamespace(cubin=program)

    def read(program: Program) -> dict[str, sass.Statistics]:
        facts = (80, 0, 40 << 10, 100, 0, 0, 2, 1, 30, 20, 0)
        return {text.name: sass.Statistics(text.name, *facts) for text in program.texts}

    monkeypatch.setenv("GRADC_LIBCUDA", str(tmp_path / "none.so"))
    monkeypatch.setattr(estimate, "build", made)
    monkeypatch.setattr(sass, "statistics", read)
    monkeypatch.setattr(sass, "main_loops", lambda program: {"k0_tanh": sass.Loop(40, 30, 0)})
    return path


def test_the_estimate_is_what_data_sheets_allow_and_says_so(file: Path) -> None:
    done = gradc("profile", file, "-D", "B=65536", "--target", "cuda", "--json")
    assert done.status == 0, done.err
    data = json.loads(done.out)
    assert data["measured"] is False and "nothing was measured" in data["about"]
    first = data["launches"][0]
    assert first["bytes"] == 2 * 65536 * 6 * 4 and first["flops"] == 65536 * 6
    assert first["least"] == pytest.approx([3_145_728 / 3.35e12, 3_145_728 / 4.8e12])
    assert set(first["bound"]) == {"bandwidth"}
    (code,) = first["codes"]
    # 65 536 registers, 8 warps of 80 x 32; 228 KB, of which each block has 40 + 1.
    assert code["blocks"] == 3 and code["occupancy"] == pytest.approx(3 * 256 / 2048)
    assert code["hot_share"] == 0.75
    assert data["least"][0] == pytest.approx(sum(one["least"][0] for one in data["launches"]))


def test_the_estimate_of_a_step_is_shown_as_one(file: Path) -> None:
    asked = ("profile", file, "-D", "B=300000", "--target", "cuda", "--optimizer", "sgd(lr=0.1)")
    done = gradc(*asked, "--most", 2)
    assert done.status == 0, done.err
    assert "a training step, for sm_90: an estimate" in done.out
    assert "nothing was measured" in done.out and "NVIDIA H200 datasheet" in done.out
    assert "3 blocks" in done.out and "more (--most)" in done.out


def test_pages_need_a_device(file: Path, tmp_path: Path) -> None:
    done = gradc("profile", file, "-D", "B=3", "--target", "cuda", "--html", tmp_path / "p.html")
    assert done.status == 1 and "GC0596" in done.err
