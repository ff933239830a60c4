"""Golden files: exact text kept beside the tests. `pytest --bless` rewrites them; review reads the
diff.
"""

from __future__ import annotations

from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent.parent / "golden"


def check_golden(name: str, text: str, config: pytest.Config) -> None:
    """Assert that ``text`` is what the golden file ``name`` holds, or write it under `--bless`."""
    path = GOLDEN / name
    if config.getoption("bless", default=False):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert path.exists(), f"{path} is missing: run `pytest --bless` and read the diff"
    assert text == path.read_text(encoding="utf-8")
