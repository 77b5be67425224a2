"""`pedsam keys`: certificates and tokens of sites."""
