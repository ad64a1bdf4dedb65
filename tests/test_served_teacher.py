"""A teacher on a server: the same loss as with the teacher's own numbers, and each way in which the server can fail."""

from __future__ import annotations

import contextlib
import math

import pytest
import torch

import tiny
from fake_vllm import FakeServer, error
from stateshape.cli import main
from stateshape.core import layout
from stateshape.core.files import BadInput, read_json, read_jsonl
from stateshape.core.method import Draw
from stateshape.core.records import RunRecord, StepRecord
from stateshape.core.signals import MatchDistribution, MatchTop
from stateshape.core.states import Origin, pack
from stateshape.core.tensors import binned, with_rest
from stateshape.embedded import base_folder
from stateshape.losses.divergence import Divergence, forward_kl, generalised_jsd, reverse_kl
from stateshape.policy.open import open_weights
from stateshape.policy.policy import Policy
from stateshape.policy.settings import ModelSettings
from stateshape.recipes.opd import OPD
from stateshape.sampling.served.teacher import ServedTeacher
from stateshape.sampling.served.wire import Patience
from stateshape.signals.distribution import TeacherDistribution
from stateshape.signals.top import TeacherTop
from stateshape.study import opened

HASTY = Patience(answer_s=20.0, connect_s=5.0, waits_s=(0.0, 0.0))
DRAW = Draw(item_ids=(), step=0, seed=0)
TEACHER_SEED = 7
FORMULAS = {
    "forward": forward_kl,
    "reverse": reverse_kl,
    "jsd": lambda learner, teacher: generalised_jsd(learner, teacher, beta=0.3),
}


@contextlib.contextmanager
def asked(*, top_k=5, **faults):
    """A learner, and a teacher of other weights on a server, with its weights as they are there."""
    shared, theirs = tiny.weights(dtype=torch.float64), tiny.weights(TEACHER_SEED, dtype=torch.float64)
    learner = tiny.learner(shared, size=0.1)
    with FakeServer(theirs) as fake:
        fake.has_routes = False
        for name, value in faults.items():
            setattr(fake, name, value)
        teacher = ServedTeacher(fake.url, top_k=top_k, tokenizer=shared.tokenizer, model="tiny", patience=HASTY)
        yield learner, teacher, fake, Policy(theirs, None)
        teacher.close()


def states(learner):
    rows = [
        tiny.row(learner.encode_prompt(prompt), learner.encode(response), Origin.LEARNER)
        for prompt, response in (("a", "bc1+"), ("some 1+1=", "2"), ("?", "twelve plus"))
    ]
    return pack(rows, device="cpu")


def loss_of(learner, signal, loss):
    learner.weights.model.zero_grad()
    value = loss.total(learner, signal)
    value.total.backward()
    gradient = torch.cat([one.grad.flatten() for one in learner.parameters()])
    return value, gradient


@pytest.mark.parametrize("direction", ["forward", "reverse", "jsd"])
@pytest.mark.parametrize("positions", ["all", "last"])
def test_the_loss_is_that_of_the_teachers_own_top_tokens(direction, positions):
    with asked() as (learner, teacher, _, own):
        learner = Policy(learner.weights, learner.adapter, is_trainable=True)
        signal = TeacherTop(teacher=teacher, positions=positions).read(learner, states(learner), DRAW)
        value, gradient = loss_of(learner, signal, Divergence(direction=direction, beta=0.3))
        whole = TeacherDistribution(teacher=own, positions=positions).read(learner, states(learner), DRAW)
    assert torch.equal(signal.supervise_BT, whole.supervise_BT)
    teacher_logp_NV = whole.teacher_head.logits(whole.teacher_hidden_ND).log_softmax(-1)
    top_ids_NK = teacher_logp_NV.topk(5).indices
    assert torch.equal(signal.top_ids_NK, top_ids_NK)

    learner_hidden_ND = learner.hidden(
        whole.states.ids_BT, whole.states.lengths_B, torch.nn.functional.pad(whole.supervise_BT[:, 1:], (0, 1))
    )
    learner_logp_NV = learner.head.logits(learner_hidden_ND).log_softmax(-1)
    expected_N = FORMULAS[direction](binned(learner_logp_NV, top_ids_NK), binned(teacher_logp_NV, top_ids_NK))
    learner.weights.model.zero_grad()
    expected_N.sum().backward()
    expected_gradient = torch.cat([one.grad.flatten() for one in learner.parameters()])
    assert float(value.total.detach()) == pytest.approx(float(expected_N.sum().detach()), rel=1e-5)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-6)


