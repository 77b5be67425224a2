"""SAM's weights out of whatever file they lie in: wrapped, prefixed, in shards or in transformers' layout.

Nothing of a file is ever run. What is no SAM is named.
"""
