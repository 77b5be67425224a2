"""What a masked autoencoder makes of what is held: a tiny one with random weights, through transformers."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import pedsam
from evaluation.audit.mae import MISSING, MaskedAutoencoder, load_autoencoder
from evaluation.audit.views import View, view_of, whole_view
from runtime.demo.demo import photo
from runtime.frames.canvas import make_canvas
from stages.geometry import GEOMETRIES
from stages.tensors import Array, Pixels
from stages.tile_code import RGB

MINI = GEOMETRIES["mini"]
SIDE, PATCH = 56, 8
GRID = SIDE // PATCH
SIZES = {
    "image_size": SIDE,
    "patch_size": PATCH,
    "hidden_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 32,
}
needs_transformers = pytest.mark.recognisers


def save(folder: Path, *, decoder: bool = True, **config: Any) -> Path:
    """A ViTMAE with random weights, as `save_pretrained` leaves it."""
    import torch

    from export.torchvision_import import make_importable

    make_importable()
    import transformers

    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(3)
    model = transformers.ViTMAEForPreTraining(
        transformers.ViTMAEConfig(**{**SIZES, "initializer_range": 0.3, **config})
    )
    (model if decoder else model.vit).save_pretrained(folder)
    return folder


def spoil_weights(folder: Path) -> Path:
    (folder / "model.safetensors").write_bytes(b"no weights")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("mae") / "plain")


@pytest.fixture(scope="module")
def model(folder: Path) -> MaskedAutoencoder:
    return load_autoencoder(folder)


def half_shown() -> Array:
    """Every third patch of a column."""
    rows, cols = np.indices((GRID, GRID))
    shown: Array = (rows + cols) % 3 == 0
    return shown


def patches(picture: Array) -> Array:
    """A picture [SIDE, SIDE, 3] as [GRID, GRID, PATCH, PATCH, 3]."""
    view: Array = picture.reshape(GRID, PATCH, GRID, PATCH, 3).transpose(0, 2, 1, 3, 4)
    return view


def noise(seed: int) -> Array:
    drawn: Array = np.random.default_rng(seed).uniform(0, 255, (SIDE, SIDE, 3)).astype(np.float32)
    return drawn


def held(*windows: int) -> View:
    """These windows of a photograph on mini's canvas."""
    canvas = make_canvas(photo("astronaut"), MINI)
    coded = RGB.encode(canvas.pixels, canvas.extents[list(windows)], windows, MINI)
    return view_of(MINI, RGB, canvas, dict(zip(windows, coded, strict=True)))


@needs_transformers
def test_what_is_made_depends_on_the_patches_shown_alone(model: MaskedAutoencoder) -> None:
    shown, first = half_shown(), noise(1)
    made = model.rebuild(first, shown)
    masked_changed, shown_changed = first.copy(), first.copy()
    patches(masked_changed)[~shown] = patches(noise(2))[~shown]
    patches(shown_changed)[shown] = patches(noise(2))[shown]
    made_of_changed = [
        patches(model.rebuild(each, shown))[~shown] for each in (masked_changed, shown_changed)
    ]
    assert np.abs(patches(made)[shown] - patches(first)[shown]).max() < 1e-3
    np.testing.assert_array_equal(made_of_changed[0], patches(made)[~shown])
    assert np.abs(made_of_changed[1] - patches(made)[~shown]).max() > 1


@needs_transformers
def test_each_patch_shown_counts_and_no_other(model: MaskedAutoencoder) -> None:
    """However many are shown: the share that is masked is a float, and no patch is lost to its rounding."""
    for count in range(1, GRID * GRID):
        shown = np.zeros(GRID * GRID, bool)
        shown[np.random.default_rng(count).permutation(GRID * GRID)[:count]] = True
        model.predicted(noise(1), shown.reshape(GRID, GRID))  # raises for any other number


