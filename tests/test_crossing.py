"""Teachers with another tokenizer: text goes there and back, distributions meet where both cut the text alike."""

from __future__ import annotations

import copy
import json
import math
import random
from pathlib import Path

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import tiny
from stateshape.cli import main
from stateshape.core.method import Composition, Draw
from stateshape.core.signals import MatchDistribution
from stateshape.core.states import Origin, pack
from stateshape.core.tensors import binned
from stateshape.losses.divergence import Divergence, forward_kl, reverse_kl
from stateshape.policy.policy import Policy
from stateshape.policy.weights import SharedWeights
from stateshape.sampling.local import LocalSampler
from stateshape.sampling.settings import SamplingSettings
from stateshape.signals.continuation import Said, TeacherContinuation, said_until
from stateshape.signals.crossing import aligned, own_text, pair_tokens, spans_of_tokens, spliced
from stateshape.signals.distribution import TeacherDistribution

DRAW = Draw(item_ids=("x",), step=0, seed=0)


def word_level(tokens: list[str]) -> PreTrainedTokenizerFast:
    """Longest match first is not needed: a text is cut into single characters, as tiny's is."""
    made = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    made.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<eos>", pad_token="<pad>", unk_token="?")


def permuted(weights: SharedWeights) -> SharedWeights:
    """The same model with its tokens in another order: it says the same texts by other ids."""
    order = list(range(len(weights.tokenizer)))
    random.Random(0).shuffle(order)  # new id i is old id order[i]
    tokens = weights.tokenizer.convert_ids_to_tokens(order)
    model = copy.deepcopy(weights.model)
    embedding = model.get_input_embeddings()
    embedding.weight.data = embedding.weight.data[order].clone()
    model.tie_weights()
    model.generation_config.eos_token_id = tokens.index("<eos>")
    return SharedWeights(model, word_level(tokens), source="permuted")


def pairs() -> SharedWeights:
    """A teacher whose tokens are single characters and the pairs ab, 12: text is cut into pairs where it can be."""
    tokens = ["<eos>", "<pad>", *tiny.CHARACTERS, "ab", "12"]
    made = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, [("a", "b"), ("1", "2")], unk_token="?"))
    made.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<eos>", pad_token="<pad>", unk_token="?")
    model = tiny.random_model(
        9,
        dtype=torch.float64,
        vocab_size=len(tokens),
        max_position_embeddings=256,
        initializer_range=0.25,
        eos_token_id=0,
    )
    return SharedWeights(model, tokenizer, source="pairs")


@pytest.fixture(scope="module")
def learner() -> Policy:
    return tiny.learner(tiny.weights(0, dtype=torch.float64), size=0.1)


@pytest.fixture(scope="module")
def same(learner: Policy) -> Policy:
    """The learner's base by other ids."""
    return Policy(permuted(tiny.weights(0, dtype=torch.float64)), None)


def rows(policy: Policy, *texts: tuple[str, str], ended: bool = False):
    """Prompt and response as learner rows."""
    return [
        tiny.row(policy.encode(p), policy.encode(r) + ([policy.eos_ids[0]] if ended else []), Origin.LEARNER)
        for p, r in texts
    ]


def states_of(policy: Policy, *texts: tuple[str, str], ended: bool = False):
    return pack(rows(policy, *texts, ended=ended), device="cpu")


# Text and ids


def test_a_token_that_begins_or_ends_inside_a_character_has_no_span() -> None:
    assert spans_of_tokens(["a", "bc", "", "é", "d"]) == [(0, 1), (1, 3), None, None, (4, 5)]
    assert spans_of_tokens([]) == []


def test_a_text_is_spliced_as_the_ids_it_has_there_or_not_at_all(learner: Policy) -> None:
    (row,) = rows(learner, ("ab", "1"))
    text = own_text(learner, row)
    assert text == "ab1"
    assert spliced(learner, row, text, "2+3") == learner.encode("2+3")
    assert spliced(learner, row, text, "É") is None  # unknown here: it would come back as "?"


def test_a_text_of_which_the_row_s_ids_are_not_the_tokenizer_s_own_is_encoded_alone(learner: Policy) -> None:
    piece = learner.tokenizer.convert_tokens_to_ids("ab")  # is sampled, never encoded
    row = tiny.row(learner.encode("x"), [piece], Origin.LEARNER)
    assert own_text(learner, row) == "xab"
    assert spliced(learner, row, "xab", "1") == learner.encode("1")


def test_a_row_with_a_special_token_inside_has_no_text(learner: Policy) -> None:
    row = tiny.row(learner.encode("x"), [learner.eos_ids[0], *learner.encode("y")], Origin.LEARNER)
    assert own_text(learner, row) is None


@pytest.mark.parametrize(
    ("before", "said", "expected"),
    [
        ("x##", Said("## y", "length"), Said("##", "stop")),  # the stop began before
        ("x", Said("y####", "stop"), Said("y####", "stop")),  # it began behind: the sampler has cut it already
        ("x####", Said("y", "eos"), Said("y", "eos")),  # it was complete before
        ("", Said("y", "eos"), Said("y", "eos")),
    ],
)
def test_a_stop_text_across_the_border_ends_the_continuation(before: str, said: Said, expected: Said) -> None:
    assert said_until(before, said, ("####",)) == expected


