"""Packing keeps documents apart; the schedule's rates; a short training run writes a loadable folder."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from stateshape.embedded import base_folder
from stateshape.embedded.corpus import DOMAINS, documents
from stateshape.embedded.packing import IGNORED, batches
from stateshape.embedded.train import Schedule, train_base


def test_a_packed_row_gives_each_document_the_logits_it_has_alone() -> None:
    model = AutoModelForCausalLM.from_pretrained(base_folder(), dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(base_folder())
    batch = next(batches(documents(5), tokenizer, num_rows=1, length=288))
    with torch.inference_mode():
        packed_TV = model(
            input_ids=batch.ids_BT, position_ids=batch.positions_BT, attention_mask=batch.attend_B1TT
        ).logits[0]
        ids_T = batch.ids_BT[0]
        ends = (ids_T == tokenizer.eos_token_id).nonzero().flatten().tolist()
        assert len(ends) > 1
        start = 0
        for end in ends:
            alone_TV = model(input_ids=ids_T[None, start : end + 1]).logits[0]
            torch.testing.assert_close(packed_TV[start : end + 1], alone_TV, atol=1e-3, rtol=1e-3)
            start = end + 1


def test_targets_stay_in_their_document_and_cover_every_eos() -> None:
    tokenizer = AutoTokenizer.from_pretrained(base_folder())
    for batch in islice(batches(documents(5), tokenizer, num_rows=4, length=288), 3):
        supervise_BT = batch.targets_BT != IGNORED
        ends_BT = batch.ids_BT == tokenizer.eos_token_id
        assert not (supervise_BT & ends_BT).any()
        assert not (supervise_BT & (batch.ids_BT == tokenizer.pad_token_id)).any()
        assert int((batch.targets_BT == tokenizer.eos_token_id).sum()) == int(ends_BT.sum())
        torch.testing.assert_close(
            batch.targets_BT[:, :-1][supervise_BT[:, :-1]], batch.ids_BT[:, 1:][supervise_BT[:, :-1]]
        )
        assert supervise_BT.float().mean() > 0.9
        assert set(batch.domains_BT.unique().tolist()) <= set(range(len(DOMAINS)))


def test_a_row_too_short_for_a_document_is_refused() -> None:
    tokenizer = AutoTokenizer.from_pretrained(base_folder())
    with pytest.raises(ValueError, match="row length"):
        list(islice(batches(documents(5), tokenizer, num_rows=4, length=20), 20))


def test_the_schedule_by_hand() -> None:
    schedule = Schedule(peak_rate=1.0, warmup_steps=4, decay_share=0.25)
    # 16 steps: rises over four, holds, and falls over the last four (12..15) without reaching 0.
    assert [schedule.rate(step, 16) for step in (0, 3, 8, 12, 13, 15)] == [0.25, 1.0, 1.0, 1.0, 0.75, 0.25]


@pytest.mark.slow
def test_a_short_run_writes_a_loadable_folder_and_replaces_an_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stateshape.embedded.train.NUM_SCORED", 8)
    monkeypatch.setattr("stateshape.embedded.train.NUM_PROBLEMS_SCORED", 8)
    out_dir = tmp_path / "base"
    out_dir.mkdir()
    (out_dir / "old.txt").write_text("old")
    threads = torch.get_num_threads()
    first = train_base(out_dir=out_dir, steps=1, threads=threads, say=lambda line: None)
    assert (first.tokens > 0) and sorted(path.name for path in tmp_path.iterdir()) == ["base"]
    assert not (out_dir / "old.txt").exists()
    assert AutoModelForCausalLM.from_pretrained(out_dir).dtype == torch.float32
    again = train_base(out_dir=out_dir, steps=1, threads=threads, say=lambda line: None)
    assert again.sha256 == first.sha256
