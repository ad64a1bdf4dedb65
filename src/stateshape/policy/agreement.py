"""Which tokens end a text according to each of a model's files, and what its chat template reads. For `stateshape doctor`.

Loads nothing.
"""

from __future__ import annotations

import re
from typing import Any

import jinja2
from jinja2 import meta

from stateshape.policy.policy import Policy

GENERATION_TAGS = re.compile(r"\{%-?\s*(end)?generation\s*-?%\}")  # transformers' own tags, which jinja2 doesn't know
# what transformers hands to every template; the rest is up to who renders a chat (chat_template_kwargs)
GIVEN = frozenset({"messages", "tools", "documents", "add_generation_prompt", "raise_exception", "strftime_now"})
THINKING = re.compile("think|reason")


def ends_by_file(policy: Policy) -> dict[str, tuple[int, ...]]:
    """Ids that end a text, by who says so; who says nothing is left out."""
    weights = policy.weights
    generation = getattr(weights.model, "generation_config", None)
    said = {
        "tokenizer": policy.tokenizer.eos_token_id,
        "generation config": None if generation is None else generation.eos_token_id,
        "config.json": getattr(weights.config, "eos_token_id", None),
        "chat template": policy.turn_ends,
    }
    found = {
        who: tuple(ids) if isinstance(ids, list | tuple) else (ids,) for who, ids in said.items() if ids is not None
    }
    return {who: ids for who, ids in found.items() if ids}


def ends_disagree(by_file: dict[str, tuple[int, ...]]) -> bool:
    """Whether one file names an end that another does not have."""
    return len({frozenset(ids) for ids in by_file.values()}) > 1


def template_variables(tokenizer: Any) -> list[str] | None:
    """Variables that the chat template reads beside those that are always given. None where it can't be parsed."""
    given = GIVEN | {name for name in dir(tokenizer) if name.endswith("_token")} | set(tokenizer.special_tokens_map)
    templates = tokenizer.chat_template
    texts = list(templates.values()) if isinstance(templates, dict) else [templates]
    environment = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"])
    try:
        parsed = [environment.parse(GENERATION_TAGS.sub("", text)) for text in texts]
    except jinja2.TemplateError:
        return None
    return sorted(set().union(*(meta.find_undeclared_variables(one) for one in parsed)) - given)


def thinking_switches(variables: list[str]) -> list[str]:
    """Those that turn thinking on and off, by their names."""
    return [name for name in variables if THINKING.search(name)]
