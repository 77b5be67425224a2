"""Pictures and videos as files: the one place that reads and writes them."""
