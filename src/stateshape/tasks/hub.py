"""Datasets from the hub, through `datasets` (the optional extra `hub`), imported only when asked: three official ones, or any.

Rows go through the same parsing as the files on disk. Knows nothing of models, prompts or grading.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from stateshape.core.files import BadInput, sha256_text
from stateshape.core.wording import one_line
from stateshape.tasks import gsm8k, mmlu, truthfulqa
from stateshape.tasks.task import Task

REPOSITORIES = {
    "gsm8k": ("openai/gsm8k", "main"),
    "truthfulqa": ("truthfulqa/truthful_qa", "multiple_choice"),
    "mmlu": ("cais/mmlu", "all"),
    mmlu.CLOZE: ("cais/mmlu", "all"),
}


def hub_task(name: str, *, shots: int, limit: int | None) -> Task:
    """Fetches one of REPOSITORIES. Raises BadInput with the fix if `datasets` or the network is missing."""
    splits = {
        "gsm8k": ("train", "test"),
        "truthfulqa": ("validation",),
        "mmlu": ("test", "dev"),
        mmlu.CLOZE: ("test", "dev"),
    }[name]
    rows = {split: _rows(name, split) for split in splits}
    digest = sha256_text(json.dumps(rows, ensure_ascii=False, sort_keys=True))
    if name == "gsm8k":
        problems = [
            [gsm8k.parse_problem(r, where=f"{name}: {s} row {i}") for i, r in enumerate(rows[s])] for s in splits
        ]
        return gsm8k.gsm8k_task(*problems, shots=shots, limit=limit, data_sha256=digest)
    if name == "truthfulqa":
        questions = [truthful_question(row) for row in rows["validation"]]
        return truthfulqa.truthfulqa_task(questions, limit=limit, data_sha256=digest)
    exams = [exams_by_subject(rows[split]) for split in splits]
    is_cloze = name == mmlu.CLOZE
    return mmlu.mmlu_task(*exams, shots=shots, limit=limit, data_sha256=digest, is_cloze=is_cloze)


def truthful_question(row: dict[str, Any]) -> truthfulqa.RawQuestion:
    mc1, mc2 = (
        {answer: bool(mark) for answer, mark in zip(row[key]["choices"], row[key]["labels"], strict=True)}
        for key in ("mc1_targets", "mc2_targets")
    )
    return truthfulqa.RawQuestion(row["question"], mc1, mc2)


def exams_by_subject(rows: Iterable[dict[str, Any]]) -> dict[str, list[mmlu.RawExam]]:
    exams: dict[str, list[mmlu.RawExam]] = {}
    for row in rows:
        raw = mmlu.RawExam(row["question"], tuple(row["choices"]), row["answer"])
        exams.setdefault(row["subject"], []).append(raw)
    return dict(sorted(exams.items()))


def _rows(name: str, split: str) -> list[dict[str, Any]]:
    repository, config = REPOSITORIES[name]
    return load_rows(repository, config, split, what=name, instead="the folder that holds the files")


def load_rows(
    repository: str, config: str | None, split: str, *, what: str, instead: str = "a file"
) -> list[dict[str, Any]]:
    """The rows of one split. what: the name that was asked for; instead: what to give without it. Raises BadInput."""
    try:
        import datasets  # not a dependency: most users have the files, or use the embedded tasks
    except ImportError:
        got = "no data folder and " if what in REPOSITORIES else ""
        raise BadInput(
            f"{what}: got {got}the package 'datasets' is not installed; expected "
            f"{'one of them' if got else 'it, to read the hub'}; "
            f"pip install 'stateshape[hub]', or give {instead}"
        ) from None
    try:
        return list(datasets.load_dataset(repository, config, split=split))
    except Exception as error:  # the library and the rows' own files may raise anything
        reason = one_line((str(error).strip().splitlines() or [type(error).__name__])[0], limit=200)
        raise BadInput(
            f"{what}: {repository} could not be read from the hub ({reason}); expected its name and split, and a network "
            f"connection or a cached copy; give {instead}"
        ) from None
