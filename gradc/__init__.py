"""gradc, a differentiation compiler: the public names.

`import gradc` loads nothing but this file; each name is fetched from its module when it is
first used, so that the command line starts fast and tools can import the package cheaply.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from gradc._version import __version__

if TYPE_CHECKING:
    from gradc.ir.diagnostics.diagnostic import Diagnostic, DiagnosticError
    from gradc.runtime.api import Model, load, loads
    from gradc.runtime.tracing.captures import TraceWarning
    from gradc.runtime.tracing.control import (
        cond,
        fori_loop,
        scan,
        stop_gradient,
        vmap,
        while_loop,
    )
    from gradc.runtime.tracing.custom import custom_vjp
    from gradc.runtime.tracing.transforms import (
        elementwise_grad,
        grad,
        hessian,
        hvp,
        jacfwd,
        jacobian,
        jacrev,
        jit,
        jvp,
        value_and_grad,
        vjp,
    )
    from gradc.runtime.tracing.trees import register_tree

__all__ = [
    "Diagnostic",
    "DiagnosticError",
    "Model",
    "TraceWarning",
    "__version__",
    "cond",
    "custom_vjp",
    "elementwise_grad",
    "fori_loop",
    "grad",
    "hessian",
    "hvp",
    "jacfwd",
    "jacobian",
    "jacrev",
    "jit",
    "jvp",
    "load",
    "loads",
    "register_tree",
    "scan",
    "stop_gradient",
    "value_and_grad",
    "vjp",
    "vmap",
    "while_loop",
]

_HOMES = {
    "Diagnostic": "gradc.ir.diagnostics.diagnostic",
    "DiagnosticError": "gradc.ir.diagnostics.diagnostic",
    "Model": "gradc.runtime.api",
    "TraceWarning": "gradc.runtime.tracing.captures",
    "cond": "gradc.runtime.tracing.control",
    "custom_vjp": "gradc.runtime.tracing.custom",
    "elementwise_grad": "gradc.runtime.tracing.transforms",
    "fori_loop": "gradc.runtime.tracing.control",
    "grad": "gradc.runtime.tracing.transforms",
    "hessian": "gradc.runtime.tracing.transforms",
    "hvp": "gradc.runtime.tracing.transforms",
    "jacfwd": "gradc.runtime.tracing.transforms",
    "jacobian": "gradc.runtime.tracing.transforms",
    "jacrev": "gradc.runtime.tracing.transforms",
    "jit": "gradc.runtime.tracing.transforms",
    "jvp": "gradc.runtime.tracing.transforms",
    "load": "gradc.runtime.api",
    "loads": "gradc.runtime.api",
    "register_tree": "gradc.runtime.tracing.trees",
    "scan": "gradc.runtime.tracing.control",
    "stop_gradient": "gradc.runtime.tracing.control",
    "value_and_grad": "gradc.runtime.tracing.transforms",
    "vjp": "gradc.runtime.tracing.transforms",
    "vmap": "gradc.runtime.tracing.control",
    "while_loop": "gradc.runtime.tracing.control",
}


def __getattr__(name: str) -> object:
    """Fetch a public name from the module that defines it, once.

    Raises AttributeError for a name that is not public, ImportError where a library that gradc
    needs is missing.
    """
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'gradc' has no attribute {name!r}")
    with import_module("gradc.runtime.needs").told():
        found: object = getattr(import_module(home), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
