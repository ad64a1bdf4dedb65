"""A Sampler whose rows come from vLLM servers: one question per prompt, dealt to the server with the fewest open ones.

A row ends exactly where it would end locally: ids that end a text are asked for as such, and the stop texts are looked for here
again. What the server draws depends on the prompt's number and the seed, not on the other rows, up to rounding: a served run
is not bit-exact. Every version of an adapter passes the gate on every server before its rows are used, the base in each call.
Knows no task.
"""

from __future__ import annotations

import datetime
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

from stateshape.core.files import BadInput, append_jsonl
from stateshape.core.records import Json, ServedRecord
from stateshape.core.seeds import seed_for
from stateshape.policy.policy import Policy
from stateshape.policy.weights import SharedWeights
from stateshape.sampling.local import check_prompts
from stateshape.sampling.rows import Results
from stateshape.sampling.rows import Row as Written
from stateshape.sampling.served.adapters import Adapters, Published
from stateshape.sampling.served.check import Reached, told
from stateshape.sampling.served.gate import Row, compare, first_tokens
from stateshape.sampling.served.protocol import Choice, OddAnswer, Question, complete, version_of
from stateshape.sampling.served.wire import Refused, Server
from stateshape.sampling.settings import Call, Completion, Progress, SamplingSettings

OPEN_QUESTIONS = 64  # per server; each holds as many rows as a prompt has samples
TRIES = 3  # of a prompt whose answer is odd or too short
BASE_PROBE = "Question: How much is 12 + 7?\nAnswer:"
PROBE = SamplingSettings(
    max_new_tokens=16, temperature=0.5, num_samples=2
)  # 0.5: log-probs of temperature 1 are found out


class Answer(NamedTuple):
    """server: its number."""

    server: int
    choices: list[Choice]


