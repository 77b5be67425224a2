"""Principal components of tokens: what they keep, what they lose, and what int8 makes of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from export.projection import Project, Restore, fit_projection, project, restore
from export.quantise import quantise
from stages.tile_code import dct_matrix


def dominated_tokens() -> Tensor:
    """fp32 [1000, 24] about a mean, of components whose sizes fall with their number."""
    generator = torch.Generator().manual_seed(2)
    sizes = 20 / torch.arange(1, 25).float() ** 1.2
    mixing = torch.linalg.qr(torch.randn((24, 24), generator=generator))[0]
    tokens: Tensor = 3 + torch.randn((1000, 24), generator=generator) * sizes @ mixing
    return tokens


def error(x: Tensor, y: Tensor) -> float:
    """Share of the variance of x by which y differs."""
    return float((x - y).square().sum() / (x - x.mean(dim=0)).square().sum())


def test_it_keeps_what_the_singular_values_say() -> None:
    """Eckart and Young: no projection onto so many directions keeps more."""
    x = dominated_tokens()
    found = fit_projection([x[:300], x[300:]], 6)
    values = torch.linalg.svdvals((x - x.mean(dim=0)).double()).square()
    best = float(values[:6].sum() / values.sum())
    assert found.variance_kept == pytest.approx(best, abs=1e-9)
    back = Restore(found)(Project(found)(x))
    assert error(x, back) == pytest.approx(1 - best, abs=1e-6)
    assert 0.5 < best < 0.99  # there was something to lose


def test_columns_are_orthonormal_and_fp32() -> None:
    found = fit_projection([dominated_tokens()], 6)
    assert found.components == 6
    assert found.mean.dtype == found.basis.dtype == torch.float32
    assert torch.allclose(found.basis.T @ found.basis, torch.eye(6), atol=1e-6)


def test_all_components_lose_nothing() -> None:
    x = dominated_tokens()
    found = fit_projection([x], x.shape[1])
    assert found.variance_kept == pytest.approx(1)
    assert torch.allclose(Restore(found)(Project(found)(x)), x, atol=1e-4)


def test_without_a_projection_tokens_stay_as_they_are() -> None:
    x = dominated_tokens()
    assert project(None)(x) is x
    assert restore(None)(x) is x


@pytest.mark.parametrize("components", [0, 25])
def test_other_numbers_of_components_are_refused(components: int) -> None:
    with pytest.raises(ValueError, match=f"{components} components are not from 1 to 24"):
        fit_projection([dominated_tokens()], components)


def test_one_int8_scale_a_token_suits_all_components() -> None:
    """The first component alone would decide the step of all others otherwise."""
    x = dominated_tokens()
    spread = Project(fit_projection([x], 16))(x)
    unspread = spread @ torch.from_numpy(dct_matrix(16)).T.float()
    assert int8_error(spread) < 0.6 * int8_error(unspread)


def int8_error(z: Tensor) -> float:
    values, scale = quantise(z)
    return float((values.float() * scale.float() - z).square().mean().sqrt())
