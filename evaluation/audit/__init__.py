"""What each operator could learn from what leaves the edge: played, attacked, measured."""