# Continuation


def test_a_greedy_continuation_is_the_same_text_by_either_s_ids(learner: Policy, same: Policy) -> None:
    base = Policy(learner.weights, None)
    states = states_of(base, ("a1+1=", "b"), ("xyz", ""), ("#", "12"))
    settings = SamplingSettings(max_new_tokens=9, temperature=0.0)
    own, theirs = (
        TeacherContinuation(teacher=teacher, sampler=LocalSampler(), settings=settings).read(learner, states, DRAW)
        for teacher in (base, same)
    )
    kept = [
        (one, other)
        for one, other, supervised in zip(
            own.states.trajectories(), theirs.states.trajectories(), theirs.supervise_BT.any(1).tolist(), strict=True
        )
        if supervised
    ]
    assert kept
    for one, other in kept:
        assert learner.decode(one.ids) == learner.decode(other.ids)
        assert one.finish == other.finish
        assert other.origins.count(Origin.TEACHER) > 0
    assert theirs.logged == {"share_dropped": 1 - len(kept) / 3}
    assert torch.isnan(theirs.states.behaviour_logp_BT[theirs.supervise_BT]).all()


def test_rows_that_can_t_go_there_stay_unsupervised_and_are_counted(learner: Policy, same: Policy) -> None:
    broken = tiny.row(learner.encode("x"), [learner.eos_ids[0], *learner.encode("y")], Origin.LEARNER)
    states = pack([broken, *rows(learner, ("a", "b"))], device="cpu")
    settings = SamplingSettings(max_new_tokens=4, temperature=0.0)
    read = TeacherContinuation(teacher=same, sampler=LocalSampler(), settings=settings).read(learner, states, DRAW)
    assert not read.supervise_BT[0].any()
    assert read.states.trajectories()[0].ids == broken.ids
    assert read.logged["share_dropped"] >= 0.5


def test_only_right_continuations_are_kept_where_this_is_asked(learner: Policy, same: Policy) -> None:
    states = states_of(learner, ("a1+1=", "b"), ("#", "12"))
    settings = SamplingSettings(max_new_tokens=6, temperature=0.0)
    nothing = TeacherContinuation(
        teacher=same, sampler=LocalSampler(), settings=settings, accept=lambda item_id, text: False
    ).read(learner, states, DRAW)
    assert not nothing.supervise_BT.any()


# Distribution


def test_a_teacher_that_is_the_base_by_other_ids_has_no_divergence_from_it(same: Policy) -> None:
    base = Policy(tiny.weights(0, dtype=torch.float64), None)
    states = states_of(base, ("a1+1=", "bcd"), ("xyz", "0 9"), ended=True)
    read = TeacherDistribution(teacher=same, positions="all").read(base, states, DRAW)
    assert read.logged == {"share_aligned": 1.0}
    for direction in ("forward", "reverse", "jsd"):
        assert float(Divergence(direction=direction).total(base, read).total) == pytest.approx(0.0, abs=1e-9)


def test_places_where_one_token_is_one_token_for_both(learner: Policy) -> None:
    """The learner has characters, the teacher ab and 12 as well: of xab12y only x and y are one token in both."""
    teacher = Policy(pairs(), None)
    (row,) = rows(learner, ("x", "ab12y"), ended=True)
    read = aligned(learner, teacher, row)
    assert read is not None
    assert teacher.tokenizer.convert_ids_to_tokens(read.ids) == ["x", "ab", "12", "y"]
    assert read.at == [None, None, None, None, None, 2, 3]  # y is predicted behind 12, the end behind y
    states = pack([row], device="cpu")
    signal = TeacherDistribution(teacher=teacher, positions="all").read(learner, states, DRAW)
    assert signal.supervise_BT.tolist() == [[False, False, False, False, False, True, True]]
    assert signal.logged == {"share_aligned": 2 / 6}


def test_tokens_with_the_same_text_are_paired_once(learner: Policy) -> None:
    teacher = Policy(pairs(), None)
    shared = pair_tokens(learner, teacher)
    ours = learner.tokenizer.convert_ids_to_tokens(shared.learner_M.tolist())
    theirs = teacher.tokenizer.convert_ids_to_tokens(shared.teacher_M.tolist())
    assert ours == theirs
    # not 12, which is the teacher's alone, nor padding and the unknown token
    assert set(ours) == {"<eos>", "ab", *tiny.CHARACTERS} - {"?"}


def test_bins_by_hand() -> None:
    logp = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log()
    assert binned(logp, torch.tensor([[2, 0]])).exp().tolist() == [pytest.approx([0.125, 0.5, 0.375])]
    assert float(binned(logp, torch.tensor([[0, 1, 2, 3]]))[0, -1]) == -80.0


