"""A policy as a model of lm-evaluation-harness: its requests are answered by our forward pass and sampler.

    lm_eval.simple_evaluate(model=PolicyLM(policy), tasks=["arc_easy"])

Texts become tokens as in the harness's own Hugging Face model. Differs in speed: requests are put in the order of their tokens,
so that those which begin alike share their beginning in one forward pass (scoring.py). Sampling is from the model's own
distribution: top-k, top-p and beams are refused. Needs `lm_eval`. Knows no task.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jinja2
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from stateshape.core.files import BadInput, sha256_text
from stateshape.evals.scoring import score_rows, scored_row
from stateshape.policy import chat as chats
from stateshape.policy.policy import Policy
from stateshape.sampling.local import LocalSampler
from stateshape.sampling.settings import Completion, Sampler, SamplingSettings
from stateshape.tasks.task import Progress

MAX_LENGTH = 2048  # of a model that names none, as in the harness
MAX_NEW_TOKENS = 256  # of a task that names none, as in the harness
PLAIN = {"top_k": (0, -1, None), "top_p": (1, 1.0, None), "num_beams": (1, None), "min_p": (0, 0.0, None)}
Pair = tuple[Any, list[int], list[int]]  # a request's texts, and the ids of its context and of what follows


class PolicyLM(TemplateLM):
    """One policy. completions: what was sampled for the last requests, in their order.

    sampler: None samples on this machine. seed: of what is sampled at a temperature.
    """

    def __init__(
        self, policy: Policy, *, sampler: Sampler | None = None, seed: int = 0, progress: Progress | None = None
    ) -> None:
        super().__init__()
        self.policy, self.tokenizer = policy, policy.tokenizer
        self.sampler: Sampler = sampler or LocalSampler()
        self.seed, self.progress = seed, progress
        self.max_length: int = policy.longest_row or MAX_LENGTH
        self.completions: list[Completion] = []

    @property
    def device(self) -> Any:
        return self.policy.device

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without a context."""
        return self.eot_token_id if self.policy.bos_id is None else self.policy.bos_id

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        if add_special_tokens is None:
            add_special_tokens = not string.startswith(self.tokenizer.decode(self.prefix_token_id))
        return list(self.tokenizer(string, add_special_tokens=add_special_tokens, verbose=False)["input_ids"])

    # Chats

    @property
    def tokenizer_name(self) -> str:
        """Names the template, for the harness's cache of requests."""
        name = str(getattr(self.tokenizer, "name_or_path", "")).replace("/", "__")
        return f"{name}-{sha256_text(str(self.tokenizer.chat_template))[:12]}"

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The chat as text, by the policy's template; one without a system role gets the chat without that message.

        Templates that write a date are told a fixed one (policy/chat.py), so that a prompt is the same every day.
        """
        chats.check_template(self.tokenizer, model=self.policy.weights.source, where="lm-eval's chat prompts")
        try:
            return self._rendered(chat_history, is_open=add_generation_prompt)
        except jinja2.exceptions.TemplateError:
            rest = [message for message in chat_history if message["role"] != "system"]
            return self._rendered(rest, is_open=add_generation_prompt)

    def _rendered(self, messages: list[dict[str, str]], *, is_open: bool) -> str:
        return str(
            self.tokenizer.apply_chat_template(
                messages,
                tokenize=False,
                add_generation_prompt=is_open,
                continue_final_message=not is_open,
                **chats.dated_template(self.tokenizer),
            )
        )

    # Log-probs

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm)  # type: ignore[no-any-return]

    def _loglikelihood_tokens(self, requests: Sequence[Pair], **_: Any) -> list[tuple[float, bool]]:
        """Raises BadInput where there is nothing to score, or no room for it."""
        for texts, context, targets in requests:
            if not context or not targets or len(targets) > self.max_length:
                raise BadInput(
                    f"{self.policy.weights.source}: got {len(targets)} tokens behind {len(context)} in the request {texts!r}; "
                    f"expected 1 to {self.max_length} behind at least one"
                )
        rows = [scored_row(context, targets, max_positions=self.max_length) for _, context, targets in requests]
        order = sorted(range(len(rows)), key=lambda at: rows[at].ids)
        found = score_rows(self.policy, [rows[at] for at in order], progress=self.progress)
        answers: list[tuple[float, bool]] = [(math.nan, False)] * len(rows)
        for at, likelihood in zip(order, found, strict=True):
            answers[at] = (likelihood.logp, likelihood.is_greedy)
            if requests[at][0] is not None:
                self.cache_hook.add_partial("loglikelihood", requests[at][0], answers[at])
        return answers

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        """Of whole texts, in windows as long as the model's positions, each token in one of them."""
        windows: list[Pair] = []
        owners: list[int] = []
        for at, request in enumerate(requests):
            for pair in get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            ):
                windows.append((None, *make_disjoint_window(pair)))
                owners.append(at)
        totals = [0.0] * len(requests)
        for at, (logp, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            totals[at] += logp
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    # Free text

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """Completions up to their stop text, by the settings of each request."""
        groups: dict[str, list[int]] = {}
        for at, request in enumerate(requests):
            groups.setdefault(repr(request.args[1]), []).append(at)
        answers = [""] * len(requests)
        completions: dict[int, Completion] = {}
        for places in groups.values():
            settings, stops = self._settings(requests[places[0]].args[1])
            prompts = [self._prompt(requests[at].args[0], settings.max_new_tokens) for at in places]
            made = self.sampler.sample(self.policy, prompts, settings, seed=self.seed, progress=self.progress)
            for at, completion in zip(places, made, strict=True):
                completions[at] = completion
                text = self.policy.decode(completion.ids)
                answers[at] = postprocess_generated_text(text, stops, None)
                self.cache_hook.add_partial("generate_until", requests[at].args, answers[at])
        self.completions = [completions[at] for at in range(len(requests))]
        return answers

    def _settings(self, given: dict[str, Any]) -> tuple[SamplingSettings, list[str]]:
        """Ours, and the texts at which a completion is cut. Raises BadInput for what is not plain sampling."""
        kwargs = dict(normalize_gen_kwargs(given, MAX_NEW_TOKENS))
        until = kwargs.get("until") or []
        stops = [stop for stop in ([until] if isinstance(until, str) else until) if stop]
        is_sampled = bool(kwargs.get("do_sample"))
        odd = [name for name, plain in PLAIN.items() if name in kwargs and kwargs[name] not in plain]
        if odd and (is_sampled or "num_beams" in odd):
            raise BadInput(
                f"generation_kwargs: got {odd[0]} {kwargs[odd[0]]}; expected plain sampling from the model's distribution; "
                "leave it out of the task's generation_kwargs"
            )
        temperature = float(kwargs.get("temperature") or 0.0) if is_sampled else 0.0
        eos = self.policy.decode([self.eot_token_id], skip_special_tokens=False)
        settings = SamplingSettings(
            max_new_tokens=int(kwargs["max_gen_toks"]),
            temperature=temperature,
            stops=tuple(stop for stop in stops if stop != eos),
        )
        return settings, [*stops, eos]

    def _prompt(self, context: str, behind: int) -> list[int]:
        if behind >= self.max_length:
            raise BadInput(
                f"{self.policy.weights.source}: max_gen_toks: got {behind}; expected fewer than the model's {self.max_length} "
                "positions; give --max-new-tokens fewer, or use a model with more"
            )
        return self.tok_encode(context)[-(self.max_length - behind) :]
