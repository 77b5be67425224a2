"""The estimate of memory against processes that are measured; what happens where there is less."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from stages.bundle import Bundle, shipped_bundle
from stages.geometry import GEOMETRIES
from stages.machine import MB
from stages.needs import edge_need, site_need
from tests.support.pictures import photo
from tests.support.processes import MODULE, limited, serving

EDGE = ("global", "decoder", "window")
CPU = "onnxruntime-cpu"


def test_an_edge_takes_what_the_rule_says(tmp_path: Path) -> None:
    line = [sys.executable, "-c", _PEAK, *run_line(tmp_path)]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    resident, estimated = int(done.stdout.split()[-1]), edge_need(shipped(), EDGE, CPU, 1).resident_bytes
    assert estimated / 1.3 < resident < estimated * 1.3


_PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
"""


def test_a_larger_model_needs_more_and_a_gpu_less_of_it() -> None:
    mini = shipped()
    large = replace(mini, geometry=GEOMETRIES["vit_b"])
    assert edge_need(large, EDGE, CPU, 1).resident_bytes - edge_need(mini, EDGE, CPU, 1).resident_bytes == (
        80 * (64 * 64 * 768 - 24 * 24 * 192)
    )
    assert site_need([mini, mini], CPU, 1, 0).resident_bytes > site_need([mini], CPU, 1, 0).resident_bytes
    assert (
        site_need([mini], CPU, 1, 5 * MB).resident_bytes
        == site_need([mini], CPU, 1, 0).resident_bytes + 5 * MB
    )
    assert (
        edge_need(mini, EDGE, CPU, 4).virtual_bytes - edge_need(mini, EDGE, CPU, 2).virtual_bytes == 150 * MB
    )


def shipped() -> Bundle:
    return Bundle.load(shipped_bundle())


def run_line(folder: Path) -> Sequence[str]:
    picture = folder / "photo.png"
    Image.fromarray(photo("16:9")).save(picture)
    return [*MODULE, "run", "--source", str(picture), "--box", "60,20,260,160", "--threads", "1",
            "--backend", CPU, "--out", str(folder / "out")]  # fmt: skip


@pytest.mark.parametrize("mb", [60, 120, 300, 500, 800])
def test_an_edge_with_too_little_address_space_says_so(tmp_path: Path, mb: int) -> None:
    done = subprocess.run(limited(mb * MB, run_line(tmp_path)), capture_output=True, text=True, check=False)
    assert_told(done, f"`ulimit -v` allows {mb} MB of address space")


@pytest.mark.parametrize("mb", [60, 120, 170, 250, 320, 390])
def test_a_site_with_too_little_address_space_says_so(mb: int) -> None:
    line = [*MODULE, "serve", "--port", "0", "--threads", "1", "--backend", CPU]
    done = subprocess.run(limited(mb * MB, line), capture_output=True, text=True, check=False)
    assert_told(done, f"`ulimit -v` allows {mb} MB of address space")


def assert_told(done: subprocess.CompletedProcess[str], words: str) -> None:
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    assert words in " ".join(said.split())
    assert "Traceback" not in said


def test_a_site_with_just_enough_gives_less_memory_to_requests() -> None:
    need = site_need([shipped()], CPU, 1, 3 * MB)
    with serving(None, "--backend", CPU, command=limited(need.virtual_bytes + 40 * MB, MODULE)) as site:
        assert site.read_line().startswith("bodies and answers get ")
        site.process.terminate()
        assert site.wait() == (0, "")


def test_an_engine_whose_memory_runs_out_all_the_same_says_so() -> None:
    done = subprocess.run([sys.executable, "-c", _RUNS_OUT], capture_output=True, text=True, check=False)
    assert done.stdout.startswith(
        "onnxruntime failed on stage window: memory ran out: `ulimit -v` allows "
    ), done
    assert "bfc_arena" not in done.stdout


_RUNS_OUT = """
import resource
from pathlib import Path
import numpy as np
from stages.bundle import Bundle, shipped_bundle
from stages.engines.backends import make_engine
from stages.errors import EngineError
engine = make_engine(Bundle.load(shipped_bundle()), "window", "onnxruntime-cpu", 1)
engine.open()
feeds = {s.name: np.zeros([400, *s.shape[1:]], s.dtype) for s in engine.stage.inputs}
feeds["extent"][:] = 80
now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + 20_000_000, now + 20_000_000))
try:
    engine.infer(feeds)
except EngineError as exc:
    print(exc)
"""
