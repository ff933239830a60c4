"""What PyTorch's anomaly mode says of trainings that stop, beside what we say."""

import pytest

from tests.support.doctor_cases import cases


@pytest.mark.parametrize(
    ("table", "name", "named"),
    [
        ("sick", "log-zero", "log"),
        ("sick", "zero-distance", "mul"),  # the root's gradient is infinite, not NaN
        ("healthy", "linear", None),
    ],
)
def test_anomaly_mode_on_our_programs(table: str, name: str, named: str | None) -> None:
    pytest.importorskip("torch")
    from tests.support.doctor_anomaly import anomaly

    case = cases(table)[name]
    found = anomaly(case)
    assert found == {"stops": bool(named), "raises": bool(named), "names": named or ""}
