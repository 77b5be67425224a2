"""Which projection an export takes, and what it is fitted to."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from export.components import SHAPES, choose_projection, cropped, picture_tokens, spread
from export.modules import WindowStage
from export.projection import Projection
from export.sam import Weights
from stages.console import make_console
from stages.errors import InputError
from stages.geometry import GEOMETRIES
from stages.tensors import Pixels
from stages.tile_code import RGB, TileCode
from tests.support.bundles import TINY

HELD = Projection(torch.zeros(24), torch.eye(24)[:, :5], 0.875)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number, size in enumerate([(90, 60), (40, 80), (64, 64)]):
        pixels = np.random.default_rng(number).integers(0, 256, (*size, 3)).astype(np.uint8)
        Image.fromarray(pixels).resize((size[1] * 2, size[0] * 2)).save(folder / f"{number}.jpg")
    return folder


def trained(weights: Weights, projection: Projection | None = None) -> Weights:
    return replace(weights, status="distilled", projection=projection)


def test_the_weights_projection_is_taken(tiny_weights: Weights, said: list[str]) -> None:
    weights = trained(tiny_weights, HELD)
    assert choose_projection(weights, None, RGB, None, said.append) is HELD
    assert choose_projection(weights, 5, RGB, None, said.append) is HELD
    sentence = "embedding of 5 components for 24 channels, 87.5 % of the variance, as the weights hold it"
    assert said == [sentence] * 2


def test_none_where_nothing_asks_for_one(tiny_weights: Weights, said: list[str]) -> None:
    assert choose_projection(trained(tiny_weights), None, RGB, None, said.append) is None
    assert choose_projection(trained(tiny_weights), 24, RGB, None, said.append) is None
    assert said == []


@pytest.mark.parametrize("held", [HELD, Projection(torch.zeros(24), torch.eye(24), 1.0)])
def test_every_channel_leaves_the_weights_projection_out(
    tiny_weights: Weights, held: Projection, said: list[str]
) -> None:
    assert choose_projection(trained(tiny_weights, held), 24, RGB, None, said.append) is None
    assert said == ["--components 24 is every channel: the projection that the weights hold is left out"]


@pytest.mark.parametrize(
    ("held", "components", "words"),
    [
        (None, 6, "give --photos FOLDER .* or give --components 24 to leave the embedding as it is"),
        (HELD, 6, "give --photos FOLDER .* or leave --components out for the 5 that the weights hold"),
        (HELD, 25, "--components 25 is more than the 24 channels of the embedding"),
    ],
)
def test_what_cannot_be_fitted_is_one_sentence(
    tiny_weights: Weights, held: Projection | None, components: int, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        choose_projection(trained(tiny_weights, held), components, RGB, None, print)


@pytest.mark.parametrize(("held", "components"), [(None, 8), (HELD, 8), (HELD, 5)])
def test_photos_are_fitted(
    tiny_weights: Weights, held: Projection | None, components: int, photos: Path, said: list[str]
) -> None:
    found = choose_projection(trained(tiny_weights, held), components, RGB, photos, said.append)
    assert found is not None
    assert found is not held
    assert found.components == components
    assert 0.5 < found.variance_kept < 1
    kept = f"{100 * found.variance_kept:.1f} %"
    assert said == [
        f"embedding of {components} components for 24 channels, {kept} of the variance, "
        f"fitted to 3 of {photos}",
        "so few pictures may not be like those to come: 96 in --photos fit better",
    ]


def test_a_fit_shows_how_far_it_is(tiny_weights: Weights, said: list[str]) -> None:
    """A bar that goes to its end on a terminal; in a log a line at once, and then seldom."""
    terminal, log = io.StringIO(), io.StringIO()
    choose_projection(
        tiny_weights, 8, RGB, None, said.append, Console(file=terminal, force_terminal=True, width=80)
    )
    assert "fitting projection" in terminal.getvalue()
    assert "100%" in terminal.getvalue()
    choose_projection(tiny_weights, 8, RGB, None, said.append, make_console(file=log))
    assert log.getvalue().splitlines()[0] == "projection: fitting, 0 %"


def test_what_is_not_fitted_shows_nothing(tiny_weights: Weights, said: list[str]) -> None:
    log = io.StringIO()
    choose_projection(trained(tiny_weights, HELD), 5, RGB, None, said.append, make_console(file=log))
    assert log.getvalue() == ""


def test_random_weights_are_fitted_to_synthetic_pictures(tiny_weights: Weights, said: list[str]) -> None:
    first = choose_projection(tiny_weights, 8, RGB, None, said.append)
    again = choose_projection(tiny_weights, 8, RGB, None, said.append)
    assert first is not None
    assert again is not None
    assert torch.equal(first.basis, again.basis)
    assert said[0].endswith("fitted to 5 of synthetic pictures")


def test_tokens_are_those_of_the_canvas_alone(tiny_weights: Weights) -> None:
    """25 of the 36 tokens that 9 windows have; what is no picture on the canvas is among them."""
    seen: list[Pixels] = []

    def picture() -> Pixels:
        seen.append(np.full((30, 60, 3), 200, np.uint8))
        return seen[-1]

    tokens = torch.cat(list(picture_tokens(tiny_weights, RGB, [picture] * 2)))
    assert tokens.shape == (2 * TINY.tokens**2, TINY.dim)
    assert len(seen) == 2
    blank = WindowStage(tiny_weights.sam, TINY, torch.float32).encode(
        torch.zeros((1, RGB.tile_bytes(TINY)), dtype=torch.uint8),
        torch.tensor([[TINY.windows - 1]]),
        torch.zeros((1, 4), dtype=torch.int32),
    )
    assert torch.isclose(tokens, blank[0, 0, 0], atol=1e-4).all(dim=1).any()  # of the corner, in 16:9
    assert not (tokens == 0).all(dim=1).any()


def test_what_is_fitted_is_what_the_code_of_tiles_shows(tiny_weights: Weights, photos: Path) -> None:
    """Noise is mostly what few coefficients leave out."""
    plain, coded = (
        choose_projection(trained(tiny_weights), 8, TileCode.parse(code), photos, print)
        for code in ("rgb", "dct:3/1")
    )
    assert plain is not None
    assert coded is not None
    assert coded.variance_kept > plain.variance_kept + 0.01


@pytest.mark.parametrize("shape", SHAPES)
def test_the_middle_of_a_picture_is_cut_out(shape: tuple[int, int]) -> None:
    picture = np.zeros((50, 70, 3), np.uint8)
    picture[24:27, 34:37] = 255
    rows, cols = cropped(picture, shape).shape[:2]
    assert rows == 50 or cols == 70
    assert abs(rows / cols - shape[0] / shape[1]) < 0.03
    assert (cropped(picture, shape)[rows // 2, cols // 2] == 255).all()


def test_pictures_are_taken_from_the_whole_folder() -> None:
    paths = [Path(str(number)) for number in range(10)]
    assert [path.name for path in spread(paths, 4)] == ["0", "3", "6", "9"]
    assert spread(paths, 20) == paths


def test_mixed_shapes_pad_at_the_bottom_and_at_the_right() -> None:
    mini = GEOMETRIES["mini"]
    sizes = [mini.resized(rows, cols) for rows, cols in SHAPES]
    assert any(rows < mini.image_size for rows, _ in sizes)
    assert any(cols < mini.image_size for _, cols in sizes)
    assert any(rows % mini.patch or cols % mini.patch for rows, cols in sizes)
