"""What a run leaves: masks, overlays, recordings, timelines, figures."""
