"""Where the exposure ledger of a run lies."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from stages.bundle import Bundle
from stages.errors import InputError
from tests.runtime.test_session import Film, options, real_sites, run

pytestmark = pytest.mark.anyio


async def test_a_ledger_of_its_own_place_carries_on_when_the_sites_file_moves(
    mini_bundle: Bundle, tmp_path: Path
) -> None:
    """As on a board that gets a new folder with every version."""
    ledger = tmp_path / "state" / "exposure.json"
    ledger.parent.mkdir()
    async with real_sites(mini_bundle, tmp_path) as sites:
        seen = {}
        for version in ("1", "2"):
            moved = tmp_path / version / "sites.toml"
            moved.parent.mkdir()
            shutil.copy(sites, moved)
            chosen = options(tmp_path / "out", sites=moved, ledger=ledger)
            summary = await run(mini_bundle, Film(1), chosen)
            assert [path.name for path in moved.parent.iterdir()] == ["sites.toml"]
            seen[version] = json.loads(ledger.read_text())
            assert seen[version]["exposure"] == {
                f"operator-{name}": site["windows_seen"] for name, site in summary["sites"].items()
            }
        assert seen["1"] == seen["2"]  # the session too, which a new one would have begun
        old = "2020-01-01T00:00:00+00:00"
        ledger.write_text(json.dumps({**seen["1"], "session": old}))
        await run(mini_bundle, Film(1), chosen)
        assert json.loads(ledger.read_text())["session"] == old
        absent = options(tmp_path / "out", sites=sites, ledger=tmp_path / "absent" / "exposure.json")
        with pytest.raises(InputError, match=r"cannot write .*absent/exposure.json.lock .*--ledger says"):
            await run(mini_bundle, Film(1), absent)
