"""The flags that subcommands share. Importing this loads nothing of the compiler.

Non-goals: what the flags mean (``commands.common``), flags of one subcommand only.
"""

from __future__ import annotations

import argparse

PRECISIONS = ("f64", "f32", "bf16", "f16")
TARGETS = ("cpu", "reference", "cuda")


def add_model(parser: argparse.ArgumentParser, is_optional: bool = False) -> None:
    """FILE (which may be left out, if ``is_optional``) and what chooses and binds the model in
    it.
    """
    text = "a .grad program; - reads it from stdin"
    if is_optional:
        parser.add_argument("file", metavar="FILE", nargs="?", help=text)
    else:
        parser.add_argument("file", metavar="FILE", help=text)
    parser.add_argument("--entry", metavar="NAME", help="which model, where there are several")
    parser.add_argument(
        "-D",
        dest="dims",
        action="append",
        default=[],
        metavar="NAME=N",
        help="the value of a dimension; may be given several times",
    )
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="f32", help="what `float` means (f32)"
    )


def target(text: str) -> str:
    """The name of a target, with the number of a device behind it or without."""
    name, colon, number = text.partition(":")
    if name not in TARGETS or (colon and not (name == "cuda" and number.isdecimal())):
        known = ", ".join(f"'{one}'" for one in TARGETS)
        raise argparse.ArgumentTypeError(f"invalid choice: '{text}' (choose from {known})")
    return text


def add_target(parser: argparse.ArgumentParser) -> None:
    """What to compile for."""
    parser.add_argument(
        "--target",
        type=target,
        metavar=f"{{{','.join(TARGETS)}}}",
        default="cpu",
        help="what to compile for (cpu); cuda:1 is the second device",
    )


def add_compile(parser: argparse.ArgumentParser) -> None:
    """How to compile."""
    parser.add_argument("--budget", metavar="SIZE", help="most memory, e.g. 64MiB")
    add_target(parser)
    parser.add_argument("--threads", type=int, metavar="N", help="threads (one per core)")
    parser.add_argument(
        "--no-cache", action="store_true", help="neither read nor write the object cache"
    )


def add_data(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Arrays of the call, and where parameters come from."""
    parser.add_argument(
        "--data", metavar="IN.npz", required=required, help="the model's inputs by name"
    )
    parser.add_argument("--params", metavar="P.safetensors", help="parameters to use")
    parser.add_argument("--seed", type=int, default=0, help="seed of fresh parameters (0)")


def add_outputs(parser: argparse.ArgumentParser) -> None:
    """Which results of the forward program, and so which inputs and parameters."""
    parser.add_argument(
        "--outputs",
        metavar="NAMES",
        help="results, separated by commas; only what they depend on is needed",
    )
