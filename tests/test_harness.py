"""Tasks of lm-evaluation-harness: answered as its own Hugging Face model answers them, on record as any task here.

Without lm_eval everything here is skipped, with a word: `make test-lm-eval` installs it. No network: YAML over local JSON.
"""

from __future__ import annotations

import csv
import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import stateshape
import tiny
from stateshape.cli import main
from stateshape.core.files import BadInput, read_json
from stateshape.core.records import RunRecord
from stateshape.core.study_records import PlanRecord
from stateshape.evals.evaluate import evaluate, summarise
from stateshape.policy.policy import Policy
from stateshape.policy.weights import SharedWeights
from stateshape.recipes.sft import SFT
from stateshape.tasks.harness import HarnessTask
from stateshape.tasks.load import load_task
from stateshape.tasks.mmlu import read_mmlu
from stateshape.train.settings import TrainSettings

pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed: make test-lm-eval")

from harness_tasks import choice_task, last_word_task, questions, sum_task, text_task, write_task

pytestmark = [pytest.mark.numerics, pytest.mark.filterwarnings("ignore")]
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}{% if not loop.last or m.role != 'assistant' %}\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)
NATS = 1e-3  # fp32 on both sides; batching and padding differ


@pytest.fixture(scope="module")
def policy() -> Policy:
    weights = tiny.weights(3)
    weights.tokenizer.chat_template = TEMPLATE
    return Policy(weights, None)


def load(path: Path, options: str = "", **choices: Any) -> HarnessTask:
    task = load_task(f"lm_eval:{path}{options}", **choices)
    assert isinstance(task, HarnessTask)
    return task


def by_harness(model: Any, paths: list[Path], **settings: Any) -> dict[str, Any]:
    import lm_eval
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_defaults=False)
    names = [str(path) for path in paths]
    return lm_eval.simple_evaluate(model=model, tasks=names, task_manager=manager, bootstrap_iters=0, **settings)


def their_model(policy: Policy) -> Any:
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=policy.weights.model, tokenizer=policy.tokenizer, batch_size=2)


def values(response: Any) -> list[Any]:
    """A response as a flat list: texts, log-probs, marks."""
    return [part for one in response for part in (values(one) if isinstance(one, list | tuple) else [one])]


# Answers


@pytest.mark.parametrize("settings", [{"num_fewshot": 0}, {"num_fewshot": 2}], ids=["no shots", "two shots"])
def test_every_kind_of_request_is_answered_as_the_harness_s_own_model_answers_it(policy, tmp_path, settings) -> None:
    paths = [make(tmp_path) for make in (choice_task, sum_task, text_task, last_word_task)]
    ours = by_harness(stateshape.lm_eval_model(policy), paths, **settings)
    theirs = by_harness(their_model(policy), paths, **settings)
    assert ours["results"].keys() == {"colours", "sums", "stories", "last_words"}
    for name, samples in theirs["samples"].items():
        for mine, one in zip(ours["samples"][name], samples, strict=True):
            assert mine["arguments"] == one["arguments"]
            assert values(mine["resps"]) == [
                pytest.approx(value, abs=NATS, rel=1e-5) if isinstance(value, float) else value
                for value in values(one["resps"])
            ]


@pytest.mark.parametrize("multiturn", [False, True])
def test_chat_prompts_are_those_of_the_harness_s_own_model(policy, tmp_path, multiturn) -> None:
    paths = [choice_task(tmp_path), sum_task(tmp_path)]
    settings = {"apply_chat_template": True, "fewshot_as_multiturn": multiturn, "num_fewshot": 2}
    ours = by_harness(stateshape.lm_eval_model(policy), paths, **settings)
    theirs = by_harness(their_model(policy), paths, **settings)
    first = ours["samples"]["sums"][0]["arguments"][0][0]
    assert first.startswith("user: q: ")
    assert first.count("assistant:") == (3 if multiturn else 1)
    for name, samples in theirs["samples"].items():
        assert [one["arguments"] for one in ours["samples"][name]] == [one["arguments"] for one in samples]
        for mine, one in zip(ours["samples"][name], samples, strict=True):
            assert values(mine["resps"]) == [
                pytest.approx(value, abs=NATS) if isinstance(value, float) else value for value in values(one["resps"])
            ]


