"""Evaluation on a random two-layer model: scores against a slow loop, grading, summaries, files."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import tiny
from stateshape.core.files import BadInput, read_jsonl
from stateshape.core.prefix_tree import MIN_SHARED
from stateshape.core.records import EvalRow, Metric
from stateshape.evals import multiple_choice
from stateshape.evals.evaluate import evaluate, read_summaries, summarise, write_evaluation
from stateshape.evals.generation import generate_and_grade
from stateshape.evals.multiple_choice import score_choices, split_tokens, true_mass
from stateshape.evals.scoring import Likelihood
from stateshape.policy.policy import Policy
from stateshape.policy.weights import SharedWeights
from stateshape.sampling.settings import Completion, Finish
from stateshape.tasks import gsm8k
from stateshape.tasks.items import ChoiceItem, GenerationItem
from stateshape.tasks.task import ChoiceTask, GenerationTask

# " A" to " D" are one token each; ".\n" merges, so the token of a prompt's end can depend on what follows
MERGES = [*[("Ġ", letter) for letter in "ABCD"], (".", "Ċ"), ("t", "h"), ("th", "e")]


def byte_tokenizer(*, bos: bool = False) -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [*alphabet, *[left + right for left, right in MERGES], "<eos>", "<bos>"]
    tokenizer = Tokenizer(models.BPE(vocab={name: i for i, name in enumerate(names)}, merges=MERGES))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", names.index("<bos>"))]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", bos_token="<bos>")


def tiny_policy(*, seed: int = 0, max_positions: int = 4096, bos: bool = False) -> Policy:
    model = tiny.random_model(
        seed,
        dtype=torch.float64,  # a log-prob of -100 has five decimal places in fp32
        vocab_size=300,
        max_position_embeddings=max_positions,
        initializer_range=0.3,  # far from uniform, so that a wrong position or a leak from padding shows
    )
    return Policy(SharedWeights(model, byte_tokenizer(bos=bos), source="tiny"), None)


@pytest.fixture(scope="module")
def policy() -> Policy:
    return tiny_policy()


def choice_task(items: list[ChoiceItem], metric: str) -> ChoiceTask:
    return ChoiceTask(
        name="t",
        label="T",
        metric="mc1" if metric == "mc1" else "acc",
        items=tuple(items),
        metrics=("mc1", "mc2") if metric == "mc1" else ("acc",),
        chance=0.25,
        data_sha256="",
    )


def worded_items() -> list[ChoiceItem]:
    """Prompts and options of many lengths, one ending in blanks, one whose end merges with what follows it."""
    prompts = ["Q: why?\nA:", "Q: the one about the ostrich and the sand, at length?\nA:", "Short. ", "It ends."]
    options = [(" no", " the other thing", " yes, the one"), (" a", " it is the longest of all options here", " b c")]
    options += [("A", "because", "the"), ("\nnext", " same", "!")]
    marks = (True, True, False)
    return [
        ChoiceItem(item_id=f"t/{i}", prompt=p, options=o, is_true=marks, in_mc1=(True, False, True))
        for i, (p, o) in enumerate(zip(prompts, options))
    ]


def lettered_items(num: int = 6) -> list[ChoiceItem]:
    return [
        ChoiceItem(
            item_id=f"l/{i}",
            prompt="Which? " + "word " * (7 * i % 11) + "\nAnswer:",
            options=(" A", " B", " C", " D"),
            is_true=tuple(k == i % 4 for k in range(4)),
            subject="s",
        )
        for i in range(num)
    ]


@torch.no_grad()
def slow_logp(policy: Policy, prompt: str, option: str) -> float:
    """One option at a time, unpadded, full logits, as the harness describes it."""
    num_blanks = len(prompt) - len(prompt.rstrip())
    if num_blanks:
        prompt, option = prompt[:-num_blanks], prompt[-num_blanks:] + option
    context = policy.tokenizer(prompt)["input_ids"]
    whole = policy.tokenizer(prompt + option)["input_ids"]
    ids = context + whole[len(context) :]
    limit = (policy.max_positions or len(ids)) + 1
    num_scored = len(ids) - len(context)
    ids = ids[-limit:]
    logits_TV = policy.weights.model(torch.tensor([ids[:-1]])).logits[0].double()
    logp_TV = logits_TV.log_softmax(-1)
    return sum(float(logp_TV[len(ids) - 2 - k, ids[-1 - k]]) for k in range(num_scored))


@pytest.mark.parametrize("batch_tokens", [1, 60, 100_000])
@pytest.mark.parametrize("bos", [False, True])
def test_trap_left_padding_scores_equal_a_slow_loop_for_any_batching(batch_tokens: int, bos: bool) -> None:
    policy = tiny_policy(bos=bos)
    for task in (choice_task(worded_items(), "mc1"), choice_task(lettered_items(), "acc")):
        rows = score_choices(policy, task, batch_tokens=batch_tokens)
        assert [row.item_id for row in rows] == [item.item_id for item in task.items]
        for row, item in zip(rows, task.items):
            expected = [slow_logp(policy, item.prompt, option) for option in item.options]
            assert row.option_logps == pytest.approx(expected, abs=1e-9)
            assert max(expected) - min(expected) > 0.01


def test_trap_double_bos() -> None:
    policy = tiny_policy(bos=True)
    context, continuation = split_tokens(policy, "Q: why?\nA:", " no")
    assert context[0] == policy.tokenizer.bos_token_id
    assert policy.tokenizer.bos_token_id not in (*context[1:], *continuation)


def test_trap_boundary_retokenised_trailing_blanks_move_to_the_option(policy: Policy) -> None:
    context, continuation = split_tokens(policy, "Answer: ", "A")
    assert policy.decode(context) == "Answer:"
    assert continuation == policy.encode(" A")
    assert len(continuation) == 1


def test_a_merge_across_the_boundary_keeps_the_harness_s_split(policy: Policy) -> None:
    """A full stop and a line break are one token: the prompt keeps its own, the option loses its first character."""
    context, continuation = split_tokens(policy, "It ends.", "\nnext")
    assert context == policy.encode("It ends.")
    assert policy.decode(continuation) == "next"
    with pytest.raises(BadInput, match="has no tokens of its own"):
        score_choices(
            policy,
            choice_task(
                [ChoiceItem(item_id="x", prompt="It ends.", options=("\n", " a"), is_true=(True, False))], "acc"
            ),
        )


def primed_items(num: int = 5) -> list[ChoiceItem]:
    """Two subjects, each with shots that all of its questions begin with; options of one letter and of several words."""
    return [
        ChoiceItem(
            item_id=f"p/{i}/{subject}",
            prompt=f"About {subject}.\nQ: a shot of {subject}\nAnswer: B\n\nQ: {'why ' * i}{i}?\nAnswer:",
            options=(" A", " B", " C", " the whole of it", " the whole of that"),
            is_true=(False, True, False, False, False),
            subject=subject,
        )
        for subject in ("birds", "sand")
        for i in range(num)
    ]


@pytest.mark.parametrize("max_positions", [4096, 45])
@pytest.mark.parametrize("batch_tokens", [1, 100, 100_000])
def test_items_with_shared_shots_score_as_each_option_does_alone(batch_tokens: int, max_positions: int) -> None:
    """Cut on the left too: then an item's options begin at different places, and share nothing."""
    policy = tiny_policy(max_positions=max_positions)
    items = [*primed_items(), *lettered_items(2), *primed_items(2)[::-1]]
    rows = score_choices(policy, choice_task(items, "acc"), batch_tokens=batch_tokens)
    for row, item in zip(rows, items):
        expected = [slow_logp(policy, item.prompt, option) for option in item.options]
        assert row.option_logps == pytest.approx(expected, abs=1e-9)
        assert row.prediction == item.options[expected.index(max(expected))].strip()
    assert any(row.scores["left_truncated"] for row in rows) == (max_positions == 45)


