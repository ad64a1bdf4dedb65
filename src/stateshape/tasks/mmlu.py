"""MMLU (arXiv:2009.03300): prompts as lm-evaluation-harness writes them, and stratified subsets that stay the same.

The options are the letters " A" to " D". In the cloze form (`mmlu_cloze`, the harness's mmlu_continuation) they are the texts
of the choices, which are not shown before: small models, at chance on letters, can be told apart there. Its headline is
acc_norm, by log-prob over the text's length in characters.

Shots are the first of the subject's five dev questions. The question is stripped of outer white space and the choices are
not, as in the harness; "_" in a subject's name becomes a blank.

Knows nothing of models or tokenizers.
"""

from __future__ import annotations

import csv
import hashlib
import heapq
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from stateshape.core.decoding import read_text
from stateshape.core.files import BadInput, sha256_file, sha256_text
from stateshape.core.wording import shown
from stateshape.tasks.items import ChoiceItem
from stateshape.tasks.task import ChoiceTask, acc_chance

LETTERS = "ABCD"
CLOZE = "mmlu_cloze"
# Part of every subset's identity: changing it changes which items a limit keeps. Of the seeds 0 to 79 it gives, at limits
# of 100 to 2,000, the shares of right letters nearest to those of all 14,042 (off by 1.7 points at most at 100, where
# another seed had " A" right in 12% instead of 23%): small models lean to one letter. Chosen without scoring a model.
SUBSET_SEED = 71


class RawExam(NamedTuple):
    question: str
    choices: tuple[str, ...]
    answer_index: int


def mmlu_task(
    test: Mapping[str, Sequence[RawExam]],
    dev: Mapping[str, Sequence[RawExam]],
    *,
    shots: int,
    limit: int | None,
    data_sha256: str,
    is_cloze: bool = False,
) -> ChoiceTask:
    """Questions by subject. `limit`: a stratified subset (see `stratified`), the same for both forms."""
    items = []
    item_of = cloze_item if is_cloze else exam_item
    for subject, questions in test.items():
        check_shots(shots, len(dev.get(subject, ())), subject=subject)
        examples = dev.get(subject, ())[:shots]
        items += [
            item_of(raw, examples, subject=subject, item_id=f"mmlu/{subject}/{i}") for i, raw in enumerate(questions)
        ]
    chosen = stratified(items, limit)
    if not is_cloze:
        return exam_task("mmlu", "MMLU", chosen, data_sha256=data_sha256)
    return ChoiceTask(
        name=CLOZE,
        label="MMLU (cloze)",
        metric="acc_norm",
        items=chosen,
        metrics=("acc_norm", "acc"),
        chance=acc_chance(chosen),
        data_sha256=data_sha256,
    )


def exam_task(name: str, label: str, items: tuple[ChoiceItem, ...], *, data_sha256: str) -> ChoiceTask:
    return ChoiceTask(
        name=name,
        label=label,
        metric="acc",
        items=items,
        metrics=("acc",),
        chance=acc_chance(items),
        data_sha256=data_sha256,
        is_lettered=True,
    )


def check_shots(shots: int, available: int, *, subject: str) -> None:
    if shots > available:
        raise BadInput(f"shots: got {shots}; expected at most {available}, the number of dev questions of {subject}")


def read_mmlu(data_dir: Path, *, shots: int = 0, limit: int | None = None, is_cloze: bool = False) -> ChoiceTask:
    """Reads mmlu/test/<subject>_test.csv and mmlu/dev/<subject>_dev.csv, the dataset's own files."""
    paths = sorted((data_dir / "mmlu" / "test").glob("*_test.csv"))
    if not paths:
        raise BadInput(f"{data_dir / 'mmlu' / 'test'}: got no <subject>_test.csv; expected one for each subject")
    subjects = [path.name.removesuffix("_test.csv") for path in paths]
    dev_paths = [data_dir / "mmlu" / "dev" / f"{subject}_dev.csv" for subject in subjects]
    test = {subject: read_exams(path) for subject, path in zip(subjects, paths, strict=True)}
    dev = {subject: read_exams(path) for subject, path in zip(subjects, dev_paths, strict=True)}
    digest = sha256_text("\n".join(f"{path.name} {sha256_file(path)}" for path in [*paths, *dev_paths]))
    return mmlu_task(test, dev, shots=shots, limit=limit, data_sha256=digest, is_cloze=is_cloze)


