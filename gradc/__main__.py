"""`python -m gradc` and the `gradc` script: hand the arguments to the command line."""

import sys


def main() -> int:
    """Run the command line on the arguments of this process; return its exit status."""
    from gradc.runtime.cli import main as run

    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
