"""Side-by-side measurements; results lie in benchmarks/results with the machine and date they came from."""

import runtime as runtime  # before numpy, as the command line has it
