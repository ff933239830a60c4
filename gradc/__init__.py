"""gradc, a differentiation compiler: the public names.

`import gradc` loads nothing but this file; each name is fetched from its module when it is
first used, so that the command line starts fast and tools can import the package cheaply.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from gradc._version import __version__

if TYPE_CHECKING:
    from gradc.ir.diagnostics import Diagnostic, DiagnosticError
    from gradc.runtime.api import Model, load, loads
    from gradc.runtime.tracing.transforms import grad, hessian, jacobian, jvp, value_and_grad

__all__ = [
    "Diagnostic",
    "DiagnosticError",
    "Model",
    "__version__",
    "grad",
    "hessian",
    "jacobian",
    "jvp",
    "load",
    "loads",
    "value_and_grad",
]

_HOMES = {
    "Diagnostic": "gradc.ir.diagnostics",
    "DiagnosticError": "gradc.ir.diagnostics",
    "Model": "gradc.runtime.api",
    "grad": "gradc.runtime.tracing.transforms",
    "hessian": "gradc.runtime.tracing.transforms",
    "jacobian": "gradc.runtime.tracing.transforms",
    "jvp": "gradc.runtime.tracing.transforms",
    "load": "gradc.runtime.api",
    "loads": "gradc.runtime.api",
    "value_and_grad": "gradc.runtime.tracing.transforms",
}


def __getattr__(name: str) -> object:
    """Fetch a public name from the module that defines it, once.

    Raises AttributeError for a name that is not public.
    """
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'gradc' has no attribute {name!r}")
    found: object = getattr(import_module(home), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
