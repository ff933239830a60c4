"""``gradc cache info|clear``: the compiled-object cache."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from gradc.runtime.console import Console
from gradc.runtime.native.cache import ObjectCache


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("info", "clear"), help="what to do")
    parser.add_argument("--json", action="store_true", help="the result as JSON")


def run(options: argparse.Namespace, console: Console) -> int:
    """Says what the cache holds, or empties it. Whoever can write to it can run code: it is private
    to you.
    """
    cache = ObjectCache()
    if options.action == "clear":
        count = cache.clear()
        if options.json:
            console.json({"removed": count})
        else:
            console.result(f"removed {count} entries from {cache.directory}")
        return 0
    info = cache.info()
    if options.json:
        console.json(asdict(info))
        return 0
    console.result(f"directory  {info.directory}")
    console.result(f"entries    {info.entries}")
    console.result(f"bytes      {info.nbytes}")
    if info.problem:
        console.result(f"not used   {info.problem}")
    return 0
