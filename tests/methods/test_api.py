"""The chat client against a small server on this machine."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from redistill.core.errors import UserError
from redistill.methods.language.in_context.agents import Context
from redistill.methods.language.in_context.api import ApiPolicy, answer_of
from redistill.methods.language.in_context.cost import Usage


class Server(BaseHTTPRequestHandler):
    answer: object = {}
    status = 200
    seen: list = []
    wait = 0.0

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).seen.append((self.path, body, self.headers.get("Authorization")))
        time.sleep(self.wait)
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(self.answer if isinstance(self.answer, bytes) else json.dumps(self.answer).encode())

    def log_message(self, *_):
        pass


def reply(*texts):
    usage = {"prompt_tokens": 50, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 20}}
    return {"choices": [{"message": {"content": t}} for t in texts], "usage": usage}


@pytest.fixture
def server():
    handler = type("Handler", (Server,), {"seen": []})
    http = HTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    handler.url = f"http://127.0.0.1:{http.server_port}/v1"
    yield handler
    http.shutdown()
    http.server_close()


CONTEXT = Context("find it", observation="a room")


def test_samples_usage_key_and_admissible_commands(server, monkeypatch):
    monkeypatch.setenv("SOME_KEY", "secret")
    server.answer = reply("> Go  to Kitchen.\nbecause", "dance")
    out = ApiPolicy(server.url, model="m", key_from="SOME_KEY").act(CONTEXT, ["go to kitchen"], 2, [])
    assert out.actions == ("go to kitchen", "dance")
    assert out.usage == Usage(50, 4, 20, 1)
    path, body, key = server.seen[0]
    assert (path, body["model"], body["n"], key) == ("/v1/chat/completions", "m", 2, "Bearer secret")
    assert "go to kitchen" in body["messages"][0]["content"] and body["messages"][1]["content"] == CONTEXT.prompt()


def test_servers_that_give_one_choice_are_asked_again(server):
    server.answer = reply("wait")
    out = ApiPolicy(server.url, model="m").act(CONTEXT, [], 3, [])
    assert out.actions == ("wait",) * 3 and out.usage == Usage(150, 12, 60, 3)
    assert [body["n"] for _, body, _ in server.seen] == [3, 2, 1]


@pytest.mark.parametrize(
    ("status", "answer", "message"),
    [
        (401, {}, "set the environment variable OPENAI_API_KEY"),
        (404, {}, "is there a model 'm'"),
        (500, b"out of memory", "500: out of memory"),
        (200, b"<html>", "not JSON"),
        (200, {"choices": []}, "not an OpenAI-style server"),
        (200, [1], "not an OpenAI-style server"),
    ],
)
def test_what_goes_wrong_is_one_clear_line(server, status, answer, message):
    server.status, server.answer = status, answer
    with pytest.raises(UserError, match=message) as error:
        ApiPolicy(server.url, model="m").act(CONTEXT, [], 1, [])
    assert "\n" not in str(error.value) and server.url in str(error.value)


def test_a_busy_server_is_asked_again_and_not_for_ever(server):
    server.status, server.answer = 429, {}
    with pytest.raises(UserError, match="too many requests"):
        ApiPolicy(server.url, model="m", retries=0).act(CONTEXT, [], 1, [])
    assert len(server.seen) == 1
    threading.Timer(0.3, lambda: (setattr(server, "answer", reply("wait")), setattr(server, "status", 200))).start()
    assert ApiPolicy(server.url, model="m").act(CONTEXT, [], 1, []).actions == ("wait",)
    assert len(server.seen) > 2


@pytest.mark.parametrize(("text", "action", "reasoning"), [
    ("> open fridge\nbecause", "open fridge", ""), ("", "", ""),
    ("Thought: it is cold.\nAction: open fridge", "open fridge", "it is cold."),
    ("**Action:** open fridge", "open fridge", ""),
    ("So:\n```python\nfor i in x:\n    f(i)\n```\nDone.", "for i in x:\n    f(i)", "So:"),
])  # fmt: skip
def test_an_action_is_found_in_what_models_write(text, action, reasoning):
    assert answer_of(text) == (action, reasoning)


def test_no_server_no_answer_no_address(server):
    with pytest.raises(UserError, match="no server answers"):
        ApiPolicy("http://127.0.0.1:9/v1", model="m").act(CONTEXT, [], 1, [])
    server.wait = 0.3
    with pytest.raises(UserError, match=r"no answer in 0\.05 s"):
        ApiPolicy(server.url, model="m", timeout=0.05).act(CONTEXT, [], 1, [])
    with pytest.raises(UserError, match="no address"):
        ApiPolicy("localhost:8000", model="m")
