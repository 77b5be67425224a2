"""Ways from a picture to a mask side by side: segment_anything, the unsplit graph, pedsam, MobileSAM.

    python -m benchmarks.peers --model vit_b --out benchmarks/results/peers_vit_b.json

Each peer is a process of its own with the same number of threads. They take turns: every round runs each of
them once on the same picture, while the others wait, so that whatever else the machine does falls on all.
Seconds are of the clock and of the processor; ratios are taken round by round. `subjects` has the peers,
`process` runs one, `report` counts and writes the tables.

What is timed begins with the picture in memory, RGB of 1280 x 720, and ends with a mask of its size: the
image embedding, then one mask by a box. Weights are random but for MobileSAM's; times do not depend on them.
MobileSAM runs in PyTorch, as it comes, and as graphs like ours in onnxruntime; `make build/mobile_sam.pt`
brings its weights.
"""

from benchmarks.peers.report import markdown as markdown
