"""Side-by-side measurements; results lie in benchmarks/results with the machine and date they came from."""
