"""Exchanges between ranks in machine code: begun by one kernel, waited for by another."""

import numpy as np
import pytest

from gradc.codegen import exchange
from gradc.codegen.llvm.isa import host
from gradc.codegen.llvm.nest import nest
from gradc.codegen.llvm.text import Module
from gradc.ir.loop.kernel import Buffer, Exchange, Kernel
from gradc.ir.tensor.core import DType


@pytest.mark.parametrize("ends, kind", [(False, "share_across"), (True, "await")])
def test_a_kernel_begins_an_exchange_or_waits_for_it(ends: bool, kind: str) -> None:
    buffer = Buffer("y", DType.F32, 6, "update")
    kernel = Kernel("k", (buffer,), (Exchange("share_across", buffer, 2, ends),))
    isa = host()
    module = Module(isa.triple, "", isa.attributes)
    nest.emit_kernel(module, kernel, "k", isa)
    (call,) = [line for line in module.text().splitlines() if "call void @gradc_exchange" in line]
    number = exchange.KINDS.index(kind)
    assert f"(i64 {number}, ptr " in call and call.endswith("i64 2, i64 12)")


def test_an_exchange_that_nobody_waits_for_is_told() -> None:
    class Two:
        rank, size = 0, 2

        def begin(self, kind: str, parts: exchange.Bytes) -> object:
            return lambda: None

    parts = np.zeros((2, 4), np.uint8)
    exchange.join(Two())  # type: ignore[arg-type]
    exchange.run("deal", parts)
    with pytest.raises(RuntimeError, match="1 exchanges have not been waited for"):
        exchange.check()
    exchange.run("deal", parts)
    with pytest.raises(RuntimeError, match="begins where an exchange is on its way"):
        exchange.check()
    exchange.join(Two())  # type: ignore[arg-type]
    exchange.run("deal", parts)
    exchange.run("await", parts)
    exchange.check()
    exchange.join(None)
