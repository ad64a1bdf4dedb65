"""A server that speaks the part of vLLM's protocol that we use, and misbehaves on request.

It answers by a real model through our own sampler, so its log-probs are right unless it is told to get them wrong.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch

from stateshape.policy.policy import Policy
from stateshape.policy.weights import SharedWeights
from stateshape.sampling.local import LocalSampler
from stateshape.sampling.served.gate import Row, own_logps
from stateshape.sampling.settings import Completion, SamplingSettings

Answer = tuple[int, Any]


class FakeServer:
    """Use as a context manager. Its fields are its faults; they may be changed while it runs."""

    def __init__(self, weights: SharedWeights, *, root: str = "somewhere/else", port: int = 0) -> None:
        self.weights, self.root = weights, root
        self.version, self.max_model_len = "0.32.0", 4096
        self.has_routes = True
        self.key: str | None = None  # asked for below /v1, as vLLM does
        self.slots = 8
        self.max_logprobs = 20
        self.gives_logits = False  # in place of a prompt's log-probs
        self.drops_logprobs = 0  # of each prompt token's
        self.ignores_adapters = False  # says that it has loaded one, and answers by the base
        self.is_raw = False  # log-probs of temperature 1 whatever the temperature
        self.wrong_by = 0.0  # nats that every log-prob is off
        self.short_by = 0  # tokens that every row lacks at its end
        self.breaks_texts = False  # ends a row with stop texts one token early
        self.lasts: int | None = None  # completions until the engine dies
        self.failures: dict[str, list[Answer]] = {}  # what a path answers next
        self.is_stuck = threading.Event()  # while set, completions get no answer
        self.questions: list[tuple[str, dict[str, Any]]] = []  # path and body of all that was asked
        self.authorizations: set[str | None] = set()  # that came with the questions
        self.adapters: dict[str, str] = {}
        self.loaded: list[str] = []  # every name that was ever loaded
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._port = port
        self._http: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.answer({})

            def do_POST(self) -> None:
                self.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def answer(self, body: dict[str, Any]) -> None:
                status, value = fake.let_in(self.path, self.headers["Authorization"]) or fake.answered(self.path, body)
                data = (value if isinstance(value, str) else json.dumps(value)).encode()
                with contextlib.suppress(OSError):  # who asked has gone
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(data)))
                    self.send_header("Connection", "close")
                    self.end_headers()
                    self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._http.daemon_threads = True
        self._port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def stop(self) -> None:
        """As if it was killed: it answers no more, and has forgotten its adapters."""
        assert self._http is not None
        self._http.shutdown()
        self._http.server_close()
        self.adapters.clear()

    def __enter__(self) -> FakeServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.stop()

    def completions(self) -> list[dict[str, Any]]:
        return [body for path, body in self.questions if path == "/v1/completions"]

    def let_in(self, path: str, authorization: str | None) -> Answer | None:
        self.authorizations.add(authorization)
        if self.key is None or not path.startswith("/v1") or authorization == f"Bearer {self.key}":
            return None
        return 401, {"error": "Unauthorized"}

    def answered(self, path: str, body: dict[str, Any]) -> Answer:
        with self._lock:
            self.questions.append((path, body))
            if path == "/v1/completions" and self.lasts is not None and len(self.completions()) > self.lasts:
                return error(500, "EngineDeadError")
            if self.failures.get(path):
                return self.failures[path].pop(0)
        if path == "/v1/completions" and self.is_stuck.is_set():
            self._over.wait()
        with self._lock:  # one at a time: the weights have one active adapter
            return self.route(path, body)

    def route(self, path: str, body: dict[str, Any]) -> Answer:
        match path:
            case "/version":
                return 200, {"version": self.version}
            case "/v1/models":
                cards: list[dict[str, Any]] = [
                    {"id": "base", "root": self.root, "parent": None, "max_model_len": self.max_model_len}
                ]
                return 200, {
                    "data": cards + [{"id": name, "root": at, "parent": "base"} for name, at in self.adapters.items()]
                }
            case "/tokenize":
                return 200, {"tokens": self.weights.tokenizer(body["prompt"], add_special_tokens=False)["input_ids"]}
            case "/v1/load_lora_adapter" if self.has_routes:
                return self.load(body["lora_name"], body["lora_path"])
            case "/v1/unload_lora_adapter" if self.has_routes:
                return (200, "ok") if self.adapters.pop(body["lora_name"], None) else error(404, "cannot be found")
            case "/v1/completions":
                return self.complete(body)
        return 404, {"detail": "Not Found"}

    def load(self, name: str, path: str) -> Answer:
        if not name or not path:
            return error(400, "Both 'lora_name' and 'lora_path' must be provided.")
        if name in self.adapters:
            return error(400, f"The lora adapter '{name}' has already been loaded.")
        if len(self.adapters) >= self.slots:
            return error(400, "No free slots")
        if not (Path(path) / "adapter_config.json").exists():
            return error(404, "No adapter found")
        self.adapters[name] = path
        self.loaded.append(name)
        return 200, "Success"

    def complete(self, body: dict[str, Any]) -> Answer:
        name = body["model"]
        if name != "base" and name not in self.adapters:
            return error(404, f"The model `{name}` does not exist.")
        if body["temperature"] == 0 and body.get("n", 1) > 1:
            return error(400, f"n must be 1 when using greedy sampling, got {body['n']}.")
        if "prompt_logprobs" in body:
            return self.score(body["prompt"], body["prompt_logprobs"])
        with self.policy(None if self.ignores_adapters else self.adapters.get(name)) as policy:
            settings = SamplingSettings(
                max_new_tokens=body["max_tokens"],
                temperature=body["temperature"],
                num_samples=body["n"],
                stops=tuple(body["stop"]),
            )
            rows = LocalSampler().sample(policy, [body["prompt"]], settings, seed=body["seed"])
            if self.is_raw:
                rows = [self.raw(policy, body["prompt"], row) for row in rows]
        return 200, {"choices": [self.choice(i, row, bool(body["stop"])) for i, row in enumerate(rows)][::-1]}

    def score(self, ids: list[int], top_k: int) -> Answer:
        """By the base. As in vLLM the token that stands there is told too, and the first one has nothing."""
        if top_k > self.max_logprobs:
            message = f"Requested prompt logprobs of {top_k}, which is greater than max allowed: {self.max_logprobs}"
            return error(400, message)
        policy = Policy(self.weights, None)
        with torch.no_grad():
            policy.activate()
            logits_TV = policy.head.logits(policy.hidden_at([ids], [range(len(ids) - 1)]))
        logp_TV = logits_TV if self.gives_logits else logits_TV.log_softmax(-1)
        told: list[dict[str, Any] | None] = [None]
        for token, logp_V in zip(ids[1:], logp_TV, strict=True):
            likeliest = logp_V.topk(top_k).indices.tolist()
            chosen = dict.fromkeys([token, *likeliest][: 1 + top_k - self.drops_logprobs])
            told.append({str(one): {"logprob": float(logp_V[one]), "rank": 1, "decoded_token": "?"} for one in chosen})
        return 200, {"choices": [{"index": 0, "prompt_logprobs": told}]}

    def raw(self, policy: Policy, prompt: Sequence[int], row: Completion) -> Completion:
        return row._replace(logps=own_logps(policy, [Row(prompt, row)], 1.0).tolist())

    def choice(self, index: int, row: Completion, has_stops: bool) -> dict[str, Any]:
        cut = self.short_by or (1 if self.breaks_texts and has_stops and len(row.ids) > 1 else 0)
        ids, logps = row.ids[: len(row.ids) - cut], row.logps[: len(row.ids) - cut]
        return {
            "index": index,
            "token_ids": ids,
            "logprobs": {"token_logprobs": [logp + self.wrong_by for logp in logps]},
            "finish_reason": "length" if row.finish == "length" and not cut else "stop",
        }

    @contextlib.contextmanager
    def policy(self, path: str | None) -> Iterator[Policy]:
        if path is None:
            yield Policy(self.weights, None)
            return
        self.weights.load_adapter("served", Path(path))
        try:
            yield Policy(self.weights, "served")
        finally:
            self.weights.remove_adapter("served")


def error(status: int, message: str) -> Answer:
    return status, {"error": {"message": message, "code": status}}
