"""What is shown and reported of a board, from readings as they come."""

from __future__ import annotations

from collections.abc import Mapping

from runtime.live.board import SHORT_MB, STALE_S, THROTTLED_S, Board, BoardReading
from runtime.live.board_reader import THROTTLE_KINDS
from runtime.results.trace import Trace
from stages.tegrastats import parse_tegrastats
from tests.support.samples import lines_of
from tests.support.tegrastats import LOADED

IDLE = lines_of("tegrastats-orin-nano-jp6-idle-root.txt")[0]
THOR = lines_of("tegrastats-agx-thor-r38.4.txt")[0]
BARE = "RAM 100/7620MB"
UNDER_VOLTAGE, AVERAGE, INSTANTANEOUS = THROTTLE_KINDS.values()


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def reading(
    line: str = LOADED, available_mb: int | None = 3000, events: Mapping[str, int] | None = None
) -> BoardReading:
    return BoardReading(parse_tegrastats(line), available_mb, events or {})


def counted(average: int, under: int = 0, instantaneous: int = 0) -> BoardReading:
    """A reading with these events since the board was started."""
    return reading(events={AVERAGE: average, UNDER_VOLTAGE: under, INSTANTANEOUS: instantaneous})


def warnings(board: Board) -> tuple[str, ...]:
    status = board.status()
    assert status is not None
    return status.warnings


def test_the_newest_reading_is_shown() -> None:
    board = Board()
    board.take(reading(IDLE))
    board.take(reading(LOADED, 1200))
    status = board.status()
    assert status is not None
    assert (status.gpu_percent, status.board_power_mw) == (63, 12479)
    assert (status.memory_used_mb, status.memory_total_mb, status.memory_available_mb) == (6185, 7620, 1200)
    assert status.temperatures_c["cpu"] == 53.968
    assert status.power_mw == {"VDD_IN": 12479, "VDD_CPU_GPU_CV": 4667, "VDD_SOC": 2817}
    assert status.warnings == ()


def test_a_reading_that_is_too_old_is_not_shown_and_none_is_none() -> None:
    clock = Clock()
    board = Board(clock=clock)
    assert board.status() is None
    assert board.summary() is None
    board.take(reading())
    clock.now_s += STALE_S
    assert board.status() is not None
    clock.now_s += 0.1
    assert board.status() is None
    assert board.summary() is not None


def test_events_count_from_the_first_reading_and_warn_for_a_minute() -> None:
    clock = Clock()
    board = Board(clock=clock)
    board.take(counted(15))
    assert warnings(board) == ()  # those before this run are not of it
    board.take(counted(17))
    assert warnings(board) == ("throttled: over-current",)
    clock.now_s += THROTTLED_S
    board.take(counted(17))
    assert warnings(board) == ("throttled: over-current",)
    clock.now_s += 0.1
    assert warnings(board) == ()
    board.take(counted(18, 1))
    assert warnings(board) == ("throttled: over-current", "throttled: under-voltage")
    status, summary = board.status(), board.summary()
    assert status is not None
    assert summary is not None
    assert status.throttle_events == {AVERAGE: 3, UNDER_VOLTAGE: 1, INSTANTANEOUS: 0}
    assert summary["throttle_events"] == status.throttle_events


def test_two_kinds_of_over_current_are_one_warning() -> None:
    board = Board()
    board.take(counted(0))
    board.take(counted(1, 0, 9))
    assert warnings(board) == ("throttled: over-current",)


def test_a_counter_that_falls_counts_nothing() -> None:
    board = Board()
    board.take(counted(15))
    board.take(counted(0))
    assert warnings(board) == ()
    status = board.status()
    assert status is not None
    assert status.throttle_events == {AVERAGE: 0, UNDER_VOLTAGE: 0, INSTANTANEOUS: 0}


def test_short_memory_is_told_below_the_limit() -> None:
    board = Board()
    board.take(reading(available_mb=SHORT_MB))
    assert warnings(board) == ()
    board.take(reading(available_mb=SHORT_MB - 1))
    assert warnings(board) == (f"memory is short: {SHORT_MB - 1} MB are available",)
    board.take(reading(available_mb=None))
    assert warnings(board) == ()


def test_the_summary_has_means_and_peaks_of_all_readings() -> None:
    board = Board()
    for each in (reading(IDLE, 3000), reading(LOADED, 1000), reading(IDLE, 2000)):
        board.take(each)
    assert board.summary() == {
        "readings": 3,
        "temperature_c_peak": 53.968,
        "temperature_zone_peak": "cpu",
        "power_w_mean": 6.13,  # 2.957, 12.479, 2.957
        "power_w_peak": 12.479,
        "memory_available_mb_least": 1000,
        "gpu_percent_mean": 21.0,
        "gpu_percent_peak": 63.0,
        "throttle_events": {},
    }


def test_what_a_board_does_not_tell_is_none() -> None:
    board = Board()
    board.take(reading(BARE, None))
    summary = board.summary()
    assert summary is not None
    told = {key for key, value in summary.items() if value not in (None, {})}
    assert told == {"readings"}
    board.take(reading(THOR, None))  # tells a clock of its GPU and no load
    status = board.status()
    assert status is not None
    assert status.gpu_percent is None
    assert status.board_power_mw == 19780


def test_each_reading_is_a_point_of_the_timeline() -> None:
    clock, trace = Clock(), Trace()
    board = Board(trace, clock)
    board.take(reading(LOADED, 1200))
    clock.now_s += 1
    board.take(reading(BARE, None))
    events = trace.events()["traceEvents"]
    assert [(e["ph"], e["name"], e["ts"], e["args"]["value"]) for e in events] == [
        ("C", "GPU load (%)", 0, 63),
        ("C", "memory used (MB)", 0, 6185),
        ("C", "memory available (MB)", 0, 1200),
        ("C", "warmest zone (C)", 0, 53.968),
        ("C", "board power (W)", 0, 12.479),
        ("C", "memory used (MB)", 1e6, 100),
    ]
