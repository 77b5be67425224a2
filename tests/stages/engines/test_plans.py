"""Plans and their records: what fits is read, what differs is named, what is damaged is never loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stages.bundle import Bundle
from stages.engines.plans import (
    IMAGE_VARIABLE,
    Attempt,
    PlanKey,
    is_built,
    load_plan,
    plan_key,
    plan_path,
    profile_shapes,
    read_record,
    record_path,
    save_plan,
    why_not_reusable,
)
from stages.errors import EngineError
from stages.files import temporary_path
from tests.support.engines import BOARD, DISCRETE, linked, record_of

PLAN = b"the plan of a window stage" * 100


@pytest.fixture
def bundle(mini_bundle: Bundle, tmp_path: Path) -> Bundle:
    return linked(mini_bundle, tmp_path / "bundle")


@pytest.fixture
def key(bundle: Bundle) -> PlanKey:
    return plan_key(bundle, "window", BOARD, "tensorrt", "10.3.0")


@pytest.fixture
def plan(bundle: Bundle, key: PlanKey) -> Path:
    path = plan_path(bundle, "window", BOARD)
    save_plan(path, PLAN, record_of(key, PLAN))
    return path


def test_what_was_saved_is_loaded(bundle: Bundle, plan: Path, key: PlanKey) -> None:
    assert plan == bundle.path / "engines/test-board-sm_86/window.plan"
    assert load_plan(plan, key) == PLAN
    assert read_record(plan) == record_of(key, PLAN)
    assert why_not_reusable(plan, key) is None
    assert sorted(path.name for path in plan.parent.iterdir()) == ["window.json", "window.plan"]
    assert is_built(bundle, "window", BOARD)
    assert not is_built(bundle, "window", DISCRETE)
    assert not is_built(bundle, "global", BOARD)


def test_the_record_says_what_the_plan_was_built_from(bundle: Bundle, plan: Path) -> None:
    found = json.loads(record_path(plan).read_text())["key"]
    assert found["onnx"] == bundle.stage("window").files
    assert found["site_digest"] == bundle.site_digest
    assert (found["library"], found["library_version"]) == ("tensorrt", "10.3.0")
    assert (found["device"], found["compute_capability"]) == ("Test Board", "sm_86")
    assert found["precision"] == "fp32"
    assert found["shapes"]["index"] == [[1, 1], [8, 1], [25, 1]]


def test_profiles_cover_the_dynamic_axes_alone(mini_bundle: Bundle) -> None:
    assert profile_shapes(mini_bundle, "global") == {}
    window, decoder = profile_shapes(mini_bundle, "window"), profile_shapes(mini_bundle, "decoder")
    assert window["tile"] == ((1, 19200), (8, 19200), (25, 19200))
    assert decoder["point_coords"] == ((1, 1, 2), (1, 2, 2), (4, 32, 2))
    assert decoder["has_mask_input"] == ((1, 1), (1, 1), (4, 1))
    assert "image_embedding" not in decoder


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"library_version": "10.7.0"}, "built for tensorrt 10.3.0, and here is tensorrt 10.7.0"),
        ({"library": "tensorrt_rtx"}, "built for tensorrt 10.3.0, and here is tensorrt_rtx 10.3.0"),
        ({"device": "Orin"}, "built for the GPU Test Board (sm_86), and here is Orin (sm_86)"),
        ({"compute_capability": "sm_87"}, "the GPU Test Board (sm_86), and here is Test Board (sm_87)"),
        ({"onnx": {"window/model.onnx": "0"}}, "built for other weights than this bundle's"),
        ({"site_digest": "sha256:0"}, "and this one has sha256:0"),
        ({"image": "sha256:12"}, "no container image, and here is the container image sha256:12"),
        ({"precision": "fp16"}, "built for precision fp32, and the bundle has fp16"),
        ({"shapes": {}}, "built for input shapes {'tile': ((1, 19200), "),
    ],
)
def test_a_plan_for_anything_else_is_refused(
    plan: Path, key: PlanKey, change: dict[str, Any], words: str
) -> None:
    wanted = replace(key, **change)
    with pytest.raises(EngineError) as refused:
        load_plan(plan, wanted)
    assert words in str(refused.value)
    assert str(refused.value).endswith("build it again with pedsam build")
    reason = why_not_reusable(plan, wanted)
    assert reason is not None
    assert words.removeprefix("built for ") in reason


@pytest.mark.parametrize(
    "damage",
    [lambda data: data[:-1], lambda data: data[:-1] + b"x", lambda data: b""],
    ids=["cut", "edited", "empty"],
)
def test_a_damaged_plan_is_never_loaded(plan: Path, key: PlanKey, damage: Callable[[bytes], bytes]) -> None:
    plan.write_bytes(damage(PLAN))
    with pytest.raises(EngineError, match=r"is not what was built: its .* bytes differ .*; build it again"):
        load_plan(plan, key)
    assert "bytes differ" in str(why_not_reusable(plan, key))


def test_a_plan_without_a_record_is_not_used(plan: Path, key: PlanKey) -> None:
    record_path(plan).unlink()
    with pytest.raises(EngineError, match=r"window.plan was not built, or not completely; run pedsam"):
        load_plan(plan, key)
    assert why_not_reusable(plan, key) == "not built yet"


def test_a_record_without_a_plan_says_so(plan: Path, key: PlanKey) -> None:
    plan.unlink()
    with pytest.raises(EngineError, match=r"window.plan cannot be read \(No such file or directory\); build"):
        load_plan(plan, key)
    assert why_not_reusable(plan, key) == "its record or plan cannot be read"


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", "{}", '{"format": 1}', '{"format": 2}', '{"format": 1, "key": {}}', "[" * 9999],
)
def test_a_damaged_record_is_a_sentence(plan: Path, key: PlanKey, text: str) -> None:
    record_path(plan).write_text(text)
    with pytest.raises(EngineError, match=r"window.json cannot be read.*; build it again"):
        load_plan(plan, key)
    assert why_not_reusable(plan, key) == "its record or plan cannot be read"


def test_who_is_killed_while_saving_leaves_no_plan_that_is_used(plan: Path, key: PlanKey) -> None:
    """The old record goes first: neither the old plan nor half of the new one fits anything then."""
    temporary_path(record_path(plan)).mkdir()  # so that writing the record fails, after the plan was written
    with pytest.raises(IsADirectoryError):
        save_plan(plan, b"another", record_of(key, b"another"))
    assert plan.read_bytes() == b"another"
    with pytest.raises(EngineError, match="was not built, or not completely"):
        load_plan(plan, key)


# Images and tries


def test_an_engine_is_stamped_with_the_image_it_is_built_in(bundle: Bundle, key: PlanKey) -> None:
    assert key.image == ""
    inside = plan_key(bundle, "window", BOARD, "tensorrt", "10.3.0", {IMAGE_VARIABLE: "sha256:ab"})
    assert inside == replace(key, image="sha256:ab")
    path = plan_path(bundle, "window", BOARD)
    save_plan(path, PLAN, record_of(inside, PLAN))
    assert load_plan(path, inside) == PLAN
    words = "built for the container image sha256:ab, and here is the container image sha256:cd"
    assert why_not_reusable(path, replace(inside, image="sha256:cd")) == words
    outside = "built for the container image sha256:ab, and here is no container image"
    assert why_not_reusable(path, key) == outside


def test_records_from_before_images_and_tries_are_read(plan: Path, key: PlanKey) -> None:
    data = json.loads(record_path(plan).read_text())
    del data["key"]["image"], data["attempts"]
    record_path(plan).write_text(json.dumps(data))
    record = read_record(plan)
    assert (record.key, record.attempts) == (key, ())
    assert (record.workspace_bytes, record.optimization_level) == (None, None)
    assert why_not_reusable(plan, key) is None


def test_a_record_keeps_what_was_tried(plan: Path, key: PlanKey) -> None:
    tries = (Attempt(2 << 30, None, "the builder was killed"), Attempt(1 << 30, 1, "built"))
    save_plan(plan, PLAN, record_of(key, PLAN, attempts=tries))
    record = read_record(plan)
    assert record.attempts == tries
    assert (record.workspace_bytes, record.optimization_level) == (1 << 30, 1)
