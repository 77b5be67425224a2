"""A step of benchmarks.all that measures nothing: counts its runs in --out, then ends with --code."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click


@click.command()
@click.option("--code", default=0)
@click.option("--sleep-s", default=0.0)
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(code: int, sleep_s: float, out: Path) -> None:
    time.sleep(sleep_s)
    runs = json.loads(out.read_text(encoding="utf-8"))["runs"] if out.exists() else 0
    out.write_text(json.dumps({"runs": runs + 1}), encoding="utf-8")
    raise SystemExit(code)


if __name__ == "__main__":
    main()
