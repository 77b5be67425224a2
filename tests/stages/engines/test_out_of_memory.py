"""Every way in which boards say that memory ran out, by what real ones printed."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.engines.out_of_memory import says_out_of_memory, wants_more_workspace

SAMPLES = Path(__file__).parents[2] / "jetson/samples"
WANTED = "Error Code 2: OutOfMemory (Requested size was 9634304 bytes.)"
LIMIT = "no tactics within workspace limit. Consider increase the allowed workspace size if applicable."


def lines(name: str) -> list[str]:
    return (SAMPLES / name).read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize(
    "line", [*lines("trt-build-oom-orin.txt"), *lines("nvmap-error12.txt"), WANTED, LIMIT]
)
def test_every_text_about_memory_is_recognised(line: str) -> None:
    assert says_out_of_memory(line)
    assert says_out_of_memory(f"something before\n{line}\nsomething after")


@pytest.mark.parametrize(
    "line",
    [
        *lines("trt-deserialize-errors.txt"),
        "NvMapMemAllocInternalTagged: 1075072515 error 2",
        "CUDA error 201 for a context",
        "Killed by the user's own script",
        "IBuilder::buildSerializedNetwork: FP32 GEMM is not supported",
        "[MemUsageChange] Init CUDA: CPU +2, GPU +0, now: CPU 15, GPU 1793 (MiB)",
        "",
    ],
)
def test_other_texts_are_not(line: str) -> None:
    assert not says_out_of_memory(line)


def test_a_limit_that_was_too_little_is_told_from_memory_that_is_gone() -> None:
    assert wants_more_workspace(WANTED, 9634303)
    assert not wants_more_workspace(WANTED, 9634304)
    assert wants_more_workspace(LIMIT, 1)
    assert not wants_more_workspace(LIMIT, None)
    assert not any(wants_more_workspace(line, 1) for line in lines("trt-build-oom-orin.txt"))
