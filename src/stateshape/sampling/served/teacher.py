"""A teacher on a vLLM server: the likeliest tokens at each place of a row, by the log-probs of a prompt.

The teacher is the base of its server, and may be larger than what fits here; only its tokens must be the learner's. Its numbers
can't be rescored here: they are checked for what any distribution is. A server that takes adapters is refused: vLLM 0.32 dies
of the log-probs of several prompts at a time, of the base's too. Knows no signal.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any

from stateshape.core.files import BadInput
from stateshape.core.records import Json
from stateshape.core.wording import shown
from stateshape.sampling.served.check import check_tokens, told
from stateshape.sampling.served.choice import check_servers
from stateshape.sampling.served.protocol import (
    OddAnswer,
    Served,
    has_adapter_routes,
    prompt_top,
    served_models,
    version_of,
)
from stateshape.sampling.served.wire import SHOWN, Patience, Refused, Server
from stateshape.sampling.top import Top

OPEN_QUESTIONS = 16  # an answer holds top_k log-probs for each token of a row
TRIES = 3
ADDRESS_BEGINS = ("http://", "https://")


def is_address(source: str) -> bool:
    """Whether a teacher is named by its server's address."""
    return source.startswith(ADDRESS_BEGINS)


class ServedTeacher:
    """See TopTeacher."""

    def __init__(self, url: str, *, top_k: int, tokenizer: Any, model: str, patience: Patience) -> None:
        """Opens the server and checks it. tokenizer: the learner's, `model` its name; None: not known here.

        Raises BadInput where the server is none, has other tokens or gives fewer log-probs.
        """
        check_servers("vllm", [url])
        self.server, self.top_k = Server(url.rstrip("/"), patience), top_k
        try:
            self.version = told(self.server, "a version", lambda: version_of(self.server))
            if told(self.server, "adapter routes", lambda: has_adapter_routes(self.server)):
                raise BadInput(self.takes_adapters())
            self.base: Served = told(self.server, "its models", lambda: served_models(self.server)[0])
            if tokenizer is not None:
                self.answer(check_tokens(self.server, tokenizer, model))
        except BaseException:
            self.close()
            raise

    def about(self) -> dict[str, Json]:
        """For run.json."""
        return {"engine": "vllm", "version": self.version, "model": self.base.root, "top_k": self.top_k}

    def close(self) -> None:
        """Closes the connections."""
        self.server.close()

    def top(self, rows: Sequence[Sequence[int]], places: Sequence[Sequence[int]]) -> Top:
        """See TopTeacher. Raises BadInput where the server fails, or answers with what is no distribution."""
        longest = max(map(len, rows), default=0)
        if self.base.max_model_len is not None and longest >= self.base.max_model_len:
            raise BadInput(
                f"teacher: {self.server.url} takes rows of {self.base.max_model_len} tokens; expected {longest + 1}, one more "
                f"than the longest here; start it with --max-model-len {longest + 1}"
            )
        pool = ThreadPoolExecutor(OPEN_QUESTIONS)
        try:
            answers = list(pool.map(self.answer, rows))
        except BaseException:
            self.close()
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        # an answer begins at a row's second token
        chosen = list(
            chain.from_iterable([of_row[t - 1] for t in at] for of_row, at in zip(answers, places, strict=True))
        )
        return Top([list(place) for place in chosen], [list(place.values()) for place in chosen])

    def answer(self, row: Sequence[int]) -> list[dict[int, float]]:
        """Raises BadInput."""
        why = ""
        for _ in range(TRIES):
            try:
                return prompt_top(self.server, self.base.name, row, self.top_k)
            except OddAnswer as error:
                why = str(error)
            except Refused as error:
                raise BadInput(self.refused(error)) from None
        raise BadInput(
            f"teacher: {self.server.url} answered with {why}, in {TRIES} tries; expected log-probs of a vLLM server; check its "
            "--logprobs-mode and its log"
        )

    def takes_adapters(self) -> str:
        return (
            f"teacher: {self.server.url} takes adapters; expected a server that does not, since vLLM 0.32 can die of "
            "prompts' log-probs there; start one for the teacher alone: stateshape serve MODEL --adapters 0"
        )

    def refused(self, error: Refused) -> str:
        if error.status == 400 and "greater than max allowed" in error.text:
            return (
                f"top_k: got {self.top_k}, and {self.server.url} gives fewer log-probs ({shown(error.text, limit=SHOWN)}); "
                f"expected at most its --max-logprobs; start it with --max-logprobs {self.top_k}, or give a smaller top_k"
            )
        return (
            f"teacher: {self.server.url} refused to score a row with {self.base.name} ({shown(str(error), limit=SHOWN)}); "
            "expected it to; was it restarted with another model? then run the same command again to resume"
        )
