"""`pedsam check`: what a run needs of every site, measured and predicted before any picture is sent."""
