"""Which outputs a request asks for, and how."""

from __future__ import annotations

from tests.server.conformance.rows import OFFERED, SENDER, SERVED, says
from tests.support.messages import TILE, put, request

BINARY = {"parameters": {"binary_data": True}}

OUTPUTS = [
    says(
        "one as binary",
        request(outputs=[{"name": "embedding", **BINARY}]),
        "200 embedding:binary",
        "200 embedding:binary",
    ),
    says(
        "two in another order",
        request(outputs=[{"name": "scale", **BINARY}, {"name": "embedding", **BINARY}]),
        "200 embedding:binary scale:binary",
        "200 embedding:binary scale:binary",
    ),
    says(
        "one binary, one JSON",
        request(outputs=[{"name": "embedding_q8"}, {"name": "embedding", **BINARY}]),
        "200 embedding:binary embedding_q8:JSON",
        "200 embedding:binary embedding_q8:JSON",
    ),
    says(
        "none named, binary by default",
        request(lambda head: head.pop("outputs"), parameters={"binary_data_output": True}),
        "200 embedding:binary embedding_q8:binary scale:binary",
        "200 embedding:binary embedding_q8:binary scale:binary",
    ),
    says(
        "an empty list, binary by default",
        request(outputs=[], parameters={"binary_data_output": True}),
        "200 embedding:binary embedding_q8:binary scale:binary",
        "200 embedding:binary embedding_q8:binary scale:binary",
    ),
    says(
        "named, binary by default",
        request(parameters={"binary_data_output": True}),
        SERVED,
        "200 embedding_q8:binary",
        "its documentation lets the request's parameter hold for every output that says nothing else",
    ),
    says(
        "named as JSON, binary by default",
        request(
            outputs=[{"name": "embedding_q8", "parameters": {"binary_data": False}}],
            parameters={"binary_data_output": True},
        ),
        SERVED,
        SERVED,
    ),
    says(
        "none named, all as JSON",
        request(lambda head: head.pop("outputs")),
        "400 sending FP16 data via JSON is not supported. Please use the",
        "400 embedding is FP16, which has no JSON form; ask for it as",
    ),
    says(
        "FP16 as JSON",
        request(outputs=[{"name": "scale"}]),
        "400 sending FP16 data via JSON is not supported. Please use the",
        "400 scale is FP16, which has no JSON form; ask for it as binary",
    ),
    says(
        "an unknown output",
        request(outputs=[{"name": "masks"}]),
        "400 unexpected inference output 'masks' for model 'window'",
        "400 unexpected output 'masks'; the model gives ['embedding',",
    ),
    says(
        "half a surrogate pair as output",
        request(outputs=[{"name": "\ud800"}]),
        "500 failed to parse the request JSON buffer: The surrogate pair",
        "400 unexpected output '\\ud800'; the model gives ['embedding',",
        SENDER,
    ),
    says(
        "an output without name",
        request(outputs=[{}]),
        "500 Unable to parse 'name': attempt to access non-existing",
        "400 a tensor has no name",
        SENDER,
    ),
    says(
        "an output twice",
        request(outputs=[{"name": "embedding_q8"}] * 2),
        SERVED,
        "400 output 'embedding_q8' is asked for twice; name each output",
        "the two may differ in how they are wanted, as JSON or binary, and one answer cannot be both",
    ),
    says(
        "outputs as text",
        request(outputs="scale"),
        "500 Unable to parse 'outputs': attempt to access JSON non-array",
        "400 outputs must be a list of 1 to 16 tensors",
        SENDER,
    ),
    says(
        "outputs of strings",
        request(outputs=["embedding_q8"]),
        "500 Unable to parse 'name': attempt to access non-existing",
        "400 outputs must hold objects",
        SENDER,
    ),
    says(
        "17 outputs",
        request(outputs=[{"name": "embedding_q8"}] * 17),
        SERVED,
        "400 outputs must be a list of 1 to 16 tensors",
        "the model has three; a bound before work is done for each",
    ),
    says(
        "binary_data that is no boolean",
        request(outputs=[{"name": "embedding_q8", "parameters": {"binary_data": "yes"}}]),
        "500 Unable to parse 'binary_data': attempt to access JSON",
        "400 binary_data must be true or false",
        SENDER,
    ),
    says(
        "binary_data_output that is no boolean",
        request(parameters={"binary_data_output": "yes"}),
        "500 Unable to parse 'binary_data_output': attempt to access",
        "400 binary_data_output must be true or false",
        SENDER,
    ),
    says(
        "a classification",
        request(outputs=[{"name": "embedding_q8", "parameters": {"classification": 2}}]),
        SERVED,
        "400 classification is not served here; outputs come whole, in",
        OFFERED,
    ),
    says(
        "a size for an output",
        request(outputs=[{"name": "embedding_q8", "parameters": {"binary_data_size": 5}}]),
        SERVED,
        SERVED,
    ),
    says(
        "shared memory",
        request(
            outputs=[
                {
                    "name": "embedding_q8",
                    "parameters": {"shared_memory_region": "a", "shared_memory_byte_size": 24},
                }
            ]
        ),
        "404 Unable to find shared memory region: 'a'",
        "400 shared_memory_region is not served here; outputs come",
        OFFERED,
    ),
    says(
        "shared memory as input",
        request(put(TILE, parameters={"shared_memory_region": "a", "shared_memory_byte_size": 96})),
        "404 Unable to find shared memory region: 'a'",
        "400 shared memory is not served here; send tensors in the body",
        OFFERED,
    ),
]
