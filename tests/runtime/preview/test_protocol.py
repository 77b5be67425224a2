"""What a viewer may say, and how everything else is refused."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.objects.prompts import PromptRequest
from runtime.preview import protocol
from runtime.preview.protocol import (
    ConfirmCommand,
    FrameShown,
    Hello,
    Look,
    PauseCommand,
    PromptCommand,
    PromptsCommand,
    ProtocolError,
    RemoveCommand,
    RenameCommand,
    SaveCommand,
)

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=50),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=10), inner, max_size=5),
    max_leaves=10,
)
KEYS = (
    "id",
    "token",
    "number",
    "name",
    "new",
    "points",
    "box",
    "paused",
    "operator",
    "after",
    "file",
    "more",
)
KINDS = tuple(protocol._DECODERS)
NEARLY = st.builds(
    lambda kind, content: {"type": kind, **content},
    st.sampled_from(KINDS) | ANY_JSON,
    st.dictionaries(st.sampled_from(KEYS), ANY_JSON | st.integers(0, 9) | st.just([[1, 2, 1]]), max_size=5),
)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"type": "hello", "token": "t"}, Hello("t")),
        ({"type": "shown", "number": 7}, FrameShown(7)),
        ({"type": "look", "operator": "a", "after": 3}, Look("a", 3)),
        ({"type": "look", "operator": "a"}, Look("a", 0)),
        ({"type": "look", "operator": None}, Look(None)),
        ({"type": "prompt", "number": 3, "points": [[1, 2.5, 1]]},
         PromptCommand(PromptRequest(3, points=((1, 2.5, 1),)))),
        (
            {"type": "prompt", "id": 9, "number": 3, "name": " a ",
             "points": [[1, 2, 0]], "box": [0, 1, 2, 3]},
            PromptCommand(PromptRequest(3, "a", ((1, 2, 0),), (0, 1, 2, 3)), 9),
        ),
        ({"type": "prompt", "number": 0, "name": None, "points": None, "box": [0, 0, 1, 1], "id": None},
         PromptCommand(PromptRequest(0, None, (), (0, 0, 1, 1)))),
        ({"type": "prompt", "number": 0, "new": "cup", "points": [[1, 2, 1]]},
         PromptCommand(PromptRequest(0, points=((1, 2, 1),), new_name="cup"))),
        ({"type": "confirm", "number": 3, "name": "cup", "id": 2}, ConfirmCommand("cup", 3, 2)),
        ({"type": "save", "number": 3, "file": "coco.json"}, SaveCommand(3, "coco.json")),
        ({"type": "save", "number": 3, "file": "cutout.png", "name": "cup", "id": 4},
         SaveCommand(3, "cutout.png", "cup", 4)),
        ({"type": "prompts", "id": 5}, PromptsCommand(5)),
        ({"type": "look", "operator": "a", "id": 6}, Look("a", 0, 6)),
        ({"type": "remove", "name": "cup", "id": 0}, RemoveCommand("cup", 0)),
        ({"type": "rename", "name": "cup", "new": "Tasse ☕"}, RenameCommand("cup", "Tasse ☕")),
        ({"type": "pause", "paused": False, "id": 1}, PauseCommand(False, 1)),
    ],
)  # fmt: skip
def test_each_message_is_read(body: dict[str, Any], message: protocol.Message) -> None:
    assert protocol.decode(json.dumps(body)) == message


PROMPT = {"type": "prompt", "number": 1, "points": [[1, 2, 1]]}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "a message is not JSON"),
        ("[" * 16_000, "a message is not JSON"),
        ('{"type": "shown", "number": NaN}', "a message is not JSON"),
        ("[]", "a message is not a JSON object"),
        ("{}", "a message has the type None, expected one of hello, shown, look, prompt"),
        ('{"type": ["hello"]}', "a message has the type ['hello'], expected"),
        ('{"type": "hello"}', "hello is refused: it has no token"),
        (json.dumps({"type": "hello", "token": "t" * 201}), "it has no token"),
        ('{"type": "shown", "number": true}', "number is True, expected the number of a frame"),
        ('{"type": "shown", "number": -1}', "number is -1"),
        ('{"type": "shown", "number": 1.0}', "number is 1.0"),
        (json.dumps({"type": "shown", "number": 2**60}), "number is 1152"),
        ('{"type": "pause", "paused": 1}', "paused is 1, expected true or false"),
        ('{"type": "pause", "paused": true, "id": "x"}', "a message has the id 'x'"),
        ('{"type": "remove", "name": ""}', "name is '', expected 1 to 40 printable characters"),
        ('{"type": "remove", "name": "  "}', "name is '  '"),
        (json.dumps({"type": "remove", "name": "n" * 41}), "expected 1 to 40"),
        ('{"type": "remove", "name": "\\ud800"}', "name is '\\ud800'"),
        ('{"type": "rename", "name": "a", "new": "b\\u202ec"}', "new is 'b\\u202ec'"),
        ('{"type": "rename", "name": "a", "new": 7}', "new is 7"),
        ('{"type": "prompt", "number": 1}', "neither points nor a box"),
        (json.dumps({**PROMPT, "points": [[1, 2, 1]] * 65}), "points is not a list of at most 30"),
        (json.dumps({**PROMPT, "points": "abc"}), "points is not a list"),
        (json.dumps({**PROMPT, "points": [[1, 2]]}), "a point is [1, 2], expected [x, y, 1]"),
        (json.dumps({**PROMPT, "points": [[1, 2, True]]}), "a point is [1, 2, True]"),
        (json.dumps({**PROMPT, "points": [[1, 2, 2]]}), "a point is [1, 2, 2]"),
        (json.dumps({**PROMPT, "points": [[1, "2", 1]]}), "a point is [1, '2', 1]"),
        ('{"type": "prompt", "number": 1, "points": [[1e999, 2, 1]]}', "a point is [inf, 2, 1]"),
        (json.dumps({**PROMPT, "points": [[2e6, 2, 1]]}), "a point is [2000000.0, 2, 1]"),
        (json.dumps({**PROMPT, "box": [1, 2, 3]}), "box is [1, 2, 3], expected [left, top, right, bottom]"),
        (json.dumps({**PROMPT, "box": [1, 2, 3, False]}), "box is [1, 2, 3, False]"),
        (json.dumps({**PROMPT, "box": [3, 2, 3, 4]}), "which is empty"),
        (json.dumps({**PROMPT, "colour": 1}), "it has the unknown key 'colour'"),
        (json.dumps({**PROMPT, "name": "a", "new": "b"}), "it has a name, of an object there is, and new"),
        (json.dumps({**PROMPT, "new": "b\n"}), "new is 'b\\n', expected 1 to 40 printable characters"),
        ('{"type": "confirm", "name": "a"}', "number is None, expected the number of a frame"),
        (
            '{"type": "save", "number": 1, "file": "../x"}',
            "file is '../x', expected one of frame.png, overlay",
        ),
        ('{"type": "save", "number": 1, "file": ["frame.png"]}', "file is ['frame.png'], expected one of"),
        ('{"type": "prompts", "name": "a"}', "it has the unknown key 'name'"),
    ],
)
def test_what_breaks_the_protocol_is_refused_in_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        protocol.decode(text)
    assert sentence in str(caught.value)


@pytest.mark.parametrize("kind", ["pause", "unknown"])
def test_a_refusal_has_the_id_of_its_message(kind: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        protocol.decode(json.dumps({"type": kind, "id": 12}))
    assert caught.value.id == 12


def test_the_token_is_in_no_printed_form() -> None:
    assert "secret" not in repr(protocol.decode('{"type": "hello", "token": "secret"}'))


@given(st.text(max_size=200) | NEARLY.map(json.dumps) | ANY_JSON.map(json.dumps))
def test_whatever_comes_is_a_message_or_refused(text: str) -> None:
    try:
        message: object = protocol.decode(text)
    except ProtocolError as exc:
        message = str(exc)
    if isinstance(message, str):
        assert message.isprintable()
        assert len(message) < 250
    else:
        assert type(message) in get_args(protocol.Message)


@given(st.dictionaries(st.text(max_size=9), st.integers() | st.text(max_size=9)), st.binary(max_size=99))
def test_a_frame_message_is_read_as_it_was_written(header: dict[str, Any], jpeg: bytes) -> None:
    header.pop("type", None)
    header.pop("kind", None)
    assert protocol.decode_frame(protocol.encode_frame(header, jpeg)) == ({"type": "frame", **header}, jpeg)


def test_a_frame_message_in_bytes() -> None:
    assert protocol.encode_frame({"number": 1}, b"jpeg") == b'\x1b\0\0\0{"type":"frame","number":1}jpeg'


def test_what_json_cannot_say_is_not_said() -> None:
    with pytest.raises(ValueError, match="Out of range"):
        protocol.encode("status", fps=float("nan"))
