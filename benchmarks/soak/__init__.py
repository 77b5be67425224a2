"""A live run for hours, disturbed all the time; whether memory, threads and open files stay flat.

python -m benchmarks.soak --minutes 120 --out benchmarks/results/soak_mini.json
"""
