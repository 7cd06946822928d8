"""Replies of a black box, and one behind a server."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import torch

from redistill.core import UserError
from redistill.methods.supervised.mekd.black_box import InferenceServer, Labels, Logits, Probabilities

SAID = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, 1.0]])


def test_logits_pass_and_half_precision_is_widened():
    assert torch.equal(Logits().read(SAID, 3), SAID)
    assert Logits().read(SAID.bfloat16(), 3).dtype == torch.float32
    torch.testing.assert_close(Logits().confidence(SAID), SAID.softmax(1).amax(1))


def test_probabilities_become_centred_logits_with_the_same_softmax():
    p = SAID.softmax(1)
    t = Probabilities().read(p, 3)
    torch.testing.assert_close(t.softmax(1), p)
    torch.testing.assert_close(t, SAID - SAID.mean(1, keepdim=True))
    assert Probabilities(floor=1e-3).read(torch.tensor([[1.0, 0.0]]), 2).isfinite().all()


def test_labels_are_scaled_one_hot_rows_from_scores_or_names():
    expected = 4.0 * torch.tensor([[1.0, 0, 0], [0, 1, 0]])
    assert torch.equal(Labels(4.0).read(SAID, 3), expected)
    assert torch.equal(Labels(4.0).read(torch.tensor([0, 1]), 3), expected)
    assert torch.equal(Labels().confidence(expected), torch.ones(2))


@pytest.mark.parametrize(
    ("reply", "said", "part"),
    [
        (Logits(), SAID[:, :2], "not 3 numbers"),
        (Logits(), SAID[0], "not 3 numbers"),
        (Logits(), SAID.softmax(1).half(), "write reply: probabilities"),
        (Probabilities(), SAID, "negative"),
        (Labels(), torch.tensor([0, 3]), r"classes 0\.\.2"),
        (Labels(), torch.tensor([0.0, 1.0]), r"classes 0\.\.2"),
    ],
)
def test_other_replies_are_refused(reply, said, part):
    with pytest.raises(UserError, match=part):
        reply.read(said, 3)


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        (image,) = body["inputs"]
        self.server.asked.append((self.path, image))
        code, answer = self.server.answer(torch.tensor(image["data"]).reshape(image["shape"]))
        self.send_response(code)
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    http = HTTPServer(("127.0.0.1", 0), Handler)
    http.asked = []
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield http
    http.shutdown()
    http.server_close()


def sums(image):
    data = image.flatten(1)[:, :2]
    output = {"name": "p", "datatype": "FP32", "shape": list(data.shape), "data": data.flatten().tolist()}
    return 200, json.dumps({"outputs": [output]}).encode()


def test_server_gets_the_images_and_its_first_output_comes_back(server):
    server.answer, image = sums, torch.randn(3, 1, 2, 2)
    box = InferenceServer(f"http://127.0.0.1:{server.server_port}/", "digits", input="x")
    torch.testing.assert_close(box(image.requires_grad_()), image.detach().flatten(1)[:, :2])
    ((path, asked),) = server.asked
    assert path == "/v2/models/digits/infer"
    assert (asked["name"], asked["shape"], asked["datatype"]) == ("x", [3, 1, 2, 2], "FP32")


@pytest.mark.parametrize(
    ("answer", "part"),
    [((404, b"no such model"), "404: no such model"), ((200, b"{}"), "no outputs"), ((200, b"<html>"), "no usable")],
)
def test_server_that_does_not_answer_is_reported(server, answer, part):
    server.answer = lambda image: answer
    with pytest.raises(UserError, match=part):
        InferenceServer(f"http://127.0.0.1:{server.server_port}", "digits")(torch.zeros(1, 1))


def test_wrong_and_dead_addresses_are_reported():
    with pytest.raises(UserError, match="is no address"):
        InferenceServer("localhost", "digits")
    with pytest.raises(UserError, match="is the server up"):
        InferenceServer("http://127.0.0.1:9", "digits")(torch.zeros(1, 1))
