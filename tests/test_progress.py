"""How far a long computation is, told in lines."""

import pytest

from genpipe import progress


@pytest.mark.parametrize(("elapsed", "seconds"), [(0, 5), (59, 5), (120, 10), (600, 50), (90_000, 60)])
def test_lines_come_seldomer_the_longer_it_takes(elapsed: float, seconds: float) -> None:
    assert progress.pause(elapsed) == pytest.approx(seconds)


def test_a_line_tells_steps_speed_and_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0)
    show = progress.lines("train", total=1000, start=0, examples_per_step=8)
    show(500)
    line = capsys.readouterr().err
    assert line.startswith("train: 500 of 1,000 steps, ")
    assert line.endswith("s left\n")
