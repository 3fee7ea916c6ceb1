"""Lines of progress where there is no terminal: what is left is told, and nothing that is counted ends the command."""

import io

import pytest
from rich.console import Console

from radscale.execution import display
from radscale.execution.display import OneBar


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: now[0])
    return now


def lines_of(clock: list[float], calls: list[tuple[float, int, int, str]]) -> list[str]:
    out = io.StringIO()
    with OneBar(Console(file=out, width=200), "work") as progress:
        for seconds, done, total, what in calls:
            clock[0] += seconds
            progress(done, total, what)
    return out.getvalue().splitlines()


def test_what_is_left_follows_from_the_speed(clock: list[float]) -> None:
    lines = lines_of(clock, [(0, 0, 100, "images"), (40, 40, 100, "images")])
    assert lines == ["work: 40/100 images, 1/s, about 60 s left"]


def test_words_that_change_with_each_call_do_not_lose_the_speed(clock: list[float]) -> None:
    lines = lines_of(clock, [(0, 0, 100, "loss 9"), (20, 20, 100, "loss 8"), (20, 40, 100, "loss 7")])
    assert lines == ["work: 40/100 loss 7, 1/s, about 60 s left"]


def test_another_count_has_a_speed_of_its_own(clock: list[float]) -> None:
    lines = lines_of(clock, [(0, 5, 0, "found"), (31, 36, 0, "found"), (31, 10, 50, "images"), (40, 30, 50, "images")])
    assert lines == ["work: 36 found, 1/s", "work: 10/50 images", "work: 30/50 images, 0.5/s, about 40 s left"]


def test_a_resumed_command_does_not_count_what_was_done_before(clock: list[float]) -> None:
    assert lines_of(clock, [(0, 900, 1000, "steps"), (50, 950, 1000, "steps")]) == [
        "work: 950/1000 steps, 1/s, about 50 s left"
    ]
