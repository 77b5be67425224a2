"""Runs with faults drawn at random: real sites, a real edge, and a proxy between them that counts.

    python -m benchmarks.chaos --seeds 0-499 --out out/chaos.jsonl --resume

`draw` makes a plan of a seed, `run` carries it out, `judge` says which invariant was broken. Nothing here
uses the ledger, the client or the wire code of the product: what a site was sent is read from the requests
themselves.
"""