def test_requests_that_begin_alike_are_computed_once_in_whatever_order_they_come(policy, monkeypatch) -> None:
    from lm_eval.api.instance import Instance

    primer = "some questions about things. " * 3
    pairs = [(f"{primer}q: {n}?", f" {answer}") for n in range(4) for answer in ("yes", "no", "not at all")]
    random.Random(0).shuffle(pairs)
    rows = [policy.encode(context + answer)[:-1] for context, answer in pairs]
    distinct = {tuple(row[:k]) for row in rows for k in range(1, len(row) + 1)}
    seen: list[int] = []
    plain = SharedWeights.run

    def spy(self: SharedWeights, ids_N: torch.Tensor, *rest: Any) -> torch.Tensor:
        seen.append(len(ids_N))
        return plain(self, ids_N, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(SharedWeights, "run", spy)
        found = stateshape.lm_eval_model(policy).loglikelihood(
            [Instance("loglikelihood", {}, pair, n) for n, pair in enumerate(pairs)]
        )
    # branches of a few tokens are not worth a segment of their own: computed again
    assert len(seen) == 1
    assert len(distinct) <= seen[0] < 0.2 * sum(map(len, rows))
    alone = [stateshape.lm_eval_model(policy).loglikelihood([Instance("loglikelihood", {}, pair, 0)]) for pair in pairs]
    assert [logp for logp, _ in found] == pytest.approx([one[0][0] for one in alone], abs=NATS)


def test_a_continuation_of_likeliest_tokens_is_greedy(policy) -> None:
    from lm_eval.api.instance import Instance

    model = stateshape.lm_eval_model(policy)
    (written,) = model.generate_until([Instance("generate_until", {}, ("q: a", {"max_gen_toks": 4, "until": []}), 0)])
    other = "z" * len(written) if not written.startswith("z") else "y" * len(written)
    found = model.loglikelihood([Instance("loglikelihood", {}, ("q: a", text), 0) for text in (written, other)])
    assert [is_greedy for _, is_greedy in found] == [True, False]


def test_sampling_that_is_not_plain_is_refused(policy) -> None:
    from lm_eval.api.instance import Instance

    asked = Instance("generate_until", {}, ("q: a", {"do_sample": True, "temperature": 1.0, "top_p": 0.9}), 0)
    with pytest.raises(BadInput, match=r"got top_p 0\.9; expected plain sampling"):
        stateshape.lm_eval_model(policy).generate_until([asked])


# Rows


def test_rows_have_the_harness_s_metrics_item_by_item(policy, tmp_path) -> None:
    path = choice_task(tmp_path)
    task = load(path, ",num_fewshot=2")
    rows = evaluate(policy, task)
    theirs = by_harness(their_model(policy), [path], num_fewshot=2)
    assert task.name == "lm_eval_colours_2shot"
    assert (task.metric, task.metrics, task.chance) == ("acc_norm", ("acc", "acc_norm"), pytest.approx(1 / 3))
    summary = summarise(rows, task.metrics)
    for metric in task.metrics:
        assert summary[metric].value == pytest.approx(theirs["results"]["colours"][f"{metric},none"])
    for row, sample in zip(rows, theirs["samples"]["colours"], strict=True):
        assert row.option_logps == pytest.approx([one[0][0] for one in sample["resps"]], abs=NATS)
        assert (row.item_id, row.gold) == (f"colours/{sample['doc_id']}", sample["doc"]["choices"][sample["target"]])
        assert row.is_correct == (row.scores["acc_norm"] == 1) == (row.prediction == row.gold)


def test_a_metric_is_named_with_its_filter_and_another_one_may_lead(policy, tmp_path) -> None:
    path = sum_task(tmp_path)
    task = load(path, limit=3)
    assert (task.metric, task.metrics) == (
        "exact_match,first-number",
        ("exact_match,first-number", "exact_match,whole"),
    )
    assert (len(task.test), task.max_new_tokens, task.stops) == (3, 12, ("\n", "q:"))
    assert load(path, ",metric=exact_match,whole").metric == "exact_match,whole"
    with pytest.raises(BadInput, match=r"metric: got 'bleu'.*exact_match,first-number, exact_match,whole"):
        load(path, ",metric=bleu")
    rows = evaluate(policy, task)
    theirs = by_harness(their_model(policy), [path], limit=3)["samples"]["sums"]
    assert [row.completion for row in rows] == [one["resps"][0][0] for one in theirs if one["filter"] == "whole"]
    assert [row.prediction for row in rows] == [
        one["filtered_resps"][0] for one in theirs if one["filter"] == "first-number"
    ]
    assert {row.finish for row in rows} <= {"eos", "stop", "length"}


def test_the_longest_answer_is_the_one_that_is_asked_for(policy, tmp_path) -> None:
    rows = evaluate(policy, load(sum_task(tmp_path), max_new_tokens=3))
    assert all(row.num_tokens is not None and row.num_tokens <= 3 for row in rows)
    with pytest.raises(BadInput, match="max_new_tokens: got 3"):
        load(choice_task(tmp_path), max_new_tokens=3)


def test_perplexities_become_log_probs_of_items(policy, tmp_path) -> None:
    task = load(text_task(tmp_path))
    rows = evaluate(policy, task)
    theirs = by_harness(their_model(policy), [tmp_path / "stories.yaml"])["samples"]["stories"]
    assert (task.metric, task.metrics) == ("byte_probability", ("byte_probability", "logp_per_byte_nats"))
    for row, sample in zip(rows, theirs, strict=True):
        num_bytes = len(sample["doc"]["text"].encode())
        each = sample["resps"][0][0] / num_bytes
        assert row.scores["logp_per_byte_nats"] == pytest.approx(each, rel=1e-4)
        assert row.scores["byte_probability"] == pytest.approx(math.exp(each), rel=1e-3)
    words = load(last_word_task(tmp_path))
    assert (words.metric, words.metrics) == ("acc", ("acc", "logp_nats"))


def test_a_text_is_graded_by_the_task_s_own_filters(tmp_path) -> None:
    task = load(sum_task(tmp_path))
    item, trained = task.test[1], task.train[0]
    assert (item.prompt, item.gold) == ("q: 1+2=\na:", "3")
    assert [task.is_right(text, item) for text in (" 3", " it is 3, not 4", " 4", "", " x\n3")] == [
        True,
        True,
        False,
        False,
        False,
    ]
    assert trained.completion is not None
    assert task.is_right(trained.completion, trained)
    chosen = load(choice_task(tmp_path))
    assert [chosen.is_right(text, chosen.test[1]) for text in (" dark blue", "blue")] == [True, False]


def test_training_documents_are_training_items(tmp_path) -> None:
    task = load(choice_task(tmp_path), ",num_fewshot=2", limit=2)
    assert len(task.train) == 9
    first = task.train[0]
    assert first.prompt == "some questions about things.\n\nq: what colour is thing 100?\na:"
    assert (first.completion, first.gold, first.item_id) == (" dark blue", "dark blue", "colours/train/0")
    assert task.test[0].prompt.count("q: ") == 3
    chats = load(sum_task(tmp_path), ",apply_chat_template=true")
    assert chats.train[0].solved is not None
    assert [(one["role"], one["content"]) for one in chats.train[0].solved.messages] == [
        ("user", "q: 20+21=\na:"),
        ("assistant", "41"),
    ]
    assert not load(text_task(tmp_path)).train


def test_a_group_is_one_task_with_its_parts_as_subjects(policy, tmp_path) -> None:
    for name, number in (("left", 6), ("right", 2)):
        choice_task(tmp_path, name, number)
    (tmp_path / "both.yaml").write_text(yaml.safe_dump({"group": "both", "task": ["left", "right"]}))
    whole, part = load(tmp_path / "both.yaml"), load(tmp_path / "both.yaml", limit=4)
    assert (whole.name, len(whole.test), len(whole.train)) == ("lm_eval_both", 8, 18)
    rows = evaluate(policy, part)
    assert {row.item_id for row in rows} <= {item.item_id for item in whole.test}
    assert [row.subject for row in rows] == ["left", "left", "left", "right"]
    full = {row.item_id: row for row in evaluate(policy, whole)}
    for row in rows:
        assert row.option_logps == pytest.approx(full[row.item_id].option_logps, abs=NATS)
        assert (row.gold, row.prompt_sha256) == (full[row.item_id].gold, full[row.item_id].prompt_sha256)


# What can't be read


def refused(path: Path, options: str = "") -> str:
    with pytest.raises(BadInput) as caught:
        load(path, options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_task_without_its_data_is_one_line_before_a_model_loads(tmp_path, capsys) -> None:
    path = choice_task(tmp_path)
    (tmp_path / "colours_test.json").unlink()
    out = tmp_path / "out"
    assert main(["eval", "no/such-model", "--task", f"lm_eval:{path}", "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "colours_test.json" in error
    assert "docs/guides/lm-eval.md" in error
    assert not out.exists()


def test_an_unknown_name_has_near_matches(tmp_path, monkeypatch) -> None:
    from lm_eval.tasks import TaskManager

    from stateshape.tasks import harness_read

    choice_task(tmp_path)
    known = TaskManager(include_path=str(tmp_path), include_defaults=False)
    monkeypatch.setattr(harness_read, "_manager", lambda: known)
    with pytest.raises(BadInput, match=r"got 'lm_eval:colors'.*did you mean colours\?"):
        load_task("lm_eval:colors")
    assert load_task("lm_eval:colours").name == "lm_eval_colours"
    assert "which is not a file" in refused(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"unsafe_code": True}, "which runs the code that a model writes"),
        ({"doc_to_image": "question"}, "which asks about images or sound"),
        ({"metric_list": [{"metric": "mcc"}]}, "no value per item"),
        ({"doc_to_text": "{{ question | nofilter }}"}, "could not be read"),
        ({"num_fewshot": 0}, "num_fewshot: got 1 for colours, which fixes 0"),
    ],
)
def test_tasks_that_can_not_be_used(tmp_path, config, message) -> None:
    assert message in refused(choice_task(tmp_path, **config), ",num_fewshot=1")


def test_more_examples_than_there_are(tmp_path) -> None:
    assert "could not be read" in refused(choice_task(tmp_path), ",num_fewshot=40")


def test_chats_need_a_template_before_a_model_loads(tmp_path, capsys) -> None:
    path = sum_task(tmp_path)
    task = f"lm_eval:{path},apply_chat_template=true"
    assert main(["eval", "embedded", "--task", task, "--out", str(tmp_path / "out")]) == 2
    assert "no chat template" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# Content


def test_a_task_is_known_by_its_content_wherever_it_lies(tmp_path) -> None:
    first, same = load(choice_task(tmp_path / "a")), load(choice_task(tmp_path / "b"))
    assert first.data_sha256 == same.data_sha256
    others = [
        load(choice_task(tmp_path / "c", doc_to_text="Q: {{question}}\na:")),
        load(choice_task(tmp_path / "d"), ",num_fewshot=1"),
        load(choice_task(tmp_path / "e", number=5)),
        load(choice_task(tmp_path / "f", metadata={"version": 2.0})),
    ]
    assert len({first.data_sha256, *(task.data_sha256 for task in others)}) == 5
    assert load(choice_task(tmp_path / "a"), limit=2).data_sha256 == first.data_sha256


def test_functions_of_a_definition_are_known_by_their_source(tmp_path) -> None:
    path = choice_task(tmp_path)
    text = path.read_text() + "process_docs: !function utils.process\n"
    digests = set()
    for change in ("", "  # the same rows"):
        folder = tmp_path / f"with{len(change)}"
        folder.mkdir()
        (folder / "utils.py").write_text(f"def process(rows):\n    return rows{change}\n")
        (folder / "colours.yaml").write_text(text)
        digests.add(load(folder / "colours.yaml").data_sha256)
    assert len(digests) == 2


# Runs


def test_a_run_trains_on_a_task_of_the_harness_and_a_changed_task_is_refused(tmp_path) -> None:
    path = sum_task(tmp_path)
    settings = TrainSettings(steps=1, batch_prompts=2)
    train = {"model": "embedded", "task": f"lm_eval:{path}", "out": tmp_path / "run", "settings": settings}
    stateshape.train_run(SFT(), **train)
    record = read_json(tmp_path / "run" / "run.json", RunRecord)
    assert record.task == "lm_eval_sums"
    assert {"lm_eval", "lm_eval task sums"} <= dict(record.provenance["packages"]).keys()
    (tmp_path / "sums_test.json").write_text(json.dumps({"q": "1+1=", "a": "2"}) + "\n")
    with pytest.raises(BadInput, match="started with different data for lm_eval_sums"):
        stateshape.train_run(SFT(), **train)


def test_a_study_measures_tasks_of_the_harness_with_verdicts(tmp_path) -> None:
    (tmp_path / "s.yaml").write_text(
        yaml.safe_dump(
            {
                "study": "s",
                "model": "embedded",
                "target": {"lm_eval": str(sum_task(tmp_path)), "limit": 4, "num_fewshot": 1},
                "retention": [
                    {"lm_eval": str(choice_task(tmp_path)), "limit": 5},
                    {"lm_eval": str(text_task(tmp_path))},
                ],
                "drift": {"prompts": 4, "max_new_tokens": 4, "hidden": False},
                "locality": {"prompts": 2, "max_new_tokens": 4},
                "train": {"steps": 2, "batch_prompts": 2},
                "runs": {"sft": {"recipe": "sft"}},
            }
        )
    )
    stateshape.run_study(str(tmp_path / "s.yaml"), out=tmp_path / "out")
    plan = read_json(tmp_path / "out" / "plan.json", PlanRecord)
    assert [task.name for task in plan.retention] == ["lm_eval_colours", "lm_eval_stories"]
    assert plan.target.metric == "exact_match,first-number"
    packages = plan.provenance["packages"]
    assert isinstance(packages, dict)
    assert packages["lm_eval task colours"] == "1.0"
    comparison = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert "lm_eval_colours" in json.dumps(comparison)
    rows = (tmp_path / "out" / "runs" / "sft" / "seed0" / "evals" / "lm_eval_sums_1shot.jsonl").read_text()
    assert len(rows.splitlines()) == 4


def test_two_tasks_with_one_name_can_not_share_a_study(tmp_path) -> None:
    choice_task(tmp_path / "a"), choice_task(tmp_path / "b", number=3)
    text = f"""
study: s
model: embedded
target: {{task: arithmetic, limit: 2}}
retention: [{{lm_eval: {tmp_path}/a/colours.yaml}}, {{lm_eval: {tmp_path}/b/colours.yaml}}]
runs: {{sft: {{recipe: sft}}}}
"""
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(BadInput, match="two tasks named 'lm_eval_colours'"):
        stateshape.run_study(str(tmp_path / "s.yaml"), out=tmp_path / "out")


# MMLU


def test_mmlu_cloze_has_the_prompts_and_scores_of_mmlu_continuation(policy, tmp_path) -> None:
    """Against the template that the harness ships, over local files."""
    from pathlib import Path

    import lm_eval.tasks

    made = [(f"what is {n}+{n}?", [str(n), f"{2 * n} of them", "a b c", "no"], n % 4) for n in range(1, 8)]
    for split, rows in (("test", made), ("dev", made[:5])):
        (tmp_path / "mmlu" / split).mkdir(parents=True)
        with (tmp_path / "mmlu" / split / f"college_physics_{split}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([question, *choices, "ABCD"[answer]] for question, choices, answer in rows)
    template = Path(lm_eval.tasks.__file__).parent / "mmlu" / "continuation" / "mmlu_college_physics.yaml"
    shipped = yaml.safe_load(template.read_text())
    own = {
        split: [{"question": question, "choices": choices, "answer": answer} for question, choices, answer in rows]
        for split, rows in (("test", made), ("dev", made[:5]))
    }
    config = {"include": str(template.parent / shipped["include"]), "description": shipped["description"]}
    path = write_task(tmp_path, "cloze", own, **config)
    theirs = by_harness(their_model(policy), [path], num_fewshot=3)
    task = read_mmlu(tmp_path, shots=3, is_cloze=True)
    rows = evaluate(policy, task)
    for item, row, sample in zip(task.items, rows, theirs["samples"]["cloze"], strict=True):
        assert [(item.prompt, option) for option in item.options] == [tuple(one) for one in sample["arguments"]]
        assert row.option_logps == pytest.approx([one[0][0] for one in sample["resps"]], abs=NATS)
        assert (row.scores["acc_norm"], row.scores["acc"]) == (sample["acc_norm"], sample["acc"])


def test_the_questions_of_these_tests_have_all_answers() -> None:
    assert {one["answer"] for one in questions(6)} == {0, 1, 2}
