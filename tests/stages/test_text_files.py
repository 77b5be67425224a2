"""Text files that people write: what is read, and which line and key a mistake is in."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from stages.errors import InputError
from stages.network import read_token
from stages.text_files import escaped, line_of, read_json, read_text, read_toml

UTF_16 = ("utf-16-le", "utf-16-be", "utf-16", "utf-32")


def write(path: Path, content: bytes) -> Path:
    (path / "file").write_bytes(content)
    return path / "file"


def refused(path: Path, read: Any = read_text, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        read(path, "notes file", **options)
    said = str(caught.value)
    assert said.startswith(f"notes file {path} cannot be read: ")
    assert "\n" not in said
    return said.partition(" cannot be read: ")[2]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_text_with_and_without_its_mark(mark: bytes, tmp_path: Path) -> None:
    text = "# ü\r\na = 1\r\n[b]\r\nc = '°'\r\n"
    path = write(tmp_path, mark + text.encode())
    assert read_text(path) == text
    assert read_toml(path) == {"a": 1, "b": {"c": "°"}}
    path.write_bytes(mark + '{"a":\r\n"°"}\r\n'.encode())
    assert read_json(path) == {"a": "°"}
    path.write_bytes(mark + b" s3cret \r\n")
    assert read_token(path, "the token") == "s3cret"


@pytest.mark.parametrize(
    "content",
    [
        *('[a]\nb = "ü"\n'.encode(encoding) for encoding in UTF_16),
        *(("\ufeff" + "中文" * 9).encode(encoding) for encoding in UTF_16[:2]),  # without a null byte
    ],
)
def test_utf_16_is_named(content: bytes, tmp_path: Path) -> None:
    said = refused(write(tmp_path, content))
    assert said == (
        "it is UTF-16, as Windows writes it (PowerShell's >, Notepad's \"Unicode\"); save it as UTF-8"
    )


@pytest.mark.parametrize(
    "content", [b"\0\0\0\x20ftypisom\xff", b"\x58\0\0\0\0\0\0\0{\xff", b"\0\0\1\0\1\0\xff"]
)
def test_a_film_or_weights_are_no_utf_16(content: bytes, tmp_path: Path) -> None:
    assert refused(write(tmp_path, content)).startswith("byte 0xff in line 1, column ")


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_what_is_no_utf_8_is_found(mark: bytes, tmp_path: Path) -> None:
    said = refused(write(tmp_path, mark + "a\nü = 'é'".encode() + b"\xe9"))
    assert said == "byte 0xe9 in line 2, column 8 is no UTF-8; save the file as UTF-8"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a = 1\nb 2", "(at line 2, column 3)"),
        ("a = 1\na = 2", "Cannot overwrite a value (at end of document)"),
        ("a = " + "[" * 5000, "nested too deeply"),
        ("[[site]\n", "line 1"),
    ],
)
def test_toml_with_a_mistake(text: str, words: str, tmp_path: Path) -> None:
    assert words in refused(write(tmp_path, text.encode()), read_toml)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "it is empty (line 1, column 1)"),
        (' {"a": 1,\n}', "(line 2, column 1)"),
        ('{"a": 1}\n{"a": 2}', "Extra data (line 2, column 1)"),
        ('{"a": [1, {"b": 1,\n "\\u0062": 2}]}', '"\\u0062" stands twice in one object (line 2, column 2)'),
        (
            '{"b": {"b": "NaN: {", "c": [-1e4,\n NaN]}}',
            "NaN is no number that can be used (line 2, column 2)",
        ),
        ("[-Infinity]", "-Infinity is no number that can be used (line 1, column 2)"),
        ("[1,\n1e400]", "1e400 is no number that can be used (line 2, column 1)"),
        ("[" + "9" * 401 + "]", "is no number that can be used (line 1, column 2)"),
        ("[" + "9" * 5000 + "]", "is no number that can be used (line 1, column 2)"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_json_with_a_mistake(text: str, words: str, tmp_path: Path) -> None:
    said = refused(write(tmp_path, text.encode()), read_json)
    assert words in said
    assert len(said) < 200


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    assert refused(tmp_path / "absent") == "No such file or directory"
    assert refused(tmp_path) == "Is a directory"
    assert refused(Path("/dev/zero")) == "it is a device, expected a file"
    assert refused(tmp_path / "a\0b") == "embedded null byte"
    os.mkfifo(tmp_path / "pipe")
    assert refused(tmp_path / "pipe") == "it is a pipe that nobody writes to"


def test_no_more_than_the_limit_is_read(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # without taking space
    assert refused(path, max_bytes=1 << 20) == "it is larger than 1 MiB"


def test_a_pipe_that_a_shell_opened_is_read(tmp_path: Path) -> None:
    """As bash gives it for `--prompts <(command)`."""
    source, sink = os.pipe()

    def later() -> None:
        os.write(sink, b"[1]" + b" " * 70_000)  # more than a pipe holds
        os.close(sink)

    writer = threading.Thread(target=later)
    writer.start()
    try:
        assert read_json(Path(f"/dev/fd/{source}")) == [1]
    finally:
        os.close(source)
        writer.join()


TOML = '# [[site]]\n[[site]]\nurl = "a"\n\n  [[ site ]] # b\nname = "b"\nurl= "b"\n[loop]\nurl = 2\n'


@pytest.mark.parametrize(
    ("table", "number", "key", "line"),
    [
        ("site", 0, "url", 3),
        ("site", 1, "url", 7),
        ("site", 1, "cap", 5),
        ("site", 2, "url", None),
        ("loop", None, "url", 9),
        ("loop", None, None, 8),
        ("other", None, "url", None),
    ],
)
def test_the_line_of_a_key(table: str, number: int | None, key: str | None, line: int | None) -> None:
    assert line_of(TOML, table, number, key) == line


def test_a_name_that_is_no_utf_8_is_escaped() -> None:
    name = os.fsdecode(b"photo_\xe9.jpg")
    assert escaped(name) == "photo_\\udce9.jpg"
    assert escaped("ü") == "ü"
