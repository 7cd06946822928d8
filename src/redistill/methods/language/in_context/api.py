"""A policy behind an OpenAI-style server (chat completions): OpenAI, vLLM, llama.cpp, Ollama and their like."""

from __future__ import annotations

import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any

from redistill.core.errors import UserError
from redistill.core.slot import Configured
from redistill.core.types import Count, CountOrZero, NonNegative, Positive
from redistill.methods.language.in_context.agents import Context, Reply
from redistill.methods.language.in_context.cascade import normalise
from redistill.methods.language.in_context.cost import Usage

_FENCED = re.compile(r"```[\w+-]*\n(?P<code>.*?)```", re.DOTALL)
_MARKED = re.compile(r"^\W*(?:action|command|plan)\W*:(?P<answer>.+)$", re.IGNORECASE | re.MULTILINE)


class ChatApi:
    """The few lines of the protocol that are needed here. ``url`` ends before ``/chat/completions``; the key is read
    from the environment variable ``key_from``, if it is set. A busy server (429, 503) is asked again ``retries`` times,
    after the seconds that it names, or 1, 2, 4, ... ."""

    def __init__(
        self, url: str, model: str, *, key_from: str = "OPENAI_API_KEY", timeout: float = 60.0, retries: int = 5
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise UserError(f"{url!r} is no address; write it like http://localhost:8000/v1", place="url")
        self.url, self.model, self.key_from = url.rstrip("/"), model, key_from
        self.timeout, self.retries = timeout, retries

    def complete(self, messages: Sequence[dict[str, str]], **options: Any) -> tuple[list[str], Usage]:
        """The texts of all choices, and the tokens that the server counted."""
        answer = self._post({"model": self.model, "messages": list(messages), **options})
        try:
            texts = [str(choice["message"]["content"] or "") for choice in answer["choices"]]
            used = answer.get("usage") or {}
            cached = (used.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
            usage = Usage(int(used["prompt_tokens"]), int(used["completion_tokens"]), int(cached), 1)
        except (KeyError, TypeError, AttributeError, ValueError):
            raise UserError(
                "the answer has no choices with usage: not an OpenAI-style server", place=self.url
            ) from None
        if not texts:
            raise UserError("the server gave no choice", place=self.url)
        return texts, usage

    def _post(self, body: dict[str, Any]) -> Any:
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(self.key_from):
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(f"{self.url}/chat/completions", json.dumps(body).encode(), headers)
        try:
            return self._ask(request)
        except urllib.error.HTTPError as error:
            raise UserError(self._refusal(error), place=self.url) from None
        except TimeoutError:
            raise UserError(
                f"no answer in {self.timeout:g} s; is the model loaded? raise timeout", place=self.url
            ) from None
        except (urllib.error.URLError, ConnectionError) as error:
            reason = getattr(error, "reason", error)
            raise UserError(f"no server answers there ({reason}); start it or mend url", place=self.url) from None
        except json.JSONDecodeError:
            raise UserError("the answer is not JSON; does url end in /v1?", place=self.url) from None

    def _ask(self, request: urllib.request.Request, tried: int = 0) -> Any:
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            if error.code not in (429, 503) or tried == self.retries:
                raise
            wait = error.headers.get("Retry-After", "")
            time.sleep(float(wait) if wait.isdigit() else 2.0**tried)
        return self._ask(request, tried + 1)

    def _refusal(self, error: urllib.error.HTTPError) -> str:
        remedy = {401: f"set the environment variable {self.key_from}", 404: f"is there a model {self.model!r}?",
                  429: "too many requests; wait or use another key"}  # fmt: skip
        said = " ".join(error.read(200).decode("utf-8", "replace").split())
        return f"the server said {error.code}: {remedy.get(error.code, said)}"


class ApiPolicy(Configured):
    """A language model behind an API as student or teacher. It writes freely; an answer that differs from an admissible
    command in case or white space only becomes that command."""

    def __init__(
        self,
        url: str,
        *,
        model: str,
        temperature: NonNegative = 0.1,
        max_tokens: Count = 64,  # of an answer
        key_from: str = "OPENAI_API_KEY",  # environment variable of the key
        timeout: Positive = 60.0,  # seconds
        retries: CountOrZero = 5,  # of a busy server
    ) -> None:
        self.api = ChatApi(url, model, key_from=key_from, timeout=timeout, retries=retries)
        self.options = {"temperature": temperature, "max_tokens": max_tokens}

    def act(self, context: Context, admissible: Sequence[str], n: int, uniforms: Sequence[float]) -> Reply:
        """``n`` samples (the server's own randomness; ``uniforms`` are not used), in as few calls as it allows."""
        messages = self._messages(context, admissible)
        texts: list[str] = []
        usage = Usage()
        while len(texts) < n:  # some servers give one choice whatever n says
            more, used = self.api.complete(messages, n=n - len(texts), **self.options)
            texts += more
            usage = usage.plus(used)
        known = {normalise(a): a for a in admissible} if context.asks == "action" else {}
        said = [answer_of(text) for text in texts[:n]]
        return Reply(tuple(known.get(normalise(a), a) for a, _ in said), usage, said[0][1])

    @staticmethod
    def _messages(context: Context, admissible: Sequence[str]) -> list[dict[str, str]]:
        ask = "Write a short plan, one line." if context.asks == "plan" else "Answer with the next command only."
        listed = "\nPossible commands: " + "; ".join(admissible) if admissible and context.asks == "action" else ""
        return [{"role": "system", "content": ask + listed}, {"role": "user", "content": context.prompt()}]


def answer_of(text: str) -> tuple[str, str]:
    """Action (or plan) and reasoning in what a model wrote: a fenced block whole, what follows "Action:" (or "Plan:"),
    or else the first line. What stands before it is the reasoning."""
    if block := _FENCED.search(text):
        return block["code"].strip(), text[: block.start()].strip()
    if marked := _MARKED.search(text):
        return marked["answer"].strip(" *>`"), text[: marked.start()].strip().removeprefix("Thought:").strip()
    lines = [line.strip(" >`") for line in text.splitlines() if line.strip(" >`")]
    return (lines[0] if lines else ""), ""
