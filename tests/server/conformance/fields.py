"""The fields of a request's JSON."""

from __future__ import annotations

from tests.server.conformance.rows import NUMBERED, SENDER, SERVED, says
from tests.support.messages import EXTENT, INDEX, TILE, leave_out, put, request

FIELDS = [
    says("fields nobody knows", request(more={"a": [1]}), SERVED, SERVED),
    says("parameters nobody knows", request(parameters={"a": 1, "b": "c", "d": True}), SERVED, SERVED),
    says("priority and timeout", request(parameters={"priority": 1, "timeout": 1000000}), SERVED, SERVED),
    says(
        "a sequence id",
        request(parameters={"sequence_id": 5, "sequence_start": True, "sequence_end": True}),
        SERVED,
        SERVED,
    ),
    says(
        "a parameter that is a list",
        request(parameters={"a": [1]}),
        "400 parameter 'a' has invalid type. It should be either 'int',",
        SERVED,
        "nobody reads that parameter",
    ),
    says(
        "a parameter that is null",
        request(parameters={"a": None}),
        "400 parameter 'a' has invalid type. It should be either 'int',",
        SERVED,
        "nobody reads that parameter",
    ),
    says(
        "parameters as list",
        request(parameters=[]),
        "500 failed to get request params.: attempt to get members for",
        "400 parameters must be an object",
        SENDER,
    ),
    says(
        "parameters of an input as list",
        request(put(TILE, parameters=[])),
        "400 Input must set only one of the following fields: 'data',",
        "400 parameters must be an object",
    ),
    says("a model name in the body", request(model_name="sam"), SERVED, SERVED),
    says(
        "a text id",
        request(id="frame 7"),
        "200 embedding_q8:JSON id='frame 7'",
        "200 embedding_q8:JSON id='frame 7'",
    ),
    says("an empty id", request(id=""), SERVED, "200 embedding_q8:JSON id=''", "what was sent comes back"),
    says(
        "an id null",
        request(id=None),
        "500 Unable to parse 'id': attempt to access JSON non-string as",
        SERVED,
        "some clients write null for what they leave out",
    ),
    says(
        "an id 5",
        request(id=5),
        "500 Unable to parse 'id': attempt to access JSON non-string as",
        "200 embedding_q8:JSON id='5'",
        NUMBERED,
    ),
    says(
        "an id past 64 bits",
        request(id=2**64),
        "500 Unable to parse 'id': attempt to access JSON non-string as",
        "200 embedding_q8:JSON id='18446744073709551616'",
        NUMBERED,
    ),
    says(
        "an id 0.5",
        request(id=0.5),
        "500 Unable to parse 'id': attempt to access JSON non-string as",
        "400 id must be a short string",
        SENDER,
    ),
    says(
        "an id true",
        request(id=True),
        "500 Unable to parse 'id': attempt to access JSON non-string as",
        "400 id must be a short string",
        SENDER,
    ),
    says(
        "an id of a list",
        request(id=[]),
        "500 Unable to parse 'id': attempt to access JSON non-string as",
        "400 id must be a short string",
        SENDER,
    ),
    says(
        "an id of 257 letters",
        request(id="x" * 257),
        "200",
        "400 id must be a short string",
        "it is echoed; 256 letters name any request",
    ),
    says(
        "an id of 300 digits",
        request(id=10**299),
        "500 Unable to parse 'id': attempt to access JSON non-string as",
        "400 id must be a short string",
        SENDER,
    ),
    says(
        "an id in Cyrillic",
        request(id="\u043a\u0430\u0434\u0440"),
        "200 embedding_q8:JSON id='кадр'",
        "200 embedding_q8:JSON id='кадр'",
    ),
    says(
        "no inputs",
        request(lambda head: head.pop("inputs")),
        "500 Unable to parse 'inputs': attempt to access non-existing",
        "400 inputs must be a list of 1 to 16 tensors",
        SENDER,
    ),
    says(
        "an empty list of inputs",
        request(inputs=[]),
        "400 unexpected additional input data for model 'window'",
        "400 inputs must be a list of 1 to 16 tensors",
    ),
    says(
        "inputs as object",
        request(inputs={}),
        "500 Unable to parse 'inputs': attempt to access JSON non-array",
        "400 inputs must be a list of 1 to 16 tensors",
        SENDER,
    ),
    says(
        "17 inputs",
        request(inputs=[{}] * 17),
        "400 Input must set only one of the following fields: 'data',",
        "400 inputs must be a list of 1 to 16 tensors",
    ),
    says(
        "inputs of strings",
        request(inputs=["tile"]),
        "400 Input must set only one of the following fields: 'data',",
        "400 inputs must hold objects",
    ),
    says(
        "no name",
        request(leave_out(TILE, "name")),
        "500 Unable to parse 'name': attempt to access non-existing",
        "400 a tensor has no name",
        SENDER,
    ),
    says(
        "a name that is a number",
        request(put(TILE, name=5)),
        "500 Unable to parse 'name': attempt to access JSON non-string",
        "400 a tensor has no name",
        SENDER,
    ),
    says(
        "another name",
        request(put(EXTENT, name="size")),
        "400 unexpected inference input 'size' for model 'window'",
        "400 unexpected input 'size'; the model takes ['extent',",
    ),
    says(
        "an empty name",
        request(put(EXTENT, name="")),
        "400 unexpected inference input '' for model 'window'",
        "400 unexpected input ''; the model takes ['extent', 'index',",
    ),
    says(
        "half a surrogate pair as a name",
        request(put(TILE, name="\ud800")),
        "500 failed to parse the request JSON buffer: The surrogate pair",
        "400 unexpected input '\\ud800'; the model takes ['extent',",
        SENDER,
    ),
    says(
        "a name of 9999 letters",
        request(put(TILE, name="x" * 9999)),
        "400 unexpected inference input",
        "400 unexpected input",
    ),
    says(
        "a name with a line break",
        request(put(TILE, name="a\nb")),
        "400 unexpected inference input 'a",
        "400 unexpected input 'a\\nb'; the model takes ['extent',",
    ),
    says(
        "a tensor twice",
        request(put(INDEX, name="tile", datatype="UINT8")),
        "400 input 'tile' already exists in request",
        "400 tensor tile appears twice",
    ),
    says(
        "a missing tensor",
        request(lambda head: head["inputs"].pop(EXTENT)),
        "400 expected 3 inputs but got 2 inputs for model 'window'. Got",
        "400 got tensors ['index', 'tile'], expected ['extent', 'index',",
    ),
    says(
        "one tensor too many",
        request(
            lambda head: head["inputs"].append(
                {"name": "more", "datatype": "INT32", "shape": [2, 1], "data": [1, 2]}
            )
        ),
        "400 expected 3 inputs but got 4 inputs for model 'window'. Got",
        "400 unexpected input 'more'; the model takes ['extent',",
    ),
    says(
        "the inputs in another order",
        request(lambda head: head["inputs"].insert(0, head["inputs"].pop())),
        SERVED,
        SERVED,
    ),
]
