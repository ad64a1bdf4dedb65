"""Small tasks of lm-evaluation-harness as YAML files over local JSON: one of each kind of request."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

COLOURS = ("red", "dark blue", "green")
STORIES = ("mia has a dog. the dog has a ball. ", "tom lost his kite near the river and went home. ")


def write_task(folder: Path, name: str, rows: dict[str, list[dict[str, Any]]], **config: Any) -> Path:
    """rows: by split, each in a file of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for split, documents in rows.items():
        files[split] = str(folder / f"{name}_{split}.json")
        Path(files[split]).write_text("".join(json.dumps(one) + "\n" for one in documents))
    splits = {f"{split}_split": split for split in rows if f"{split}_split" in ("training_split", "test_split")}
    made = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": files},
        "metadata": {"version": 1.0},
        **splits,
        **config,
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(made, sort_keys=False))
    return path


def questions(number: int, *, first: int = 0) -> list[dict[str, Any]]:
    return [
        {"question": f"what colour is thing {at}?", "choices": list(COLOURS), "answer": at % 3}
        for at in range(first, first + number)
    ]


def choice_task(folder: Path, name: str = "colours", number: int = 6, **config: Any) -> Path:
    return write_task(
        folder,
        name,
        {"training": questions(9, first=100), "test": questions(number)},
        **{
            "output_type": "multiple_choice",
            "fewshot_split": "training",
            "description": "some questions about things.\n\n",
            "doc_to_text": "q: {{question}}\na:",
            "doc_to_choice": "{{choices}}",
            "doc_to_target": "answer",
            **config,
        },
    )


def sums(number: int, *, first: int = 0) -> list[dict[str, Any]]:
    return [{"q": f"{at}+{at + 1}=", "a": str(2 * at + 1)} for at in range(first, first + number)]


def sum_task(folder: Path, name: str = "sums", **config: Any) -> Path:
    first_number = [{"function": "regex", "regex_pattern": "([0-9]+)"}, {"function": "take_first"}]
    return write_task(
        folder,
        name,
        {"training": sums(8, first=20), "test": sums(5)},
        **{
            "output_type": "generate_until",
            "fewshot_split": "training",
            "doc_to_text": "q: {{q}}\na:",
            "doc_to_target": "{{a}}",
            "generation_kwargs": {"until": ["\n", "q:"], "max_gen_toks": 12},
            "filter_list": [
                {"name": "first-number", "filter": first_number},
                {"name": "whole", "filter": [{"function": "take_first"}]},
            ],
            "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
            **config,
        },
    )


def text_task(folder: Path, name: str = "stories") -> Path:
    """Whole texts, the second longer than the tiny model's 256 positions."""
    texts = [{"text": STORIES[0] * 2}, {"text": STORIES[1] * 9}]
    return write_task(
        folder,
        name,
        {"test": texts},
        output_type="loglikelihood_rolling",
        doc_to_text="",
        doc_to_target="{{text}}",
    )


def last_word_task(folder: Path, name: str = "last_words") -> Path:
    return write_task(
        folder,
        name,
        {"test": [{"text": text.strip()} for text in STORIES]},
        output_type="loglikelihood",
        doc_to_text="{{text.split(' ')[:-1]|join(' ')}}",
        doc_to_target="{{' ' + text.split(' ')[-1]}}",
        metric_list=[
            {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False},
            {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
        ],
    )