class ServedSampler:
    """See Sampler. Samples the policies of one set of weights: the base by its name, all others as adapters on it."""

    def __init__(self, reached: Reached, weights: SharedWeights, *, folder: Path, log: Path | None) -> None:
        """folder: where adapters are published, on a file system that the servers share. log: gets a line per gate."""
        self.reached, self.weights, self.log = reached, weights, log
        self.adapters = Adapters(reached.servers, weights, folder)
        self._open = [0] * len(reached.servers)
        self._lock = threading.Lock()
        self._passed: set[tuple[str, int]] = set()  # adapters and servers that passed the gate

    def about(self) -> dict[str, Json]:
        """For run.json."""
        return {"engine": "vllm", "version": self.reached.version, "servers": [one.url for one in self.reached.servers]}

    def close(self) -> None:
        """Unloads every adapter and closes the connections."""
        self.adapters.close()
        for server in self.reached.servers:
            server.close()

    def prove_base(self) -> None:
        """Samples the base on every server and passes it through the gate. Raises BadInput."""
        base = Policy(self.weights, None)
        prompt = base.encode_prompt(BASE_PROBE)
        question = self.question(base, prompt, PROBE, seed=0, number=0)
        for number, server in enumerate(self.reached.servers):
            rows = [Row(prompt, Completion(c.ids, c.logps, "length")) for c in self.choices(number, None, question)]
            self.gate(base, None, number, rows, PROBE.temperature, where=server.url)

    def sample(
        self,
        policy: Policy,
        prompts: Sequence[Sequence[int]],
        settings: SamplingSettings,
        *,
        seed: int,
        progress: Progress | None = None,
    ) -> list[Completion]:
        """See Sampler. Raises BadInput where a server fails, or does not do what our own pass does."""
        return self.sample_calls(policy, [Call([*map(list, prompts)], seed)], settings, progress)

    def sample_calls(
        self, policy: Policy, calls: Sequence[Call], settings: SamplingSettings, progress: Progress | None = None
    ) -> list[Completion]:
        """See Batching."""
        asked = [(prompt, call.seed, number) for call in calls for number, prompt in enumerate(call.prompts)]
        prompts = [prompt for prompt, _, _ in asked]
        if not prompts:
            return []
        self.check(policy, max(map(len, prompts)), settings)
        adapter = None if policy.adapter is None else self.adapters.of(policy.adapter)
        results = Results(policy, len(prompts), settings, progress)
        questions = {
            place: self.question(policy, prompt, settings, seed=seed, number=number)
            for place, (prompt, seed, number) in enumerate(asked)
        }
        from_server: dict[int, list[int]] = {}
        for attempt in range(1, TRIES + 1):
            odd = self.ask_all(adapter, questions, results, from_server)
            if not odd:
                break
            why = next(iter(odd.values()))
            if attempt == TRIES:
                raise BadInput(
                    f"servers: {why}, in {TRIES} tries; expected rows of {settings.max_new_tokens} tokens or with an end; "
                    "check the server's log, then run the same command again to resume"
                )
            # a server that cuts a text elsewhere ends a row that does not end here: it is asked without stop texts
            questions = {number: questions[number]._replace(stops=()) for number in odd}
        self.gate_all(policy, adapter, prompts, results.completions, from_server, settings)
        return results.completions

    def check(self, policy: Policy, longest: int, settings: SamplingSettings) -> None:
        """Whether the servers can sample this. Raises BadInput."""
        if policy.weights is not self.weights:
            raise BadInput(
                f"servers: got rows to sample from {policy.weights.source!r}, but they serve {self.weights.source!r}; expected "
                "adapters on the served base only; leave servers out, or use a teacher with the same base"
            )
        if policy.weights.is_full(policy.adapter):
            raise BadInput(
                "servers: got parameters full; expected LoRA: whole models are not published; leave servers out"
            )
        check_prompts(policy, longest, settings)
        for server, base in zip(self.reached.servers, self.reached.bases, strict=True):
            needed = longest + max_tokens(policy, longest, settings)
            if base.max_model_len is not None and needed > base.max_model_len:
                raise BadInput(
                    f"servers: {server.url} takes rows of {base.max_model_len} tokens; expected {needed} (a prompt of "
                    f"{longest} and what is written behind it); start it with --max-model-len {needed}"
                )

    def question(
        self, policy: Policy, prompt: Sequence[int], settings: SamplingSettings, *, seed: int, number: int
    ) -> Question:
        watch = Results(policy, 1, settings).watch
        return Question(
            prompt=prompt,
            num_samples=settings.num_samples,
            max_tokens=max_tokens(policy, len(prompt), settings),
            temperature=settings.temperature,
            seed=seed_for(seed, "served", number) >> 1,  # vLLM adds the sample's number to it
            ends=sorted(watch.eos_ids),
            stops=watch.stops,
        )

    def ask_all(
        self,
        adapter: Published | None,
        questions: dict[int, Question],
        results: Results,
        from_server: dict[int, list[int]],
    ) -> dict[int, str]:
        """Asks all at once and keeps whole answers. Returns the numbers of the other prompts, each with the reason."""
        odd: dict[int, str] = {}
        pool = ThreadPoolExecutor(min(len(questions), OPEN_QUESTIONS * len(self.reached.servers)))
        try:
            asked = {pool.submit(self.answer, adapter, question): number for number, question in questions.items()}
            for future in as_completed(asked):
                number = asked[future]
                try:
                    answer = future.result()
                    keep(results, number, questions[number], answer.choices)
                except OddAnswer as error:
                    odd[number] = str(error)
                else:
                    from_server.setdefault(answer.server, []).append(number)
                results.tell()
        except BaseException:
            for server in self.reached.servers:
                server.close()
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        return odd

    def answer(self, adapter: Published | None, question: Question) -> Answer:
        """From the server with the fewest open questions."""
        with self._lock:
            number = min(range(len(self._open)), key=self._open.__getitem__)
            self._open[number] += 1
        try:
            return Answer(number, self.choices(number, adapter, question))
        finally:
            with self._lock:
                self._open[number] -= 1

    def choices(self, number: int, adapter: Published | None, question: Question) -> list[Choice]:
        """Raises OddAnswer naming the server, and BadInput."""
        server = self.reached.servers[number]
        name = self.reached.bases[number].name if adapter is None else adapter.name
        try:
            try:
                return complete(server, name, question)
            except Refused as error:
                if error.status != 404 or adapter is None:
                    raise
                self.check_version(server)
                self.adapters.load_again(server, adapter)
                self._passed.discard((name, number))
                return complete(server, name, question)
        except OddAnswer as error:
            raise OddAnswer(f"{server.url} answered with {error}") from None
        except Refused as error:
            raise BadInput(
                f"servers: {server.url} refused to sample from {name} ({error}); expected it to; was it restarted with another "
                "command? stateshape serve MODEL prints the right one; then run the same command again to resume"
            ) from None

    def check_version(self, server: Server) -> None:
        """Of a server that was started anew. Raises BadInput, OddAnswer and Refused."""
        if (version := version_of(server)) != self.reached.version:
            raise BadInput(
                f"servers: {server.url} was started anew with vLLM {version}; expected {self.reached.version}, with which the "
                "run began; start that version, then run the same command again to resume"
            )

    def check_base_version(self, server: Server) -> None:
        """As check_version. Raises BadInput alone."""
        told(server, "a version", lambda: self.check_version(server))

    def gate_all(
        self,
        policy: Policy,
        adapter: Published | None,
        prompts: Sequence[Sequence[int]],
        completions: Sequence[Completion],
        from_server: dict[int, list[int]],
        settings: SamplingSettings,
    ) -> None:
        """Rows of each server that this version has not been seen from; the base's in each call.

        A server that was started anew has forgotten its adapters, and so is found out. Of the base nothing tells.
        """
        copies = settings.num_samples
        for number, asked in sorted(from_server.items()):
            if adapter is None:
                self.check_base_version(self.reached.servers[number])
            elif (adapter.name, number) in self._passed:
                continue
            rows = [Row(prompts[i], one) for i in sorted(asked) for one in completions[i * copies : (i + 1) * copies]]
            what = "" if adapter is None else f" with {adapter.name}"
            where = f"{self.reached.servers[number].url}{what}"
            self.gate(policy, adapter, number, rows, settings.temperature, where=where)

    def gate(
        self,
        policy: Policy,
        adapter: Published | None,
        number: int,
        rows: Sequence[Row],
        temperature: float,
        *,
        where: str,
    ) -> None:
        found = compare(policy, first_tokens(rows), temperature=temperature, where=where)
        if adapter is not None:
            self._passed.add((adapter.name, number))
        record = ServedRecord(
            date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            server=self.reached.servers[number].url,
            adapter=policy.adapter,
            version=None if adapter is None else adapter.version,
            temperature=temperature,
            num_tokens=found.num_tokens,
            median_nats=found.median_nats,
            mean_ratio=found.mean_ratio,
            share=found.share,
        )
        if self.log is not None:
            append_jsonl(self.log, [record])


def max_tokens(policy: Policy, prompt_length: int, settings: SamplingSettings) -> int:
    """Most new tokens behind a prompt, as locally: a row also ends at the model's last position."""
    room = settings.max_new_tokens if policy.max_positions is None else policy.max_positions - prompt_length
    return min(settings.max_new_tokens, room)


def keep(results: Results, number: int, question: Question, choices: Sequence[Choice]) -> None:
    """Keeps the rows of a prompt, each cut where it ends here. Raises OddAnswer, and keeps none, where one has no end."""
    first = number * results.settings.num_samples
    rows = [Written(first + k, len(question.prompt)) for k in range(len(choices))]
    for row, choice in zip(rows, choices, strict=True):
        for token, logp in zip(choice.ids, choice.logps, strict=True):
            results.append(row, token, logp)
            if row.ending is not None:
                break
        if row.ending is None:
            raise OddAnswer(f"a row of {len(choice.ids)} tokens that ends with {choice.finish!r}")
    for row in rows:
        results.keep(row)
