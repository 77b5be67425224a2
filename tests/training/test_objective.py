"""What training punishes, and which prompts a batch's objects get."""

from __future__ import annotations

import torch

from tests.support.training import batches
from training.objective import first_prompts, mask_losses, prediction_loss, true_iou


def test_the_right_mask_costs_least_and_the_best_of_three_is_trained_for_a_click() -> None:
    target = torch.zeros(2, 20, 20)
    target[:, 5:15, 5:15] = 1
    right, wrong = (target * 2 - 1) * 8, (1 - target * 2) * 8
    assert mask_losses(right, target).max() < 0.05 < 1 < mask_losses(wrong, target).min()
    assert (true_iou(right, target) == 1).all()
    masks = torch.stack([wrong, wrong, right, wrong], dim=1)
    iou = torch.tensor([[0.0, 0.0, 1.0, 0.0]] * 2)
    single = torch.tensor([True, False])
    click_only, logits = prediction_loss(masks, iou, target, single, torch.tensor([True, False]))
    box_only, _ = prediction_loss(masks, iou, target, single, torch.tensor([False, True]))
    assert click_only < 0.05 < 1 < box_only
    assert torch.equal(logits[0], right[0])
    assert torch.equal(logits[1], wrong[1])


def test_even_objects_get_boxes_and_odd_ones_clicks() -> None:
    drawer = batches()
    full = drawer.draw(2, 2, 80).full.flatten(0, 1)
    coords, labels, single = first_prompts(full, drawer.generator)
    assert coords.shape == (4, 2, 2)
    assert labels.tolist() == [[2, 3], [1, -1]] * 2
    assert single.tolist() == [False, True] * 2
