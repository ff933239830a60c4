"""The same training as train.c, through Python; and the data file that train.c reads.

python examples/c/reference.py export DATA.bin
python examples/c/reference.py train EPOCHS
"""

import sys
from pathlib import Path

import numpy as np

import gradc

DIGITS = Path(__file__).resolve().parent.parent / "digits"
BATCH = 64


def start() -> tuple[gradc.Model, dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """The model, its initial parameters, images and classes."""
    model = gradc.load(str(DIGITS / "mlp.grad"), dims={"B": BATCH})
    with np.load(DIGITS / "digits_train.npz", allow_pickle=False) as data:
        return model, model.init(seed=0), data["x"], data["y"]


def export(path: str) -> None:
    """Writes parameters, the number of images, images and classes."""
    _, params, x, y = start()
    with open(path, "wb") as file:
        file.writelines(
            array.tobytes() for array in (*params.values(), np.array([len(y)], np.int32), x, y)
        )


def train(epochs: int) -> None:
    """Trains and prints what train.c prints."""
    model, params, x, y = start()
    step = model.train_step("momentum(lr=0.1)")
    state = step.init(params)
    batches = len(y) // BATCH
    for epoch in range(1, epochs + 1):
        total = 0.0
        for batch in range(batches):
            part = slice(batch * BATCH, (batch + 1) * BATCH)
            loss, state = step(state, x=x[part], y=y[part])
            total += float(loss)
        print(f"epoch {epoch} loss {total / batches:.17g}")
    print(f"{state.step} steps")


if __name__ == "__main__":
    if sys.argv[1:2] == ["export"] and len(sys.argv) == 3:
        export(sys.argv[2])
    elif sys.argv[1:2] == ["train"] and len(sys.argv) == 3:
        train(int(sys.argv[2]))
    else:
        sys.exit(__doc__)
