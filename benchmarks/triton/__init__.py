"""`pedsam serve` and a real Triton 2.51 side by side, by two clients, and the engine called directly.

    make .venv-triton/bin/.installed
    python -m benchmarks.triton --out benchmarks/results/triton_mini.json --model mini

Both serve the same window graph to the edge's own client, unchanged, and to tritonclient, eight requests at a
time. Triton is the one inside nvidia-pytriton, which has the Python backend alone: tests/triton/model.py runs
the graph there in onnxruntime, on as many threads, and requests that wait run together, as at a site. Then
the same with engines that do nothing, which leaves what a request costs. The edge puts several small windows
into a request, tritonclient one; it asks for answers that are not compressed, as the edge does.

`servers` and `clients` are the two sides, `report` counts and writes the tables.

In every round each server and client has one turn of the same number of tiles; ratios are taken round by
round. Clients run in this process, on this machine: the engines leave one core to them.
"""

from benchmarks.triton.report import markdown as markdown
