"""``benchmarks.gpu`` where the driver double is the device.

    python -m benchmarks.gpu_cases .gpu
    DOUBLE=1 PYTHON=python benchmarks/gpu.sh .gpu OUT

Machine code cannot be run here: the texts of each case are printed again, must fit the manifest
that lies beside its machine code, and are what the simulator runs, with every check. Cases of more
operations than it takes in a minute are left out and say so; there is no clock, so times are none.
"""

from __future__ import annotations

import sys
from functools import cached_property

from benchmarks import gpu, gpu_cases
from benchmarks.gpu import Case
from gradc.codegen.backend import backend
from gradc.codegen.cuda.backend import printed
from gradc.codegen.cuda.toolchain.build import CAPABILITIES, Built
from tests.support.cuda_double import Double, doubled

MOST_FLOPS = 5e7
_TIMES = 2  # of what a device does a hundred times


def session_on(double: Double) -> type[gpu.Session]:
    """A session on the double, which is in use."""

    class OnDouble(gpu.Session):
        """Its programs are texts."""

        @cached_property
        def subjects(self) -> dict[str, gpu_cases.Subject]:
            """All cases, of the sizes that were prepared."""
            sizes = {c["kind"]: c["ports"][0]["shape"][0] for c in self.cases}
            maths, product = sizes.get("maths", 1), sizes.get("product", 1)
            return {one.name: one for one in gpu_cases.subjects(maths, product)}

        def refusal(self, case: Case) -> str:
            is_large = case["flops"] > MOST_FLOPS
            return f"{case['flops']:.1e} operations are too many here" if is_large else ""

        def built(self, case: Case) -> Built:
            real, cuda = super().built(case), backend("cuda")
            isa = real.program.signature.isa
            program = printed(self.subjects[case["name"]].plan("cuda"), cuda.target(1, isa))
            made = double.build(program, CAPABILITIES[isa])
            if made.program != real.program:
                raise ValueError(f"{case['name']} was prepared by another version")
            return made

    return OnDouble


def main(arguments: list[str] | None = None) -> int:
    """Runs, and tells."""
    with doubled() as double:
        gpu.REPEATS = gpu.TIMED = _TIMES
        return gpu.main(arguments, session_on(double))


if __name__ == "__main__":
    sys.exit(main())
