"""Make text_train.npz and text_valid.npz from the sources of Python's own standard library.

Usage: python make_data.py FOLDER [--steps 64]

The text is at hand wherever this runs, is real, and needs no download; which text it is depends on
the Python version, and the script prints a digest of it. Characters are bytes: one of 96 classes,
the printable ones and the newline, all others counted as a space. The last tenth of the text is
held out. To have something to beat, the script prints the bits per character of an order-3 count
model.
"""

import argparse
import hashlib
import sysconfig
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

MODULES = ("argparse", "ast", "datetime", "decimal", "difflib", "doctest", "pathlib", "typing")
FALLBACK = "_py"  # where a module's Python source is kept beside a compiled one
CLASSES = 96
ORDER = 3
Codes = NDArray[np.int32]


def read_text() -> bytes:
    """The sources of MODULES that this Python has, one after the other."""
    library = Path(sysconfig.get_paths()["stdlib"])
    parts = []
    for module in MODULES:
        choices = (library / f"{FALLBACK}{module}.py", library / f"{module}.py")
        parts += [path.read_bytes() for path in choices if path.is_file()][:1]
    return b"".join(parts)


def encode(text: bytes) -> Codes:
    """Class ids 0..95: 0 is the newline, 1..95 are the printable characters from the space on."""
    codes = np.frombuffer(text, dtype=np.uint8).astype(np.int32)
    printable = np.where((codes >= 32) & (codes < 127), codes - 31, 1)
    return np.where(codes == 10, 0, printable).astype(np.int32)


def windows(codes: Codes, steps: int) -> dict[str, Codes]:
    """Text cut into rows of `steps` characters, and what follows each of them."""
    rows = (len(codes) - 1) // steps
    return {
        "tokens": codes[: rows * steps].reshape(rows, steps),
        "targets": codes[1 : rows * steps + 1].reshape(rows, steps),
    }


def contexts(codes: Codes) -> NDArray[np.int64]:
    """The ORDER characters before each one, as one number; the first ORDER characters have none."""
    found = np.zeros(len(codes) - ORDER, dtype=np.int64)
    for back in range(ORDER, 0, -1):
        found = found * CLASSES + codes[ORDER - back : len(codes) - back]
    return found


def count_model_bits(train: Codes, valid: Codes) -> float:
    """Bits per character of the held-out text by counts of ORDER + 1 characters.

    Each order is smoothed by the one below it (Witten and Bell): a context seen n times with k
    different followers trusts itself with weight n / (n + k).
    """
    chance = np.full(len(valid) - ORDER, 1 / CLASSES)
    seen_after, asked_after = contexts(train), contexts(valid)
    seen, asked = train[ORDER:], valid[ORDER:]
    for order in range(ORDER + 1):
        base = CLASSES**order
        pairs = np.sort((seen_after % base) * CLASSES + seen)
        wanted = (asked_after % base) * CLASSES + asked
        both = np.searchsorted(pairs, wanted, "right") - np.searchsorted(pairs, wanted, "left")
        low = (asked_after % base) * CLASSES
        first, last = np.searchsorted(pairs, low), np.searchsorted(pairs, low + CLASSES)
        kinds = np.concatenate(([0], np.cumsum(np.diff(pairs, prepend=-1) != 0)))
        total, different = last - first, kinds[last] - kinds[first]
        weight = np.maximum(total + different, 1)
        chance = np.where(total > 0, (both + different * chance) / weight, chance)
    return float(-np.log2(chance).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=64, help="characters per row")
    chosen = parser.parse_args()
    text = read_text()
    codes = encode(text)
    border = len(codes) * 9 // 10
    train, valid = codes[:border], codes[border:]
    chosen.folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", train), ("valid", valid)):
        arrays = windows(part, chosen.steps)
        path = chosen.folder / f"text_{name}.npz"
        np.savez_compressed(path, tokens=arrays["tokens"], targets=arrays["targets"])
        print(f"{path.name}: {arrays['tokens'].shape[0]} rows of {chosen.steps} characters")
    print(f"{len(text)} characters, sha256 {hashlib.sha256(text).hexdigest()[:16]}")
    print(f"order-{ORDER} count model: {count_model_bits(train, valid):.3f} bits per character")


if __name__ == "__main__":
    main()
