"""A site on the network: addresses, connections, requests, messages."""
