"""`python -m gradc` and the `gradc` script: hand the arguments to the command line."""

import sys


def main() -> int:
    """Run the command line on the arguments of this process; return its exit status."""
    try:
        from gradc.runtime.cli import main as run

        return run(sys.argv[1:])
    except KeyboardInterrupt:  # before the command line could look out for it
        return 130


if __name__ == "__main__":
    sys.exit(main())
