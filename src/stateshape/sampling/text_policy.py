"""A policy that writes text for a prompt: what `open_policy` gives.

Encodes and stops as evaluations do: a chat by the model's own chat template, a text as it is. Knows no task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stateshape.core import html
from stateshape.core.chat import END_OF_TURN, Chat
from stateshape.core.files import BadInput
from stateshape.core.wording import shown
from stateshape.policy.policy import Policy
from stateshape.sampling.local import LocalSampler
from stateshape.sampling.settings import Completion, SamplingSettings

Message = Mapping[str, Any]  # role and content
Prompt = str | Sequence[Message]


class TextPolicy(Policy):
    """A frozen policy, from which texts can be sampled."""

    def __init__(self, policy: Policy, source: str) -> None:
        """The same view on the same weights. source: the name that it was opened by."""
        super().__init__(policy.weights, policy.adapter)
        self.source = source

    @property
    def has_chat_template(self) -> bool:
        return bool(self.tokenizer.chat_template)

    def generate(
        self,
        prompt: str | Sequence[Any],
        *,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        stops: Sequence[str] = (),
        as_chat: bool | None = None,
        seed: int = 0,
    ) -> str | list[str]:
        """What the policy writes after a prompt, without the text that ended it.

        Args:
            prompt: A text; a chat as a list of {"role": ..., "content": ...}; or a list of either, which are sampled together.
            max_new_tokens: The longest answer, in tokens.
            temperature: 0 is greedy: always the likeliest token.
            stops: Texts that end an answer.
            as_chat: A text is a user's message, written by the chat template. Default: where the model has one.
            seed: Fixes what is drawn where the temperature is above 0.

        Returns: the text; for a list of prompts, a list of texts. Raises BadInput.
        """
        is_one = isinstance(prompt, str) or is_chat(prompt)
        prompts: list[Prompt] = [prompt] if is_one else list(prompt)
        wants_chat = self.has_chat_template if as_chat is None else as_chat
        asked = [as_asked(one, wants_chat, number) for number, one in enumerate(prompts, 1)]
        ends = [*stops, *([END_OF_TURN] if any(isinstance(one, Chat) for one in asked) else [])]
        settings = SamplingSettings(max_new_tokens=max_new_tokens, temperature=temperature, stops=tuple(ends))
        ids = [self.fitted_prompt(one, behind=max_new_tokens) for one in asked]
        made = LocalSampler().sample(self, ids, settings, seed=seed)
        texts = [self._written(one, stops) for one in made]
        return texts[0] if is_one else texts

    def _written(self, completion: Completion, stops: Sequence[str]) -> str:
        text = self.decode(completion.ids[:-1] if completion.finish == "eos" else completion.ids)
        return text[: min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))]

    def __repr__(self) -> str:
        return f"<Policy {self.source}: {', '.join(str(value) for _, value in self._facts())}>"

    def _repr_html_(self) -> str:
        return html.facts(f"Policy {self.source}", self._facts())

    def _facts(self) -> list[tuple[str, object]]:
        named = self.weights.model.named_parameters()
        count = sum(parameter.numel() for name, parameter in named if ".lora_" not in name)
        of_base = self.weights.source != self.source
        return [
            *([("base", f"base {self.weights.source}")] if of_base else []),
            ("parameters", f"{count / 1e6:,.1f} M parameters"),
            ("weights", f"{str(self.weights.dtype).removeprefix('torch.')} on {self.device}"),
            ("chat template", "chat template" if self.has_chat_template else "no chat template"),
        ]


def is_chat(prompt: object) -> bool:
    """A list of messages, not of prompts."""
    return isinstance(prompt, Sequence) and bool(prompt) and all(isinstance(one, Mapping) for one in prompt)


def as_asked(prompt: object, wants_chat: bool, number: int) -> str | Chat:
    """What a policy encodes as the prompt. Raises BadInput."""
    where = f"prompt {number}"
    if isinstance(prompt, str):
        if not prompt:
            raise BadInput(f"{where}: got an empty text; expected a prompt")
        message = {"role": "user", "content": prompt}
        return Chat(messages=(message,), where=where) if wants_chat else prompt
    if not is_chat(prompt):
        raise BadInput(f"{where}: got {shown(prompt)}; expected a text, or messages with role and content")
    assert isinstance(prompt, Sequence)
    if odd := [one for one in prompt if not isinstance(one.get("role"), str) or "content" not in one]:
        raise BadInput(f"{where}: got {shown(odd[0])}; expected messages with role and content")
    return Chat(messages=tuple(prompt), where=where)
