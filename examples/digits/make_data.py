"""Make digits_train.npz and digits_valid.npz from the published table of digits.

Usage: python make_data.py digits.csv.gz

The table (README.md says where it comes from) has one image per line: 64 pixels 0..16 row by row,
then the digit. Of each digit's images, in file order, every fifth is held out (the 3rd, 8th, ...).
Pixels are divided by 16, which float32 represents exactly; nothing is random, so the files can be
remade anywhere.
"""

import gzip
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).resolve().parent
PIXELS = 64
BRIGHTEST = 16
HELD_OUT = 5  # one image in five


def read_table(path: Path) -> NDArray[np.int64]:
    """The table as integers, shape (images, 65); `path` may be gzipped.

    Raises ValueError for a table of another form.
    """
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    rows = [[int(float(cell)) for cell in line.split(",")] for line in text.decode().splitlines()]
    table = np.array(rows, dtype=np.int64)
    if table.ndim != 2 or table.shape[1] != PIXELS + 1:
        raise ValueError(f"{path}: expected {PIXELS + 1} columns, found shape {table.shape}")
    return table


def held_out(labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """True for every fifth image of each digit, shape (images,)."""
    chosen = np.zeros(labels.shape, dtype=np.bool_)
    for digit in np.unique(labels):
        (places,) = np.nonzero(labels == digit)
        chosen[places[HELD_OUT // 2 :: HELD_OUT]] = True
    return chosen


def main() -> None:
    table = read_table(Path(sys.argv[1]))
    pixels = (table[:, :PIXELS] / BRIGHTEST).astype(np.float32)
    labels = table[:, PIXELS]
    valid = held_out(labels)
    for name, part in (("train", ~valid), ("valid", valid)):
        path = HERE / f"digits_{name}.npz"
        np.savez_compressed(path, x=pixels[part], y=labels[part].astype(np.int32))
        print(f"{path.name}: {int(part.sum())} images")


if __name__ == "__main__":
    main()
