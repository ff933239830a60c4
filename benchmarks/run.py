"""Compare gradc with PyTorch and JAX: `python benchmarks/run.py --models mlp_tiny,gpt --json
out.json`.
"""

import sys
from importlib import import_module
from pathlib import Path

if __name__ == "__main__":
    # Run as a script, Python looks beside this file; the package lies one folder up.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    sys.exit(import_module("benchmarks.harness").main(sys.argv[1:]))