def read_exams(path: Path) -> list[RawExam]:
    exams = []
    try:
        for number, row in enumerate(csv.reader(io.StringIO(read_text(path), newline="")), 1):
            if len(row) != 6 or row[5] not in tuple(LETTERS):
                raise BadInput(
                    f"{path}: row {number}: got {len(row)} cells ending in {shown(row[-1:])}; expected 6: question, "
                    "four choices, and a letter A to D"
                )
            exams.append(RawExam(row[0], tuple(row[1:5]), LETTERS.index(row[5])))
    except csv.Error as error:
        raise BadInput(f"{path}: not valid CSV: {error}; expected the dataset's own file; fetch it again") from None
    if not exams:
        raise BadInput(f"{path}: got no rows; expected at least one question; fetch the file again")
    return exams


def exam_block(raw: RawExam) -> str:
    lines = "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, raw.choices, strict=True))
    return f"{raw.question.strip()}\n{lines}\nAnswer:"


def exam_item(raw: RawExam, examples: Sequence[RawExam], *, subject: str, item_id: str) -> ChoiceItem:
    header = f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}.\n\n"
    answered = "".join(f"{exam_block(example)} {LETTERS[example.answer_index]}\n\n" for example in examples)
    return ChoiceItem(
        item_id=item_id,
        prompt=header + answered + exam_block(raw),
        options=tuple(f" {letter}" for letter in LETTERS),
        is_true=tuple(i == raw.answer_index for i in range(len(LETTERS))),
        subject=subject,
    )


def cloze_item(raw: RawExam, examples: Sequence[RawExam], *, subject: str, item_id: str) -> ChoiceItem:
    header = f"The following are questions (with answers) about {subject.replace('_', ' ')}.\n\n"
    answered = "".join(f"{_asked(example)} {example.choices[example.answer_index]}\n\n" for example in examples)
    return ChoiceItem(
        item_id=item_id,
        prompt=header + answered + _asked(raw),
        options=tuple(f" {choice}" for choice in raw.choices),
        is_true=tuple(i == raw.answer_index for i in range(len(raw.choices))),
        subject=subject,
    )


def _asked(raw: RawExam) -> str:
    return f"Question: {raw.question.strip()}\nAnswer:"


def stratified(items: Sequence[ChoiceItem], limit: int | None) -> tuple[ChoiceItem, ...]:
    """`limit` items in proportion to the subjects' sizes (see stratified_ids), in data order."""
    chosen = stratified_ids([(item.item_id, item.subject) for item in items], limit)
    return tuple(item for item in items if item.item_id in chosen)


def stratified_ids(items: Sequence[tuple[str, str]], limit: int | None) -> set[str]:
    """Of items as (id, subject): ids of `limit` in proportion to the subjects' sizes, at least one of each where limit allows.

    Seats go one at a time to the subject with the largest size / (2 * seats + 1) (Sainte-Lague), except that subjects
    without a seat come first. Which items of a subject: those with the smallest SHA-256 of (seed, item id). So a
    subset depends on ids alone, is the same on every machine, and a larger limit holds all items of a smaller one.
    """
    if limit is None or limit >= len(items):
        return {item_id for item_id, _ in items}
    by_subject: dict[str, list[str]] = {}
    for item_id, subject in items:
        by_subject.setdefault(subject, []).append(item_id)
    num_kept = dict.fromkeys(by_subject, 0)
    queue = [(0, -float(len(ids)), subject) for subject, ids in by_subject.items()]
    heapq.heapify(queue)
    for _ in range(limit):
        _, _, subject = heapq.heappop(queue)
        num_kept[subject] += 1
        size = len(by_subject[subject])
        if num_kept[subject] < size:
            heapq.heappush(queue, (1, -size / (2 * num_kept[subject] + 1), subject))
    return {item_id for subject, ids in by_subject.items() for item_id in sorted(ids, key=_rank)[: num_kept[subject]]}


def _rank(item_id: str) -> str:
    return hashlib.sha256(f"{SUBSET_SEED}/{item_id}".encode()).hexdigest()
