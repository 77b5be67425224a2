"""`pedsam bench`: how fast this machine is, all local and offloaded to sites, measured with noise."""
