"""Paths and methods: what Triton 2.51 says and what a site says."""

from __future__ import annotations

from tests.server.conformance.rows import EXTENSION, HEAD_ASKED, SERVED, Row, infer
from tests.support.clients import INFER
from tests.support.messages import request
from tests.support.raw_http import http

MODEL = "/v2/models/window"

ROUTES = [
    Row("server metadata", http("GET", "/v2"), "200 name,version,extensions", "200 name,version,extensions"),
    Row(
        "with a slash",
        http("GET", "/v2/"),
        "404 Not Found",
        "200 name,version,extensions",
        "load balancers and people add it; nothing else can be meant",
    ),
    Row("live", http("GET", "/v2/health/live"), "200", "200"),
    Row("ready", http("GET", "/v2/health/ready"), "200", "200"),
    Row("live asked with HEAD", http("HEAD", "/v2/health/live"), "405", "200", HEAD_ASKED),
    Row(
        "ready asked with POST",
        http("POST", "/v2/health/ready"),
        "405 Method Not Allowed",
        "405 '/v2/health/ready' takes GET or HEAD, not POST",
    ),
    Row(
        "model metadata",
        http("GET", MODEL),
        "200 name,versions,platform,inputs,outputs",
        "200 name,versions,platform,inputs,outputs",
    ),
    Row(
        "model metadata of a version",
        http("GET", MODEL + "/versions/1"),
        "200 name,versions,platform,inputs,outputs",
        "200 name,versions,platform,inputs,outputs",
    ),
    Row(
        "another version",
        http("GET", MODEL + "/versions/2"),
        "404 Request for unknown model: 'window' version 2 is not found",
        "404 '/v2/models/window/versions/2' is not here; this site has",
    ),
    Row(
        "a version that is no number",
        http("GET", MODEL + "/versions/one"),
        "404 Not Found",
        "404 '/v2/models/window/versions/one' is not here; this site has",
    ),
    Row(
        "model config",
        http("GET", MODEL + "/config"),
        "200",
        "200 name,backend,max_batch_size,input,output,parameters",
    ),
    Row("model ready", http("GET", MODEL + "/ready"), "200", "200"),
    Row(
        "another version ready",
        http("GET", MODEL + "/versions/2/ready"),
        "400 Model version not ready",
        "404 '/v2/models/window/versions/2/ready' is not here; this site",
        "the rest of both servers says 404 for what does not exist",
    ),
    Row(
        "another model",
        http("GET", "/v2/models/sam"),
        "404 Request for unknown model: 'sam' is not found",
        "404 '/v2/models/sam' is not here; this site has model window,",
    ),
    Row(
        "another model ready",
        http("GET", "/v2/models/sam/ready"),
        "400 Model version not ready",
        "404 '/v2/models/sam/ready' is not here; this site has model",
        "the rest of both servers says 404 for what does not exist",
    ),
    Row(
        "a slash after the model",
        http("GET", MODEL + "/"),
        "404 Not Found",
        "404 '/v2/models/window/' is not here; this site has model",
    ),
    Row(
        "a query",
        http("GET", MODEL + "?verbose=1"),
        "200 name,versions,platform,inputs,outputs",
        "200 name,versions,platform,inputs,outputs",
    ),
    Row(
        "two slashes",
        http("GET", "//v2//models/window"),
        "404 Not Found",
        "404 '//v2//models/window' is not here; this site has model",
    ),
    Row(
        "escaped letters",
        http("GET", "/v2/models/windo%77"),
        "404 Request for unknown model: 'windo%77' is not found",
        "200 name,versions,platform,inputs,outputs",
        "an escaped letter is that letter",
    ),
    Row(
        "statistics",
        http("GET", MODEL + "/stats"),
        "200 model_stats",
        "404 '/v2/models/window/stats' is not here; this site has model",
        EXTENSION,
    ),
    Row(
        "the repository index",
        http("POST", "/v2/repository/index"),
        "200 [{'name': 'window', 'version': '1', 'state': 'READY'}]",
        "404 '/v2/repository/index' is not here; this site has model",
        EXTENSION,
    ),
    Row(
        "the root",
        http("GET", "/"),
        "404 Not Found",
        "404 '/' is not here; this site has model window, version 1",
    ),
    Row("a long path", http("GET", "/" + "x" * 5000), "404 Not Found", "404"),
    Row(
        "model metadata asked with POST",
        http("POST", MODEL),
        "405 Method Not Allowed",
        "405 '/v2/models/window' takes GET or HEAD, not POST",
    ),
    Row("model metadata asked with HEAD", http("HEAD", MODEL), "405", "200", HEAD_ASKED),
    Row(
        "infer asked with GET",
        http("GET", INFER),
        "405 Method Not Allowed",
        "405 '/v2/models/window/infer' takes POST, not GET",
    ),
    Row("infer asked with HEAD", http("HEAD", INFER), "405", "405"),
    Row(
        "infer asked with PUT",
        http("PUT", INFER),
        "405 Method Not Allowed",
        "405 '/v2/models/window/infer' takes POST, not PUT",
    ),
    Row(
        "infer asked with a made-up method",
        http("BREW", INFER),
        "405 Method Not Allowed",
        "400",
        "the HTTP parser knows the methods that exist",
    ),
    Row("infer of version 1", infer(request(), MODEL + "/versions/1/infer"), SERVED, SERVED),
    Row(
        "infer of another version",
        infer(request(), MODEL + "/versions/2/infer"),
        "404 Request for unknown model: 'window' version 2 is not found",
        "404 '/v2/models/window/versions/2/infer' is not here; this site",
    ),
    Row(
        "infer of another model",
        infer(request(), "/v2/models/sam/infer"),
        "404 Request for unknown model: 'sam' is not found",
        "404 '/v2/models/sam/infer' is not here; this site has model",
    ),
    Row("infer with a query", infer(request(), INFER + "?a=b"), SERVED, SERVED),
]
