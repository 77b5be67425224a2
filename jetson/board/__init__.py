"""What a board is: read in one run, as data, and checked against what it is wanted for."""
