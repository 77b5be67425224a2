"""The page on local models says what the files of benchmarks/results and the roofline say."""

from __future__ import annotations

import json
from typing import Any

from benchmarks.roofline import markdown, table
from tests.support.documents import README, ROOT, Document, table_rows

PAGE = Document.read("docs/local-models.md")
FILES = ROOT / "benchmarks/results"


def measured(name: str) -> Any:
    return json.loads((FILES / name).read_text(encoding="utf-8"))


def test_the_roofline_is_the_one_that_is_computed() -> None:
    assert table() == measured("roofline.json")
    shown = PAGE.text.partition("<!-- begin roofline -->\n")[2].partition("\n<!-- end roofline -->")[0]
    assert shown == markdown(table())


def test_the_bounds_in_the_text_are_those_of_the_roofline() -> None:
    rows = {row["model"]: row for row in table()["models"]}
    h, large, b = rows["vit_h"], rows["vit_l"], rows["vit_b"]
    alone, split = ([row[part]["fp16_ms"] for row in (h, large, b)] for part in ("local", "edge"))
    slow = [row["local"]["fp32_ms"] / 1e3 for row in (h, large, b)]
    gains = [row["gain_at_most"] for row in (h, large, b)]
    prose = " ".join(PAGE.prose.split())
    for sentence in (
        f"ViT-H alone under {alone[0] / 1e3:.2f} s a frame**, ViT-L under {alone[1] / 1e3:.2f} s or",
        f"ViT-B under {alone[2]:.0f} ms",
        f"not under {slow[0]:.1f}, {slow[1]:.1f} and {slow[2]:.2f} s",
        f"An offloaded frame under {split[0]:.0f} ms with ViT-H",
        f"{split[1]:.0f} ms with ViT-L or {split[2]:.0f} ms with ViT-B",
        f"above {gains[0]:.1f} times for ViT-H**, {gains[1]:.1f} for ViT-L or {gains[2]:.1f} for ViT-B",
    ):
        assert sentence in prose, sentence


def test_accuracies_are_measured_and_the_rival_is_said_to_be_better() -> None:
    mini, small = measured("accuracy_mini.json")["rows"], measured("accuracy_small.json")["rows"]
    named = {
        "mini, as shipped, 384 pixels": mini["as shipped"],
        "small, as shipped, 512 pixels": small["as shipped"],
        "MobileSAM, 1024 pixels, on the device": mini["MobileSAM, 1024 pixels, unsplit"],
    }
    found = {name: [f"{row['miou'][kind]:.3f}" for kind in ("box", "point")] for name, row in named.items()}
    assert {row[0]: row[1:3] for row in table_rows(PAGE.section("## Accuracy"))} == found
    boxes = [of[0] for of in found.values()]
    assert "{2} where mini has {0} and small {1}".format(*boxes) in " ".join(README.prose.split())
    assert max(boxes) == boxes[2], "MobileSAM is no longer ahead: README.md and docs/local-models.md say so"


def test_what_the_page_says_of_times_is_measured() -> None:
    """On a CPU mini takes less than MobileSAM, and the edge's part of vit_b more."""
    ratios = {model: measured(f"peers_{model}.json")["ratios"] for model in ("mini", "vit_b")}
    assert ratios["mini"]["split / mobile_sam_graph"]["mask_processor_s"]["median"] < 0.25
    assert ratios["vit_b"]["edge / mobile_sam_graph"]["mask_processor_s"]["median"] > 1
