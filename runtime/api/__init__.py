"""pedsam as a library: what `import pedsam` hands on. docs/python.md is its page.

The edge that a session holds is the one that `pedsam run` opens, with the same ledger, caps and kept windows.
"""
