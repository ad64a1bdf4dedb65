"""The part of vLLM's HTTP interface that sampling needs: questions as functions, answers as typed values.

Source: vLLM's OpenAI-compatible server, /v1/completions with return_token_ids (since 0.10.2) and the routes for LoRA at run
time. Everything that could change a distribution (top-p, top-k, penalties) is said in each question, so that a server's own
defaults don't count. Knows no policy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from stateshape.sampling.served.wire import Refused, Server

PLAIN = {
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
MASS_ROUNDING = 1e-3  # of a sum of probabilities; fp32 log-probs are off by 1e-6 each
LOADED = "already been loaded"  # what vLLM says of a name that it has, as after a try whose answer was lost


class Choice(NamedTuple):
    """One row. finish: the server's own word, "stop" or "length". logps: nats at the sampling temperature."""

    ids: list[int]
    logps: list[float]
    finish: str


class Served(NamedTuple):
    """The base model of a server. root: its folder or hub id, as the server was started with."""

    name: str
    root: str
    max_model_len: int | None


class Question(NamedTuple):
    """One prompt, and how it is sampled. ends: ids that end a row, and are part of it."""

    prompt: Sequence[int]
    num_samples: int
    max_tokens: int
    temperature: float
    seed: int
    ends: Sequence[int]
    stops: Sequence[str]


class OddAnswer(Exception):
    """An answer that is not what was asked for. The message says what is odd."""


def complete(server: Server, model: str, question: Question) -> list[Choice]:
    """The rows of one prompt. Raises OddAnswer, Refused (404: no such model there) and BadInput."""
    num_asked = (
        1 if question.temperature == 0 else question.num_samples
    )  # vLLM refuses several greedy rows: all are one
    body: dict[str, Any] = {
        "model": model,
        "prompt": list(question.prompt),
        "n": num_asked,
        "max_tokens": question.max_tokens,
        "temperature": question.temperature,
        "seed": question.seed,
        "ignore_eos": True,  # then stop_token_ids alone decide, whatever the server takes for the end of a text
        "stop_token_ids": list(question.ends),
        "stop": list(question.stops),
        "logprobs": 0,
        "return_token_ids": True,
        **PLAIN,
    }
    answer = server.post("/v1/completions", body)
    try:
        choices = sorted(answer["choices"], key=lambda choice: int(choice["index"]))
        found = [choice_of(choice) for choice in choices]
    except (KeyError, TypeError, ValueError) as error:
        raise OddAnswer(f"a completion without {error}; expected vLLM 0.10.2 or later") from None
    if len(found) != num_asked:
        raise OddAnswer(f"{len(found)} rows; expected {num_asked}")
    return found * (question.num_samples // num_asked)


def choice_of(choice: Any) -> Choice:
    """Raises OddAnswer where log-probs are missing or are no numbers."""
    ids = [int(token) for token in choice["token_ids"]]
    logps = [math.nan if logp is None else float(logp) for logp in choice["logprobs"]["token_logprobs"]]
    if len(ids) != len(logps) or not all(map(math.isfinite, logps)):
        raise OddAnswer(f"{len(ids)} tokens with {sum(map(math.isfinite, logps))} log-probs; expected one each")
    return Choice(ids, logps, str(choice["finish_reason"]))


def prompt_top(server: Server, model: str, ids: Sequence[int], top_k: int) -> list[dict[int, float]]:
    """For each token of a row but the first: the likeliest top_k tokens there, and their log-probs in nats at temperature 1.

    Raises OddAnswer, Refused (400: more than the server's --max-logprobs) and BadInput.
    """
    body = {"model": model, "prompt": list(ids), "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": top_k}
    answer = server.post("/v1/completions", body)
    try:
        told = answer["choices"][0]["prompt_logprobs"][1:]
        places = [{int(token): float(one["logprob"]) for token, one in place.items()} for place in told]
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise OddAnswer(f"a prompt without log-probs ({error})") from None
    if len(places) != len(ids) - 1:
        raise OddAnswer(f"log-probs of {len(places)} tokens; expected {len(ids) - 1}")
    return [likeliest(place, top_k) for place in places]


def likeliest(place: dict[int, float], top_k: int) -> dict[int, float]:
    """Without the token that stands there, which vLLM adds where it is not among them. Raises OddAnswer."""
    if len(place) < top_k:
        raise OddAnswer(f"{len(place)} log-probs at a token; expected {top_k}")
    chosen = dict(sorted(place.items(), key=lambda one: one[1], reverse=True)[:top_k])
    mass = math.fsum(map(math.exp, chosen.values())) if max(chosen.values()) < 1 else math.inf
    if not mass <= 1 + MASS_ROUNDING:
        raise OddAnswer(f"probabilities that sum to {mass:g}, so they are none")
    return chosen


def version_of(server: Server) -> str:
    """Raises OddAnswer and Refused."""
    answer = server.get("/version")
    if not isinstance(answer, dict) or not isinstance(answer.get("version"), str):
        raise OddAnswer("no version")
    return str(answer["version"])


def served_models(server: Server) -> tuple[Served, list[str]]:
    """The base, and the names of the adapters on it. Raises OddAnswer and Refused."""
    answer = server.get("/v1/models")
    try:
        bases = [card for card in answer["data"] if card.get("parent") is None]
        base, limit = bases[0], bases[0].get("max_model_len")
        found = Served(str(base["id"]), str(base.get("root") or base["id"]), None if limit is None else int(limit))
        return found, [str(card["id"]) for card in answer["data"] if card.get("parent") is not None]
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        raise OddAnswer("a list of models without a base model") from None


def token_ids(server: Server, text: str) -> list[int]:
    """The text as the server's tokenizer reads it, without special tokens. Raises OddAnswer and Refused."""
    answer = server.post("/tokenize", {"prompt": text, "add_special_tokens": False})
    try:
        return [int(token) for token in answer["tokens"]]
    except (KeyError, TypeError, ValueError):
        raise OddAnswer("no tokens") from None


def load(server: Server, name: str, path: str) -> None:
    """Loads an adapter from a path that the server sees. Raises Refused."""
    try:
        server.tell("/v1/load_lora_adapter", {"lora_name": name, "lora_path": path})
    except Refused as refused:
        if LOADED not in refused.text:
            raise


def unload(server: Server, name: str) -> None:
    """Raises Refused, with 404 where the server has no such adapter."""
    server.tell("/v1/unload_lora_adapter", {"lora_name": name})


def has_adapter_routes(server: Server) -> bool:
    """Whether adapters can be loaded while the server runs: vLLM has the routes only if it was started so."""
    try:
        server.tell("/v1/load_lora_adapter", {"lora_name": "", "lora_path": ""})  # names nothing, so nothing is loaded
    except Refused as refused:
        return refused.status not in (404, 405)
    return True
