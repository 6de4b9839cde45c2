"""What a study says of the time that is left."""

import pytest

from frostline.display import StudyDisplay


def test_the_time_left_is_the_median_runs_however_long_a_pretraining_took(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0.0, 0.0, 600.0, 600.0, 610.0, 610.0, 622.0, 622.0, 631.0])
    monkeypatch.setattr("frostline.display.perf_counter", lambda: next(clock))
    display = StudyDisplay(runs=5)
    for name in ("pre-training", "full seed 0", "head seed 0", "full seed 1"):
        display.begin(name)
        display.end(name, "done")
    lines = capsys.readouterr().out.splitlines()
    assert "left" not in lines[0]
    assert [line.partition("done")[2].strip() for line in lines[1:]] == [
        "about 30 s left", "about 24 s left", "about 10 s left",
    ]  # fmt: skip