@pytest.mark.parametrize(("direction", "of_logps"), [("forward", forward_kl), ("reverse", reverse_kl)])
def test_a_divergence_of_bins_and_its_gradient_equal_a_slow_one(direction, of_logps, learner: Policy) -> None:
    """All positions one at a time, with the bins added up from probabilities."""
    teacher = Policy(pairs(), None)
    states = states_of(learner, ("x", "cd y"), ("q", "ab7"), ended=True)
    read = TeacherDistribution(teacher=teacher, positions="all").read(learner, states, DRAW)
    read = MatchDistribution(
        states=states,
        supervise_BT=read.supervise_BT,
        teacher_hidden_ND=read.teacher_hidden_ND,
        teacher_head=read.teacher_head,
        shared=type(read.shared)(learner_M=read.shared.learner_M, teacher_M=read.shared.teacher_M, top_k=5),
    )
    value = Divergence(direction=direction).total(learner, read).total
    fast = torch.autograd.grad(value, learner.parameters(), allow_unused=True)

    at_BT = torch.nn.functional.pad(read.supervise_BT[:, 1:], (0, 1))
    hidden_ND = learner.hidden(states.ids_BT, states.lengths_B, at_BT)
    total = hidden_ND.new_zeros(())
    for h_D, t_D in zip(hidden_ND, read.teacher_hidden_ND, strict=True):
        p_V = (learner.head.weight_VD @ h_D).softmax(-1)
        q_W = (teacher.head.weight_VD @ t_D).softmax(-1)
        best = sorted(range(len(read.shared.learner_M)), key=lambda m: -float(p_V.detach()[read.shared.learner_M[m]]))[
            :5
        ]
        ours = [p_V[read.shared.learner_M[m]] for m in best]
        theirs = [q_W[read.shared.teacher_M[m]] for m in best]
        ours, theirs = (torch.stack([*side, 1 - sum(side)]).log() for side in (ours, theirs))
        total = total + of_logps(ours[None], theirs[None].detach())[0]
    slow = torch.autograd.grad(total, learner.parameters(), allow_unused=True)
    assert value.item() == pytest.approx(total.item(), rel=1e-8)
    assert value.item() > 0.01
    for one, other in zip(fast, slow, strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.allclose(one, other, rtol=1e-6, atol=1e-9)


def test_chunks_of_rows_add_up(learner: Policy) -> None:
    teacher = Policy(pairs(), None)
    states = states_of(learner, ("x", "cd y"), ("qq", "ab7"), ("z", "9"), ended=True)
    read = TeacherDistribution(teacher=teacher, positions="all").read(learner, states, DRAW)
    whole = float(Divergence().total(learner, read).total)
    parts = [float(Divergence().total(learner, read.rows(torch.tensor(index))).total) for index in ([0], [2, 1])]
    assert whole == pytest.approx(sum(parts), rel=1e-9)
    assert math.isfinite(whole)


# Which recipes allow it


def test_signals_that_cross_tokenizers() -> None:
    def crosses(states, signal, loss) -> bool:
        return Composition(states=states, signal=signal, loss=loss).crosses_tokenizers

    assert crosses("learner", "teacher continuation", "cross-entropy")
    assert crosses("dataset", "teacher distribution", "divergence")
    assert crosses("dataset", "gold tokens", "cross-entropy")
    assert not crosses("teacher", "teacher continuation", "cross-entropy")
    assert not crosses("mixture", "teacher distribution", "divergence")
    assert not crosses("learner", "teacher log-prob", "policy gradient")
    assert not crosses("teacher", "teacher tokens", "cross-entropy")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "stranger"
    weights = pairs()
    weights.model.float().save_pretrained(folder)
    weights.tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("recipe", "logged"),
    [
        ("opd_continuation", "share_dropped"),
        ("opd", "share_aligned"),
        pytest.param("kd", "share_aligned", marks=pytest.mark.slow),
    ],
)
def test_a_run_logs_what_the_other_tokenizer_cost(recipe: str, logged: str, stranger: Path, tmp_path: Path) -> None:
    command = ["train", recipe, "--model", "embedded", "--task", "arithmetic", "--teacher", str(stranger), "--quiet"]
    command += ["--steps", "2", "--batch-prompts", "2", "--lora.rank", "2", "--out", str(tmp_path / "run")]
    command += {
        "opd_continuation": ["--rollout-tokens", "6", "--max-new-tokens", "6"],
        "opd": ["--rollout-tokens", "6"],
    }.get(recipe, [])
    assert main(command) == 0
    for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines():
        assert 0 <= json.loads(line)["stats"][logged] <= 1


@pytest.mark.parametrize("recipe", ["opd_logp", "seq_kd", "gkd", "kd_on_teacher"])
def test_every_other_signal_refuses_it(
    recipe: str, stranger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", recipe, "--model", "embedded", "--task", "arithmetic", "--teacher", str(stranger)]
    assert main([*command, "--out", str(tmp_path / "run")]) == 2
    line = capsys.readouterr().err
    assert "has a different vocabulary" in line
    assert "opd_continuation" in line
    assert not (tmp_path / "run").exists()