def test_with_all_tokens_the_loss_is_that_of_the_whole_distribution():
    num_tokens = tiny.weights().model.config.vocab_size
    with asked(top_k=num_tokens, max_logprobs=num_tokens) as (learner, teacher, _, own):
        top = TeacherTop(teacher=teacher, positions="all").read(learner, states(learner), DRAW)
        whole = TeacherDistribution(teacher=own, positions="all").read(learner, states(learner), DRAW)
        for direction in FORMULAS:
            loss = Divergence(direction=direction)
            with torch.no_grad():
                one, other = (loss.total(learner, signal) for signal in (top, whole))
            assert float(one.total) == pytest.approx(float(other.total), rel=1e-4)
            torch.testing.assert_close(
                one.per_token["teacher_entropy"], other.per_token["teacher_entropy"], rtol=1e-4, atol=1e-5
            )
    assert top.logged["top_mass"] == pytest.approx(1, abs=1e-5)


def test_fewer_tokens_never_make_the_divergence_larger():
    found = {}
    for top_k in (1, 3, 10):
        with asked(top_k=top_k) as (learner, teacher, _, own):
            signal = TeacherTop(teacher=teacher, positions="all").read(learner, states(learner), DRAW)
            found[top_k] = Divergence().detail(learner, signal).value_N
            whole = TeacherDistribution(teacher=own, positions="all").read(learner, states(learner), DRAW)
            exact_N = Divergence().detail(learner, whole).value_N
    for fewer, more in ((found[1], found[3]), (found[3], found[10]), (found[10], exact_N)):
        assert (fewer <= more + 1e-6).all()


def test_the_rest_is_what_is_left_of_one():
    logp_NK = torch.tensor([[0.5, 0.25], [1.0, 1e-9]], dtype=torch.float64).log()
    bins_NJ = with_rest(logp_NK)
    assert bins_NJ[0].tolist() == pytest.approx([math.log(0.5), math.log(0.25), math.log(0.25)])
    assert bins_NJ[1, 2] == pytest.approx(-80)  # nothing is left, and rounding may leave less


def test_rows_and_positions_of_the_signal_are_chosen_with_their_tokens():
    ids_NK, supervise_BT = torch.arange(6).reshape(3, 2), torch.tensor([[False, True, True], [False, True, False]])
    row = [tiny.row([2], [3, 4], Origin.LEARNER), tiny.row([2], [3], Origin.LEARNER)]
    signal = MatchTop(
        states=pack(row, device="cpu"), supervise_BT=supervise_BT, top_ids_NK=ids_NK, top_logp_NK=ids_NK.double()
    )
    chosen = signal.rows(torch.tensor([1, 0]))
    assert chosen.top_ids_NK.tolist() == [[4, 5], [0, 1], [2, 3]] == chosen.top_logp_NK.tolist()
    fewer = signal.supervising(torch.tensor([[True, False, True], [True, True, True]]))
    assert fewer.top_ids_NK.tolist() == [[2, 3], [4, 5]] == fewer.top_logp_NK.tolist()


# A server that does not fit, or fails


def in_one_line(failure):
    text = str(failure.value)
    assert "expected" in text and text.isprintable()
    return text


def test_a_server_with_fewer_log_probs_is_refused_at_the_start():
    with pytest.raises(BadInput) as failure, asked(top_k=21):
        pass
    assert "top_k: got 21" in in_one_line(failure) and "--max-logprobs 21" in str(failure.value)


def test_a_server_that_takes_adapters_does_not_teach():
    with pytest.raises(BadInput) as failure, asked(has_routes=True):
        pass
    assert "takes adapters" in in_one_line(failure)


def test_a_teacher_with_another_tokenizer_is_refused_at_the_start():
    other = tiny.weights()
    other.tokenizer = tiny.PreTrainedTokenizerFast(
        tokenizer_object=tiny.Tokenizer(tiny.models.WordLevel({"?": 0}, "?")), unk_token="?"
    )
    with FakeServer(other) as fake:
        fake.has_routes = False
        with pytest.raises(BadInput, match="the tokenizer of") as failure:
            ServedTeacher(fake.url, top_k=5, tokenizer=tiny.tokenizer(), model="tiny", patience=HASTY)
    in_one_line(failure)


@pytest.mark.parametrize(
    ("fault", "told"),
    [({"gives_logits": True}, "so they are none"), ({"drops_logprobs": 2}, "log-probs at a token; expected 5")],
)
def test_numbers_that_are_no_distribution_are_refused(fault, told):
    with pytest.raises(BadInput, match="in 3 tries") as failure, asked(**fault):
        pass
    assert told in in_one_line(failure)


