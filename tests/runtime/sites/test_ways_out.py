"""No tile of a picture leaves without a grant of the ledger, and none that its frame keeps: by what there is
in the source. What a run really sends is held by test_caps, test_kept and test_exposure."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.sites.client import SiteClient
from runtime.sites.sendable import SendableTile
from runtime.sites.spot_checks import synthetic_tiles
from stages.bundle import Bundle
from tests.support.edge import canvas_of, granted

ROOT = Path(__file__).parents[3]
CLIENT = "runtime/sites/client.py"
# Whatever begins a connection, in the libraries that the edge has.
CONNECTS = (
    *("ClientSession", "open_connection", "create_connection", "connect_tcp", "urlopen", "sendto"),
    *("HTTPConnection", "HTTPSConnection", "sock_connect", "connect_ex", "create_datagram_endpoint"),
)


def uses(folder: str = "runtime") -> Iterator[tuple[str, str, str]]:
    """File, outermost function or method, and name, of each name that is read in the code of a folder."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
        for node in [*tree.body, *(each for cls in classes for each in cls.body)]:
            if isinstance(node, ast.ClassDef):
                continue
            for name in names_read(node):
                yield str(path.relative_to(ROOT)), getattr(node, "name", ""), name


def names_read(node: ast.AST) -> Iterator[str]:
    """`post` of `self.post`; annotations and names of types, which make nothing, are left out."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        parts: list[ast.AST] = [*node.decorator_list, *node.args.defaults, *node.body]
    elif isinstance(node, ast.AnnAssign):
        is_type = ast.unparse(node.annotation) == "TypeAlias"
        parts = [node.value] if node.value and not is_type else []
    else:
        parts = list(ast.iter_child_nodes(node))
    if isinstance(node, ast.Attribute):
        yield node.attr
    elif isinstance(node, ast.Name):
        yield node.id
    for part in parts:
        yield from names_read(part)


def users(*names: str, folder: str = "runtime") -> set[tuple[str, str]]:
    """File and function of everything that uses one of these names."""
    return {(path, function) for path, function, name in uses(folder) if name in names}


def callers(method: str) -> set[str]:
    """Methods of SiteClient that use another."""
    return {function for path, function in users(method) if path == CLIENT}


def test_one_place_connects_to_sites() -> None:
    """One looks whether an address answers, and says nothing there; one tells systemd, on this machine, that
    the run moves."""
    assert users(*CONNECTS) == {
        (CLIENT, "__aenter__"),
        ("runtime/check/reachability.py", "_connected"),
        ("runtime/live/systemd.py", "pet_watchdog"),
    }


def test_one_place_connects_to_a_broker_and_has_no_tiles() -> None:
    """It is in a folder of its own, which knows neither windows nor what is sent of them."""
    folder = ROOT / "runtime/mqtt"
    assert {path for path, _, name in uses() if name == "paho"} <= {
        str(path.relative_to(ROOT)) for path in folder.glob("*.py")
    }
    text = "".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py"))
    assert "runtime.sites" not in text
    assert "runtime.encoder" not in text


def test_tiles_have_one_way_to_the_socket() -> None:
    assert callers("_http") == {"__aenter__", "__aexit__", "_request"}
    assert callers("_request") == {"_get", "_infer", "send_noise"}
    assert callers("_infer") == {"_post", "run_probe"}
    assert callers("_post") == {"infer", "_measure_tile_s", "check_probe", "probe_embedding"}
    outside = {path for path, _ in users("_http", "_request", "_post")} - {CLIENT}
    assert not outside


def test_whoever_has_a_site_asked_gives_grants_and_sendable_tiles_or_a_probe() -> None:
    """No public method takes an array, or anything that may hold one, but for a probe."""
    taken = {
        (name, parameter.annotation)
        for name, method in inspect.getmembers(SiteClient, inspect.isfunction)
        if not name.startswith("_")
        for parameter in inspect.signature(method).parameters.values()
        if parameter.name != "self"
    }
    assert taken == {
        ("infer", "Sequence[Grant]"),
        ("infer", "Sequence[SendableTile]"),
        ("connect", "Probe"),
        ("check_probe", "Probe"),
        ("probe_embedding", "Probe"),
        ("tolerance", "Probe"),
        ("run_probe", "Probe"),
        ("run_probe", "Sequence[str]"),
        ("run_probe", "int"),
        ("send_noise", "int"),
    }


def test_who_makes_grants_tiles_and_probes() -> None:
    """The ledger; an encoding, of what its frame does not keep; and of probes the bundle, and the spot checks
    from tiles that know of no frame."""
    assert users("Grant") == {("runtime/sites/ledger.py", name) for name in ("grant_again", "_decide")}
    assert users("SendableTile") == {("runtime/encoder.py", "_compute")}
    assert "SendableTile(inputs, self.kept.windows)" in (ROOT / "runtime/encoder.py").read_text()
    assert users("Probe") == {("runtime/sites/spot_checks.py", "_probes_for")}
    assert users("Probe", folder="stages") == {("stages/bundle.py", "probe")}
    assert users("SpotChecks") == users("synthetic_tiles") == {("runtime/sites/spot_checks.py", "checking")}
    assert list(inspect.signature(synthetic_tiles).parameters) == ["bundle", "seed"]


def test_nobody_else_makes_a_grant() -> None:
    grant = granted("a", "alpha", 7)
    with pytest.raises(TypeError, match="only the exposure ledger makes grants"):
        type(grant)("a", "alpha", 8)
    with pytest.raises(TypeError, match="only the exposure ledger makes grants"):
        replace(grant, window=8)


def test_a_kept_window_of_a_frame_is_no_sendable_tile(mini_bundle: Bundle) -> None:
    canvas = canvas_of("16:9", mini_bundle.geometry)
    inputs = canvas.window_inputs([7], mini_bundle)
    assert SendableTile(inputs, frozenset({6, 8})).window == 7
    with pytest.raises(RuntimeError, match="window 7 of this frame is kept"):
        SendableTile(inputs, frozenset({6, 7}))
    with pytest.raises(ValueError, match="size"):  # a second window may be a kept one
        SendableTile(canvas.window_inputs([8, 7], mini_bundle), frozenset({7}))
    with pytest.raises(RuntimeError, match="kept"):
        replace(SendableTile(inputs, frozenset()), kept=frozenset({7}))
