"""Which stage computes in which precision, from the words of --precision."""

from __future__ import annotations

import pytest

from export.precision import stage_precisions
from stages.errors import InputError


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        ([], "fp32 fp32 fp32 fp32"),
        (["fp16"], "fp16 fp16 fp16 fp16"),
        (["fp16", "global=bf16"], "fp16 bf16 fp16 bf16"),
        (["global=bf16", "fp16", "whole=fp16"], "fp16 bf16 fp16 fp16"),
        (["window=fp16"], "fp16 fp32 fp32 fp32"),
        (["bf16", "window=fp16"], "fp16 bf16 bf16 bf16"),
    ],
)
def test_choices(choices: list[str], expected: str) -> None:
    found = stage_precisions(choices)
    assert " ".join(found[stage] for stage in ("window", "global", "decoder", "whole")) == expected


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        (["fp8"], "--precision 'fp8' is unknown; give one of fp32, fp16, bf16, or STAGE=PRECISION"),
        (["head=fp16"], "'head=fp16' is unknown"),
        (["=fp16"], "'=fp16' is unknown"),
        (["fp16", "fp32"], "gives every stage both fp16 and fp32"),
        (["global=fp16", "global=bf16"], "gives global both fp16 and bf16"),
    ],
)
def test_other_words_are_refused(choices: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        stage_precisions(choices)