def test_a_passing_failure_is_tried_again_and_a_lasting_one_ends_in_one_line():
    with asked() as (learner, teacher, fake, _):
        rows, places = [learner.encode("some text")], [[1, 3]]
        before = teacher.top(rows, places)
        fake.failures["/v1/completions"] = [error(503, "busy"), (200, {"choices": []})]
        assert teacher.top(rows, places) == before
        fake.failures["/v1/completions"] = [error(500, "EngineDeadError")] * 9
        with pytest.raises(BadInput, match="EngineDeadError") as failure:
            teacher.top(rows, places)
    in_one_line(failure)


def test_rows_longer_than_the_server_takes_are_refused():
    with asked(max_model_len=20) as (_, teacher, fake, _):
        num_asked = len(fake.completions())
        with pytest.raises(BadInput, match="--max-model-len 21") as failure:
            teacher.top([[3] * 20], [[1]])
        assert len(fake.completions()) == num_asked
    in_one_line(failure)


# Runs


@pytest.fixture(scope="module")
def weights():
    shared = open_weights("embedded", ModelSettings(device="cpu", dtype="float32"))
    with torch.no_grad():  # a teacher that differs from the learner's base
        shared.model.get_output_embeddings().weight.mul_(1.2)
    return shared


@pytest.fixture
def fake(weights, monkeypatch):
    monkeypatch.setattr(opened, "PATIENCE", HASTY)
    with FakeServer(weights, root=str(base_folder())) as fake:
        fake.has_routes = False
        yield fake


def train(out, recipe, teacher, *extra):
    return main([
        "train", recipe, "--model", "embedded", "--task", "arithmetic", "--out", str(out), "--teacher", teacher, "--steps", "3",
        "--batch-prompts", "2", "--lora.rank", "2", "--lr", "0.01", "--device", "cpu", "--quiet", *extra,
    ])  # fmt: skip


def only_line(capsys):
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("stateshape: ")
    return lines[0]


def test_opd_learns_from_a_teacher_on_a_server_and_says_which(tmp_path, fake):
    assert train(tmp_path / "run", "opd", fake.url, "--rollout-tokens", "6") == 0
    record = read_json(tmp_path / "run" / layout.RUN, RunRecord)
    assert record.is_complete and record.teacher == fake.url
    assert record.provenance["teachers"] == {
        fake.url: {"engine": "vllm", "version": fake.version, "model": str(base_folder()), "top_k": 20}
    }
    steps = read_jsonl(tmp_path / "run" / layout.METRICS, StepRecord)
    assert [step.stats["top_mass"] is not None and 0.1 < step.stats["top_mass"] <= 1 for step in steps] == [True] * 3
    assert steps[0].loss > 0
    assert not fake.loaded  # the base teaches


def test_a_run_whose_teacher_dies_resumes_with_the_same_model_alone(tmp_path, fake, capsys):
    fake.lasts = 6
    assert train(tmp_path / "run", "opd", fake.url, "--rollout-tokens", "6") == 2
    assert "EngineDeadError" in only_line(capsys)
    fake.lasts = None
    fake.root = "a/larger-model"
    assert train(tmp_path / "run", "opd", fake.url, "--rollout-tokens", "6") == 2
    assert "a/larger-model" in only_line(capsys)
    fake.root = str(base_folder())
    assert train(tmp_path / "run", "opd", fake.url, "--rollout-tokens", "6") == 0


@pytest.mark.parametrize(
    ("recipe", "extra", "told"),
    [
        ("kd", [], "a server teaches opd alone"),
        ("opd", ["--top-k", "64"], "--max-logprobs 64"),
        ("opd", ["--top-k", "0"], "top_k: got 0"),
        ("opd", ["--target-temperature", "0.5"], "target_temperature: got 0.5"),
    ],
)
def test_what_a_teacher_on_a_server_cannot_do_is_refused_before_the_model_loads(
    tmp_path, fake, capsys, monkeypatch, recipe, extra, told
):
    def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("stateshape.study.single.open_weights", never)
    assert train(tmp_path / "run", recipe, fake.url, *extra) == 2
    assert told in only_line(capsys)


def test_top_k_is_of_a_teacher_on_a_server():
    with pytest.raises(BadInput, match="all tokens are read"):
        OPD(teacher="studies/a", top_k=5)
    assert OPD(teacher="a=http://x:1,b=studies/a", top_k=5).top_k == 5


def test_of_a_teachers_top_tokens_no_other_temperature_is_made():
    with asked() as (learner, teacher, _, _):
        signal = TeacherTop(teacher=teacher, positions="all").read(learner, states(learner), DRAW)
        assert not isinstance(signal, MatchDistribution)
        with pytest.raises(ValueError, match="target_temperature"):
            Divergence(target_temperature=0.5).total(learner, signal)
