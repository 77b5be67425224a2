"""Finding what is to stay at the edge: faces, text, and what a user's own function finds."""