@needs_transformers
def test_it_is_what_transformers_makes_of_the_same_patches(model: MaskedAutoencoder, folder: Path) -> None:
    """Laid out and scaled by transformers' own functions."""
    import torch
    import transformers

    picture, shown = noise(1), half_shown()
    made = model.rebuild(picture, shown)
    own = transformers.ViTMAEForPreTraining.from_pretrained(folder).eval()
    own.config.mask_ratio = 1 - (shown.sum() + 0.5) / shown.size
    mean, std = (torch.tensor(each)[:, None, None] for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    values = ((torch.from_numpy(picture).permute(2, 0, 1) / 255 - mean) / std)[None].float()
    with torch.no_grad():
        logits = own(values, noise=torch.from_numpy(~shown).reshape(1, -1).float()).logits
        pixels = ((own.unpatchify(logits)[0] * std + mean) * 255).clamp(0, 255).permute(1, 2, 0).numpy()
    assert np.abs(patches(made)[~shown] - patches(pixels)[~shown]).max() < 0.01


@needs_transformers
def test_of_normalised_patches_mean_and_deviation_come_from_what_is_known(tmp_path: Path) -> None:
    model = load_autoencoder(save(tmp_path / "normal", norm_pix_loss=True))
    picture, shown = noise(1), half_shown()
    patches(picture)[~shown] = np.arange(3) * 20 + 100  # what the membrane would be there
    made = patches(model.rebuild(picture, shown))[~shown]
    scale = np.array([0.229, 0.224, 0.225]) * 255  # of ImageNet, in which the model thinks
    centre = np.array([0.485, 0.456, 0.406]) * 255
    rough = ((np.arange(3) * 20 + 100 - centre) / scale).mean()
    deviation = np.mean([((each - centre) / scale).std(ddof=1) for each in patches(picture)[shown]])
    predicted = model.predicted(((picture - centre) / scale).astype(np.float32), shown)[~shown]
    expected = ((predicted * deviation + rough) * scale + centre).clip(0, 255)
    assert 0.5 < deviation < 2
    assert np.abs(made - expected).max() < 0.01


@needs_transformers
def test_only_patches_wholly_within_what_is_held_are_shown(model: MaskedAutoencoder) -> None:
    """A window of mini is 1.46 patches: one lies within the first, one within the middle, none in others."""
    known = held(0, 6, 12).known
    shown = model.shown(known)
    assert set(np.flatnonzero(shown)) == {0, 3 * GRID + 3}
    assert not model.shown(known & (np.indices(known.shape)[0] > 0))[0, 0]  # a row of pixels is missing
    assert model.shown(np.ones_like(known)).all()


@needs_transformers
def test_as_an_attack_it_leaves_what_is_known_and_takes_nothing_else(model: MaskedAutoencoder) -> None:
    view = held(0, 6, 12, 17)
    made = model(view)
    np.testing.assert_array_equal(made[view.known], view.pixels[view.known])
    assert made.shape == view.pixels.shape
    assert made[~view.known].std() > 1
    whole = whole_view(RGB, make_canvas(photo("astronaut"), MINI))
    np.testing.assert_array_equal(model(whole), whole.pixels)
    nothing = View(np.zeros_like(view.pixels), np.zeros_like(view.known), frozenset())
    assert (model(nothing) == 128).all()


def pedsam_audit(data: Path, out: Path, *more: str | Path) -> Result:
    words = ("--data", data, "--out", out, "--operators", "3", "--no-recognise", *more)
    return CliRunner(env={"COLUMNS": "200"}).invoke(pedsam.main, ["audit", *map(str, words)])


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.fromarray(photo("astronaut")).save(folder / "a.png")
    return folder


def columns(out: Path) -> Pixels:
    with Image.open(out / "sheet.png") as sheet:
        return np.asarray(sheet)


@needs_transformers
def test_it_stands_beside_the_others_in_table_report_and_sheet(
    folder: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "create_connection", no_network)
    monkeypatch.setattr(socket.socket, "connect", no_network)
    out = tmp_path / "out"
    plain = pedsam_audit(pictures, out)
    assert plain.exit_code == 0, plain.output
    width = columns(out).shape[1]
    assert json.loads((out / "audit.json").read_text())["vitmae"] is None
    assert "ViTMAE" not in plain.output
    result = pedsam_audit(pictures, out, "--mae", folder)
    assert result.exit_code == 0, result.output
    assert "ViTMAE, dB" in result.output
    report = json.loads((out / "audit.json").read_text())
    figures = report["results"][1]["figures"]
    for measure in ("psnr", "ssim"):
        for name in ("vitmae", "membrane", "inpainting"):
            assert figures[f"{measure}_{name}"]["values"] == 3
    assert 3 < figures["psnr_vitmae"]["mean"] < figures["psnr_membrane"]["mean"]  # its weights are random
    about = {"folder": "plain", "image_px": SIDE, "patch_px": PATCH, "normalised_patches": False}
    assert report["vitmae"] == about
    assert columns(out).shape[1] == width * 4 // 3


def no_network(*_: object) -> None:
    raise AssertionError("a connection was opened")


def absent(folder: Path) -> Path:
    return folder / "absent"


def a_file(folder: Path) -> Path:
    (folder / "file").write_text("x")
    return folder / "file"


def empty(folder: Path) -> Path:
    return folder


def another_model(folder: Path) -> Path:
    (folder / "config.json").write_text('{"model_type": "vit"}')
    return folder


def wrong_sizes(folder: Path) -> Path:
    (folder / "config.json").write_text('{"model_type": "vit_mae", "image_size": 30, "patch_size": 16}')
    return folder


NO_MODELS: Mapping[str, tuple[Callable[[Path], Path], str]] = {
    "absent": (absent, "absent is no folder"),
    "file": (a_file, "file is no folder"),
    "empty": (empty, "model/config.json"),
    "another": (another_model, "its config.json says model_type 'vit'"),
    "sizes": (wrong_sizes, "image_size 30 and patch_size 16"),
}


@pytest.mark.parametrize("case", NO_MODELS)
def test_a_folder_that_is_none_is_a_sentence(case: str, pictures: Path, tmp_path: Path) -> None:
    make, says = NO_MODELS[case]
    (tmp_path / "model").mkdir()
    result = pedsam_audit(pictures, tmp_path / "out", "--mae", make(tmp_path / "model"))
    assert_a_sentence(result, says)


def assert_a_sentence(result: Result, says: str) -> None:
    assert result.exit_code == 1
    assert says in result.output
    assert "--mae" in result.output
    assert "Traceback" not in result.output
    assert len(result.output.splitlines()) == 1


@needs_transformers
@pytest.mark.parametrize("kind", ["no decoder", "spoiled"])
def test_weights_that_are_none_are_a_sentence(kind: str, pictures: Path, tmp_path: Path) -> None:
    if kind == "no decoder":
        folder, says = save(tmp_path / "model", decoder=False), "lacks 24 of its tensors, such as decoder."
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "architectures": ["ViTMAEForPreTraining"]}))
    else:
        folder, says = spoil_weights(save(tmp_path / "model")), "cannot be loaded"
    assert_a_sentence(pedsam_audit(pictures, tmp_path / "out", "--mae", folder), says)


@pytest.mark.parametrize("package", ["torch", "transformers"])
def test_a_package_that_is_missing_is_a_sentence(
    package: str, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "vit_mae"}')
    monkeypatch.setitem(sys.modules, package, None)
    result = pedsam_audit(pictures, tmp_path / "out", "--mae", tmp_path / "model")
    assert_a_sentence(result, MISSING)
    assert "pedsam[mae]" in MISSING