def tokens_computed(
    monkeypatch: pytest.MonkeyPatch, policy: Policy, items: list[ChoiceItem], *, batch_tokens: int | None = None
) -> list[int]:
    """How many tokens each forward pass runs over."""
    seen: list[int] = []
    plain = SharedWeights.run

    def spy(self: SharedWeights, ids_N: torch.Tensor, *rest: Any) -> torch.Tensor:
        seen.append(len(ids_N))
        return plain(self, ids_N, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(SharedWeights, "run", spy)
        score_choices(policy, choice_task(items, "acc"), batch_tokens=batch_tokens)
    return seen


def test_what_options_and_items_have_in_common_is_computed_once(
    monkeypatch: pytest.MonkeyPatch, policy: Policy
) -> None:
    lettered = lettered_items(1)
    assert tokens_computed(monkeypatch, policy, lettered) == [len(policy.encode(lettered[0].prompt))]
    items = primed_items()
    rows = [policy.encode(item.prompt + option)[:-1] for item in items for option in item.options]
    distinct = {tuple(row[:k]) for row in rows for k in range(1, len(row) + 1)}
    [found] = tokens_computed(monkeypatch, policy, items)
    assert len(distinct) <= found < len(distinct) + MIN_SHARED * len(items)
    assert found < sum(map(len, rows)) / 5
    parts = tokens_computed(monkeypatch, policy, items, batch_tokens=200)
    assert len(parts) > 1
    assert max(parts) < 200 + MIN_SHARED * len(items)


def test_progress_counts_options(policy: Policy) -> None:
    seen: list[tuple[int, int]] = []
    score_choices(
        policy,
        choice_task([*lettered_items(6), *worded_items()], "acc"),
        batch_tokens=40,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert len(seen) > 2
    assert seen == sorted(seen)
    assert seen[-1] == (6 * 4 + 4 * 3, 6 * 4 + 4 * 3)


def test_no_items_give_no_rows(policy: Policy) -> None:
    assert score_choices(policy, choice_task([], "acc")) == []


def test_long_prompts_are_cut_on_the_left_and_flagged(caplog: pytest.LogCaptureFixture) -> None:
    policy = tiny_policy(max_positions=40)
    items = [*lettered_items(4), *worded_items()]
    with caplog.at_level(logging.WARNING):
        rows = score_choices(policy, choice_task(items, "acc"))
    flags = [row.scores["left_truncated"] for row in rows]
    assert "of 8 items are longer than the model's 40 positions" in caplog.text
    for row, item, flag in zip(rows, items, flags):
        lengths = [len(policy.encode(item.prompt + option)) - 1 for option in item.options]
        assert flag == float(max(lengths) > 40)
        assert row.option_logps == pytest.approx([slow_logp(policy, item.prompt, o) for o in item.options], abs=1e-9)
    assert 0 < sum(flags) < 8
    with pytest.raises(BadInput, match=r"expected at most the model's 40 positions"):
        score_choices(
            policy,
            choice_task([ChoiceItem(item_id="x", prompt="p", options=(" a", "b" * 41), is_true=(True, False))], "acc"),
        )


def row_of(
    monkeypatch: pytest.MonkeyPatch, policy: Policy, item: ChoiceItem, metric: str, logps: list[float]
) -> EvalRow:
    """The row that these log-probs give; each option is one token."""
    found = [Likelihood(logp, False) for logp in logps]
    monkeypatch.setattr(multiple_choice, "score_rows", lambda *_, **__: found)
    return score_choices(policy, choice_task([item], metric))[0]


def test_acc_norm_by_hand(monkeypatch: pytest.MonkeyPatch, policy: Policy) -> None:
    """-2 nats for two characters, -3 for six without the delimiter, -9 for three: -1, -0.5 and -3 each."""
    item = ChoiceItem(item_id="x", prompt="Q:", options=(" ab", " abcdef", " abc"), is_true=(False, True, False))
    found = [Likelihood(logp, False) for logp in (-2.0, -3.0, -9.0)]
    monkeypatch.setattr(multiple_choice, "score_rows", lambda *_, **__: found)
    task = replace(choice_task([item], "acc"), metric="acc_norm", metrics=("acc_norm", "acc"))
    [row] = score_choices(policy, task)
    assert (row.scores["acc"], row.scores["acc_norm"]) == (0.0, 1.0)
    assert (row.prediction, row.is_correct) == ("abcdef", True)


def test_mc1_mc2_by_hand(monkeypatch: pytest.MonkeyPatch, policy: Policy) -> None:
    item = ChoiceItem(
        item_id="x",
        prompt="Q:",
        options=(" A", " B", " C", " D"),
        is_true=(True, True, False, False),
        in_mc1=(True, False, True, True),
    )
    masses = [0.2, 0.5, 0.1, 0.2]
    row = row_of(monkeypatch, policy, item, "mc1", [math.log(mass / 2) for mass in masses])
    assert row.scores["mc2"] == pytest.approx(0.7)
    # " B" is the likeliest and takes no part in MC1; " A" ties with the false " D": wrong
    assert (row.scores["mc1"], row.prediction, row.is_correct, row.gold) == (0.0, "D", False, "A")
    row = row_of(monkeypatch, policy, item, "mc1", [math.log(0.21), *[math.log(mass) for mass in masses[1:]]])
    assert (row.scores["mc1"], row.prediction, row.is_correct) == (1.0, "A", True)


def test_acc_takes_the_first_of_equals_and_any_true_option(monkeypatch: pytest.MonkeyPatch, policy: Policy) -> None:
    item = ChoiceItem(item_id="x", prompt="Q:", options=(" A", " B", " C", " D"), is_true=(False, True, True, False))
    assert row_of(monkeypatch, policy, item, "acc", [-3.0, -1.0, -1.0, -2.0]).scores["acc"] == 1.0
    assert row_of(monkeypatch, policy, item, "acc", [-1.0, -1.0, -1.0, -2.0]).scores["acc"] == 0.0
    assert row_of(monkeypatch, policy, item, "acc", [-3.0, -2.0, -1.0, -2.0]).gold == "B | C"


def test_true_mass_survives_tiny_probabilities() -> None:
    assert true_mass([-2000.0, -2000.0 + math.log(3)], [True, False]) == pytest.approx(0.25)


# Generation


class ScriptedSampler:
    """Answers with given texts, so that grading and bookkeeping can be checked without a model that can count."""

    def __init__(self, policy: Policy, texts: list[tuple[str, Finish]]) -> None:
        self.policy, self.texts, self.prompts = policy, texts, [[0]]

    def sample(self, policy, prompts, settings, *, seed, progress=None) -> list[Completion]:  # type: ignore[no-untyped-def]
        assert (settings.temperature, settings.num_samples) == (0.0, 1)
        self.prompts = prompts
        made = [(self.policy.encode(text) + [self.policy.eos_ids[0]] * (f == "eos"), f) for text, f in self.texts]
        return [Completion(ids, [0.0] * len(ids), finish) for ids, finish in made]


def problems(num: int, *, max_new_tokens: int = 8) -> GenerationTask:
    items = tuple(
        GenerationItem(item_id=f"g/{i}", prompt=f"Question: {'long ' * i}?\nAnswer:", gold="5") for i in range(num)
    )
    return GenerationTask(
        name="g", label="G", train=(), test=items, grade=gsm8k.grade, data_sha256="", stops=gsm8k.STOPS,
        max_new_tokens=max_new_tokens,
    )  # fmt: skip


def test_generated_rows(policy: Policy) -> None:
    texts: list[tuple[str, Finish]] = [
        (" 2+3=5\n#### 5", "eos"),
        (" five: 5\n\nQuestion:", "stop"),
        (" 20+5=25\n#### 25 and", "length"),
    ]
    rows = generate_and_grade(policy, problems(3), sampler=ScriptedSampler(policy, texts))
    assert [row.scores for row in rows] == [
        {"strict": 1.0, "flexible": 1.0, "truncated": 0.0},
        {"strict": 0.0, "flexible": 1.0, "truncated": 0.0},
        {"strict": 0.0, "flexible": 0.0, "truncated": 1.0},
    ]
    assert [(row.prediction, row.is_correct, row.finish) for row in rows] == [
        ("5", True, "eos"), (None, False, "stop"), ("25", False, "length"),
    ]  # fmt: skip
    assert rows[0].completion == " 2+3=5\n#### 5"
    assert rows[0].num_tokens == len(policy.encode(" 2+3=5\n#### 5")) + 1
    assert rows[0].gold == "5"


def test_trap_left_padding_greedy_generation_ignores_batching(policy: Policy) -> None:
    task = problems(5)
    rows = generate_and_grade(policy, task, batch_rows=2)
    assert [row.completion for row in rows] == [row.completion for row in generate_and_grade(policy, task)]
    ids = policy.encode_prompt(task.test[3].prompt)
    with torch.no_grad():
        for _ in range(rows[3].num_tokens or 0):
            ids.append(int(policy.weights.model(torch.tensor([ids])).logits[0, -1].argmax()))
    new = ids[len(policy.encode_prompt(task.test[3].prompt)) :]
    assert rows[3].completion == policy.decode(new)


def test_prompts_leave_room_for_the_answer(caplog: pytest.LogCaptureFixture) -> None:
    policy = tiny_policy(max_positions=48)
    sampler = ScriptedSampler(policy, [(" 5", "eos")] * 6)
    with caplog.at_level(logging.WARNING):
        generate_and_grade(policy, problems(6, max_new_tokens=16), sampler=sampler)
    assert max(map(len, sampler.prompts)) == 32
    assert policy.decode(sampler.prompts[5]).endswith("long ?\nAnswer:")
    assert "prompts lost tokens on the left" in caplog.text
    with pytest.raises(BadInput, match="max_new_tokens: got 48; expected fewer than the model's 48 positions"):
        generate_and_grade(policy, problems(1, max_new_tokens=48), sampler=sampler)


# Summary and files


def test_summary_is_wilson_for_rates_and_normal_for_means() -> None:
    def row(item_id: str, mc1: float, mc2: float) -> EvalRow:
        return EvalRow(
            item_id=item_id,
            prompt_sha256="",
            prediction=None,
            gold="",
            is_correct=mc1 == 1,
            scores={"mc1": mc1, "mc2": mc2},
        )

    rows = [row(str(i), float(i < 3), value) for i, value in enumerate([0.1, 0.2, 0.3, 0.4, 0.5] * 2)]
    summary = summarise(rows, ("mc1", "mc2"))
    assert summary["mc1"].ci95 == pytest.approx((0.10779, 0.60323), abs=1e-5)  # Wilson, 3 of 10
    assert (summary["mc1"].value, summary["mc1"].n) == (0.3, 10)
    stderr = math.sqrt(0.2 / 9 / 10)  # sum of squares 10 * 0.02
    assert summary["mc2"].stderr == pytest.approx(stderr)
    assert summary["mc2"].ci95 == pytest.approx((0.3 - 1.959964 * stderr, 0.3 + 1.959964 * stderr))
    assert summarise([], ("mc1",))["mc1"] == Metric(value=None, n=0, stderr=None, ci95=None)


def test_written_evaluations_come_back_and_merge(tmp_path: Path, policy: Policy) -> None:
    task = choice_task(lettered_items(), "acc")
    rows = evaluate(policy, task)
    generated = evaluate(policy, problems(2))
    write_evaluation(tmp_path, "t", rows, summarise(rows, task.metrics))
    write_evaluation(tmp_path, "g", generated, summarise(generated, problems(2).metrics))
    assert read_jsonl(tmp_path / "evals" / "t.jsonl", EvalRow) == rows
    assert read_jsonl(tmp_path / "evals" / "g.jsonl", EvalRow) == generated
    summaries = read_summaries(tmp_path)
    assert summaries == {"t": summarise(rows, ("acc",)), "g": summarise(generated, ("strict", "flexible", "truncated"))}
    write_evaluation(tmp_path, "t", rows[:2], summarise(rows[:2], task.metrics))
    assert {name: summary.popitem()[1].n for name, summary in read_summaries(tmp_path).items()} == {"t": 2, "g": 2}
    assert {path.name for path in (tmp_path / "evals").iterdir()} == {"t.jsonl", "g.jsonl", "summary.json"}
