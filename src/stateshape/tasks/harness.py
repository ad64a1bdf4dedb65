"""Tasks of lm-evaluation-harness by name: `lm_eval:NAME[,option=value...]`, NAME being a task, a group or a YAML file of its.

    lm_eval:arc_easy    lm_eval:gsm8k,num_fewshot=0    lm_eval:my_task.yaml,apply_chat_template=true

What such a task is here: a GenerationTask, so that it can be trained on, sampled and measured as any other, which keeps the
harness's own task objects for its evaluation (evals/harness.py). Does not import the harness: harness_read.py does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, overload

from stateshape.core.files import BadInput, parse
from stateshape.core.wording import one_line, shown
from stateshape.tasks.items import GenerationItem
from stateshape.tasks.task import GenerationTask, Task

HARNESS = "lm_eval"
PREFIX = f"{HARNESS}:"
FEWSHOT_SEED = 1234  # lm-evaluation-harness's own default, so that its examples are drawn here too
# In place of the harness's perplexities, which are of all texts together. The first is one over a text's own byte perplexity:
# as a share between 0 and 1 it can stand beside other tasks' scores, which a log-prob can't.
BYTE_PROBABILITY = "byte_probability"
LOGP_PER_BYTE = "logp_per_byte_nats"
LOGP = "logp_nats"  # of what is scored behind a prompt


@dataclass(frozen=True, kw_only=True, slots=True)
class HarnessOptions:
    """What stands behind the name of a task, in lm-evaluation-harness's words."""

    num_fewshot: int | None = None
    """Examples in the prompt. Default: the task's own number."""
    apply_chat_template: bool = False
    """Write prompts by the model's chat template."""
    fewshot_as_multiturn: bool = False
    """Examples are turns of the chat, not one message."""
    metric: str | None = None
    """The task's metric that runs are compared by. Default: acc_norm where it has it, else its first one."""

    def __post_init__(self) -> None:
        if self.num_fewshot is not None and self.num_fewshot < 0:
            raise BadInput(f"num_fewshot: got {self.num_fewshot}; expected 0 or more")
        if self.fewshot_as_multiturn and not self.apply_chat_template:
            raise BadInput(
                "fewshot_as_multiturn: got true without apply_chat_template; expected both, since turns are a chat's; add "
                "apply_chat_template"
            )

    def text(self) -> str:
        """As it is written behind a name: empty where nothing is chosen."""
        told = {one.name: getattr(self, one.name) for one in fields(self) if getattr(self, one.name) != one.default}
        return "".join(f",{name}={str(value).lower() if value is True else value}" for name, value in told.items())


OPTIONS = tuple(one.name for one in fields(HarnessOptions))


def check_installed() -> None:
    """Whether lm-evaluation-harness can be imported. Raises BadInput."""
    try:
        import lm_eval.tasks  # noqa: F401 (not a dependency: most users have no need of it)
    except ImportError as error:
        raise BadInput(
            f"lm_eval: got no lm-evaluation-harness that can be imported ({one_line(str(error), limit=100)}); expected it "
            "installed; pip install 'stateshape[lm-eval]'"
        ) from None


def is_harness_task(name: str) -> bool:
    return name.startswith(PREFIX)


def parse_harness_name(name: str) -> tuple[str, HarnessOptions]:
    """NAME and its options. Raises BadInput."""
    task, *parts = re.split(r",(?=\w+=)", name.removeprefix(PREFIX))  # a metric may be called exact_match,strict-match
    given: dict[str, Any] = {}
    for part in parts:
        key, _, value = part.partition("=")
        given[key] = {"true": True, "false": False}.get(value.lower(), value)
    if not task.strip():
        raise BadInput(f"task: got {shown(name)}; expected a task of lm-evaluation-harness, as in {PREFIX}arc_easy")
    return task.strip(), parse(given, HarnessOptions, where=f"task: {shown(name)}")


def names_of(text: str) -> list[str]:
    """Tasks separated by commas; the options of one stay with its name."""
    return [name.strip() for name in re.split(r",(?!\w+=)", text) if name.strip()]


def named(entry: dict[str, Any]) -> dict[str, Any]:
    """A study file's `{lm_eval: arc_easy, limit: 500, num_fewshot: 0}` with a `task` as the command line has it."""
    if HARNESS not in entry:
        return entry
    task = entry[HARNESS]
    if "task" in entry or not isinstance(task, str):
        raise BadInput(
            f"{HARNESS}: got {shown(task)}{' beside a task' if 'task' in entry else ''}; expected one name, as in "
            "{lm_eval: arc_easy}; drop the other"
        )
    given = {key: value for key, value in entry.items() if key in OPTIONS and value is not None}
    options = parse(given, HarnessOptions, where=f"{HARNESS} {shown(task)}")
    rest = {key: value for key, value in entry.items() if key not in (HARNESS, *OPTIONS)}
    return {"task": f"{PREFIX}{task}{options.text()}", **rest}


class MadeOnce(Sequence[GenerationItem]):
    """Items made when the first of them is looked at: a task that is only evaluated has training items that nobody asks for."""

    def __init__(self, length: int, make: Callable[[], tuple[GenerationItem, ...]]) -> None:
        self._length, self._make = length, make
        self._made: tuple[GenerationItem, ...] | None = None

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, at: int) -> GenerationItem: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[GenerationItem, ...]: ...
    def __getitem__(self, at: int | slice) -> GenerationItem | tuple[GenerationItem, ...]:
        return self._items()[at]

    def __iter__(self) -> Iterator[GenerationItem]:
        return iter(self._items())

    def _items(self) -> tuple[GenerationItem, ...]:
        if self._made is None:
            self._made = self._make()
        return self._made


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class HarnessTask(GenerationTask):
    """A task of lm-evaluation-harness, or a group of them.

    tasks: its task objects by name. places: of each evaluated item, the object's name and the number of its document.
    is_generated: answered in free text; else texts are scored. choices: of an item whose options are scored, their texts.
    """

    tasks: dict[str, Any]
    places: dict[str, tuple[str, int]]
    options: HarnessOptions
    is_generated: bool
    choices: dict[str, tuple[str, ...]] = field(default_factory=dict)
    versions: dict[str, str]  # of the task objects, and of the package


def is_answered_in_text(task: Task) -> bool:
    """Whether the task is evaluated on what a model writes; else texts are scored."""
    return task.is_generated if isinstance(task, HarnessTask) else isinstance(task, GenerationTask)
