"""`pedsam demo`: three sites on loopback and real pictures, start to finish."""
