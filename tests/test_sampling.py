"""Continuous batching against a loop of full forward passes, against the softmax, and where rows end."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from scipy.stats import chisquare
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import tiny
from stateshape.core.tensors import token_logp
from stateshape.policy.policy import Policy
from stateshape.sampling import decode, local
from stateshape.sampling.decode import Decoding
from stateshape.sampling.local import LocalSampler
from stateshape.sampling.settings import SamplingSettings
from stateshape.sampling.slots import Slots
from stateshape.sampling.stops import StopWatch

TEXTS = ("a", "some 1+1=", "bc", "twelve plus one is", "?", "x y z 0 1 2")


def policy(*, seed=0, is_bridged=False, pad_is_eos=False, dtype=torch.float64):
    """The base with one adapter on it that changes it. In fp64, where rounding decides no token on any processor."""
    shared = tiny.weights(seed, pad_is_eos=pad_is_eos, dtype=dtype)
    shared.passes = shared.passes._replace(kind="bridge" if is_bridged else "decoder")
    return tiny.adapter(shared, "one", seed=3, size=0.1)


def prompts(of):
    return [of.encode_prompt(text) for text in TEXTS]


def sample(of, given=None, *, seed=11, burst=None, **settings):
    settings = SamplingSettings(**{"max_new_tokens": 12} | settings)
    return LocalSampler(burst=burst).sample(of, prompts(of) if given is None else given, settings, seed=seed)


@torch.no_grad()
def next_logp(of, ids, temperature=1.0):
    """Log-probs of the next token by one full forward pass of one row, no cache, no padding."""
    hidden_BTD = tiny.hidden(of, torch.tensor([ids]), torch.tensor([len(ids)]))
    return (hidden_BTD[0, -1] @ of.head.weight_VD.T / temperature).log_softmax(-1)


def slow_greedy(of, ids, max_new_tokens, stops=()):
    written = []
    while len(written) < max_new_tokens:
        written.append(int(next_logp(of, [*ids, *written]).argmax()))
        if written[-1] in of.eos_ids:
            return written, "eos"
        if any(stop in of.decode(written) for stop in stops):
            return written, "stop"
    return written, "length"


def spy_on(monkeypatch, owner, name, seen):
    """Calls as before, and notes the arguments behind self."""
    plain = getattr(owner, name)

    def spy(self, *given, **named):
        seen.append((*given, *named.values()))
        return plain(self, *given, **named)

    monkeypatch.setattr(owner, name, spy)


@pytest.mark.parametrize(("num_samples", "batch_rows", "num_slots"), [(1, 256, 6), (1, 3, 3), (8, 16, 16), (8, 1, 8)])
@pytest.mark.parametrize("burst", [1, 3])
@pytest.mark.parametrize("is_bridged", [False, True])
def test_trap_generation_without_kv_cache_equals_it(monkeypatch, is_bridged, burst, num_samples, batch_rows, num_slots):
    of = policy(is_bridged=is_bridged)
    of.eos_ids = (*of.eos_ids, *of.encode("b5"))  # what several of the rows write at different depths
    moves, prefills, steps = [], [], []
    spy_on(monkeypatch, Slots, "move", moves)
    spy_on(monkeypatch, local.Run, "prefill", prefills)
    spy_on(monkeypatch, Decoding, "run", steps)
    found = sample(
        of,
        temperature=0.0,
        num_samples=num_samples,
        batch_rows=batch_rows,
        stops=("qi",),
        max_new_tokens=16,
        burst=burst,
    )
    slow = [slow_greedy(of, ids, 16, stops=("qi",)) for ids in prompts(of)]
    assert [(c.ids, c.finish) for c in found] == [row for row in slow for _ in range(num_samples)]
    assert {c.finish for c in found} == {"eos", "stop", "length"}
    assert len({len(c.ids) for c in found}) > 3  # rows did end at different times
    assert moves or num_slots == num_samples  # rows did take the places of others (a group's own rows end together)
    assert sorted(i for (chosen,) in prefills for i in chosen) == list(range(len(TEXTS)))  # each prompt once
    assert len(prefills) > 1 or num_slots == len(found)
    assert max(num_rows for num_rows, _ in steps) == num_slots


@pytest.mark.numerics
@pytest.mark.parametrize("batch_rows", [1, 2, 5, 256])
def test_trap_left_padding_greedy_rows_do_not_depend_on_their_batch(batch_rows):
    of = policy()
    alone = [sample(of, [ids], temperature=0.0)[0].ids for ids in prompts(of)]
    together = sample(of, temperature=0.0, num_samples=2, batch_rows=batch_rows)
    assert [c.ids for c in together] == [ids for ids in alone for _ in range(2)]


def assert_same_rows(found, expected):
    assert [(c.ids, c.finish) for c in found] == [(c.ids, c.finish) for c in expected]
    for a, b in zip(found, expected):
        assert a.logps == pytest.approx(b.logps, abs=1e-9)


@pytest.mark.numerics
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_what_is_drawn_does_not_depend_on_the_batch(monkeypatch, temperature):
    of = policy()
    of.eos_ids = (*of.eos_ids, *of.encode("b"))
    settings = {"temperature": temperature, "num_samples": 3, "stops": ("q1", "\n"), "max_new_tokens": 10}
    expected = sample(of, **settings)
    assert {c.finish for c in expected} == {"eos", "stop", "length"}
    assert len({tuple(c.ids) for c in expected}) == len(expected)
    for batch_rows in (1, 4, 7, 11):
        for burst in (1, 5):
            assert_same_rows(sample(of, batch_rows=batch_rows, burst=burst, **settings), expected)
    monkeypatch.setattr(local, "PREFILL_TOKENS", 1)  # a prompt at a time
    assert_same_rows(sample(of, **settings), expected)
    assert_same_rows(sample(of, prompts(of)[:2], **settings), expected[:6])  # nor on the rows behind it
    assert_same_rows(sample(of, prompts(of)[::-1], **settings)[6:9], sample(of, [prompts(of)[3]] * 6, **settings)[6:9])


def test_rows_in_use_stay_within_the_caches_memory(monkeypatch):
    of, steps = policy(), []
    spy_on(monkeypatch, Decoding, "run", steps)
    expected, pairs = sample(of), sample(of, num_samples=2)
    places = max(map(len, prompts(of))) + 12
    monkeypatch.setattr(
        local, "CACHE_BYTES", 2 * (2 * 2 * 8 * places * 8) * 3 + 1
    )  # k and v, layers, heads, width, bytes: 3 rows
    steps.clear()
    assert_same_rows(sample(of), expected)
    assert max(num_rows for num_rows, _ in steps) == 3
    monkeypatch.setattr(local, "CACHE_BYTES", 1)  # one prompt's samples must always go
    steps.clear()
    assert_same_rows(sample(of, num_samples=2), pairs)
    assert max(num_rows for num_rows, _ in steps) == 2


def test_buffers_that_are_used_again_hold_nothing_of_the_last_call():
    """What a GPU does between calls: the same cache, the next call's adapter, prompts and numbers."""
    first = policy()
    second = tiny.adapter(first.weights, "two", seed=4, size=0.2)
    settings = SamplingSettings(max_new_tokens=12, num_samples=2, batch_rows=4)
    fresh = LocalSampler().sample(second, prompts(second)[:3], settings, seed=5)
    sampler = LocalSampler()
    first.activate()
    uniform_CS = torch.zeros(12, 12, dtype=torch.float64)
    kept = sampler.decoding(first, settings, longest=30, uniform_CS=uniform_CS)
    kept.forward = kept.forward.with_own_adapter()
    before = tiny.snapshot(first.weights, "one")
    sampler._kept = kept
    sampler.sample(first, prompts(first), settings, seed=1)
    assert_same_rows(sampler.sample(second, prompts(second)[:3], settings, seed=5), fresh)
    assert sampler._kept is kept
    assert tiny.is_same(tiny.snapshot(first.weights, "one"), before)
    for other in ({"temperature": 0.5}, {"max_new_tokens": 13}, {"num_samples": 5}):
        sampler._kept = kept
        changed = dataclasses.replace(settings, **other)
        found = sampler.sample(second, prompts(second)[:2], changed, seed=5)
        assert sampler._kept is None, other
        assert_same_rows(found, LocalSampler().sample(second, prompts(second)[:2], changed, seed=5))
    base = Policy(first.weights, None)
    sampler._kept = kept
    assert_same_rows(
        sampler.sample(base, [[5, 6]], settings, seed=5), LocalSampler().sample(base, [[5, 6]], settings, seed=5)
    )
    assert sampler._kept is None  # no adapter, so nothing to write over


@pytest.mark.numerics
@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0, 0.0])
def test_trap_sampler_and_trainer_disagree_log_probs_equal_rescoring(temperature):
    """trl#4772: what the sampler says a token's log-prob was is what the loss would compute for it."""
    of = policy(dtype=torch.float32)
    scored_at = temperature or 1.0  # greedy: at 1
    for ids, found in zip(
        [i for i in prompts(of) for _ in range(2)], sample(of, temperature=temperature, num_samples=2)
    ):
        row = torch.tensor([[*ids, *found.ids]])
        with torch.no_grad():
            hidden_TD = tiny.hidden(of, row, torch.tensor([row.shape[1]]))[0, len(ids) - 1 : -1]
            logps = token_logp(hidden_TD, of.head, torch.tensor(found.ids), scored_at)
        assert found.logps == pytest.approx(logps.tolist(), abs=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_trap_top_p_changes_q_k_samples_follow_the_softmax(temperature):
    of = policy()
    ids = of.encode_prompt("some 1+1=")
    num = 4000
    found = sample(of, [ids], max_new_tokens=1, num_samples=num, batch_rows=num, temperature=temperature, seed=2)
    p = next_logp(of, ids, temperature).exp().double()
    counts = torch.bincount(torch.tensor([c.ids[0] for c in found]), minlength=len(p)).double()
    likely = p * num >= 5  # the rest is one cell: chi-square needs a few expected in each
    expected = torch.cat([p[likely], p[~likely].sum()[None]]) * num
    observed = torch.cat([counts[likely], counts[~likely].sum()[None]])
    assert likely.sum() > 8
    assert chisquare(observed.numpy(), (expected * num / expected.sum()).numpy()).pvalue > 1e-3
    wrong = next_logp(of, ids, temperature * 1.3).exp().double()
    expected = torch.cat([wrong[likely], wrong[~likely].sum()[None]]) * num
    assert chisquare(observed.numpy(), (expected * num / expected.sum()).numpy()).pvalue < 1e-3


def test_later_tokens_follow_the_softmax_too():
    """The second token, given the first: the cache and the positions hold what they should."""
    of = policy()
    ids, num = of.encode_prompt("bc"), 4000
    # a longer prompt in each batch; rows enter and leave
    long = of.encode_prompt("twelve plus one is")
    found = sample(of, [ids, long] * num, max_new_tokens=2, batch_rows=512, seed=4)[::2]
    first = torch.bincount(torch.tensor([c.ids[0] for c in found])).argmax().item()
    seconds = [c.ids[1] for c in found if c.ids[0] == first and len(c.ids) == 2]
    p = next_logp(of, [*ids, first]).exp().double()
    counts = torch.bincount(torch.tensor(seconds), minlength=len(p)).double()
    likely = p * len(seconds) >= 5
    expected = torch.cat([p[likely], p[~likely].sum()[None]]) * len(seconds)
    observed = torch.cat([counts[likely], counts[~likely].sum()[None]])
    assert likely.sum() > 4
    assert chisquare(observed.numpy(), (expected * len(seconds) / expected.sum()).numpy()).pvalue > 1e-3


def test_the_same_seed_gives_the_same_ids_and_another_seed_others():
    of = policy()
    state = torch.get_rng_state()
    a, b, c = (sample(of, num_samples=2, seed=seed) for seed in (1, 1, 2))
    assert a == b
    assert [x.ids for x in a] != [x.ids for x in c]
    assert torch.equal(torch.get_rng_state(), state)  # the global generator is nobody's


def test_samples_of_a_prompt_differ_and_stand_together():
    of = policy()
    found = sample(of, num_samples=4)
    assert len(found) == 4 * len(TEXTS)
    assert len({tuple(c.ids) for c in found[:4]}) > 1
    for i, ids in enumerate(prompts(of)):  # in the order of the prompts, though batches go by length
        for c in found[4 * i : 4 * i + 4]:
            assert c.logps[0] == pytest.approx(next_logp(of, ids)[c.ids[0]].item(), abs=1e-4)


def test_each_finish_reason():
    of = policy()
    written = slow_greedy(of, prompts(of)[0], 12)[0]
    text = of.decode(written[:4])
    length = sample(of, [prompts(of)[0]], temperature=0.0, max_new_tokens=4)[0]
    stopped = sample(of, [prompts(of)[0]], temperature=0.0, stops=("never", text[-1]))[0]
    of.eos_ids = (written[2],)
    ended = sample(of, [prompts(of)[0]], temperature=0.0)[0]
    first_end = written.index(written[2])
    assert (length.finish, length.ids) == ("length", written[:4])
    assert (ended.finish, ended.ids) == ("eos", written[: first_end + 1])  # the end token is part of the row
    assert stopped.finish == "stop"
    assert text[-1] in of.decode(stopped.ids)
    assert text[-1] not in of.decode(stopped.ids[:-1])


def test_an_end_token_in_the_last_place_counts_as_eos_not_length():
    of = policy()
    written = slow_greedy(of, prompts(of)[1], 12)[0]
    of.eos_ids = (written[0],)
    assert sample(of, [prompts(of)[1]], temperature=0.0, max_new_tokens=1)[0].finish == "eos"


def test_trap_several_eos_ids():
    """trl#7039: every one of them ends a row."""
    of = policy()
    written = slow_greedy(of, prompts(of)[0], 12)[0]
    other = next(token for token in written if token != written[0])
    of.eos_ids = (tiny.EOS, other)
    found = sample(of, [prompts(of)[0]], temperature=0.0)[0]
    assert (found.finish, found.ids[-1]) == ("eos", other)


def test_trap_eos_masked_when_pad_equals_eos():
    """trl#6357: with pad == eos the same tokens are written and a row still ends with its end token."""
    plain, shared = policy(), policy(pad_is_eos=True)
    assert shared.pad_id == tiny.EOS != plain.pad_id
    a, b = (sample(of, num_samples=16, max_new_tokens=20, seed=3) for of in (plain, shared))
    assert a == b
    ended = [c for c in b if c.finish == "eos"]
    assert ended, "no row ended: the test says nothing"
    assert all(c.ids[-1] == tiny.EOS and tiny.EOS not in c.ids[:-1] for c in ended)


def test_no_prompts_give_no_completions():
    assert sample(policy(), []) == []


def test_progress_counts_prompts():
    seen = []
    of = policy()
    settings = SamplingSettings(max_new_tokens=2, batch_rows=4, num_samples=1)
    LocalSampler().sample(of, prompts(of), settings, seed=0, progress=lambda *parts: seen.append(parts))
    assert seen == sorted(seen)
    assert seen[0] == (4, 6)
    assert seen[-1] == (6, 6)


def test_sampling_leaves_no_graph_and_no_trainable_adapter():
    shared = tiny.weights()
    learner = tiny.learner(shared, size=0.1)
    sample(learner)
    assert not any(p.requires_grad for p in shared.model.parameters())
    assert not shared.model.training


# Stop texts


def watch(stops):
    shared = tiny.weights()
    return StopWatch(Policy(shared, None), stops), shared.tokenizer.get_vocab()


@pytest.mark.parametrize(
    ("pieces", "ends_at"),
    [
        (["a", "q\n", "\nq", "b"], 3),  # begins in one token, ends inside another
        (["a", "\n", "\n"], 3),
        (["\n", "a", "\n", "\nq"], 4),
        (["q\n", "a", "q\n"], None),
    ],
)
def test_a_stop_text_is_found_across_token_boundaries(pieces, ends_at):
    stop, ids = watch(("\n\n",))
    found = next((n for n in range(1, len(pieces) + 1) if stop.ending([ids[p] for p in pieces[:n]])), None)
    assert found == ends_at


def test_a_stop_text_is_looked_for_in_what_was_written_only():
    of = policy()
    ids = of.encode_prompt("9\n9\n9")
    rows = sample(of, [ids], temperature=0.0, stops=("9\n9",))
    assert rows[0].ids == slow_greedy(of, ids, 12, stops=("9\n9",))[0]
    assert len(rows[0].ids) > 1


def test_a_stop_text_whose_last_character_is_split_over_tokens_is_found():
    """Byte-level tokenizers write one character as several tokens; no single one of them decodes to it."""
    pieces = {0: b"a", 1: "é".encode()[:1], 2: "é".encode()[1:], 3: b"b"}
    fake = SimpleNamespace(
        eos_ids=(9,), decode=lambda ids: b"".join(pieces[i] for i in ids).decode("utf-8", errors="replace")
    )
    stop = StopWatch(fake, ("aé",))
    assert [stop.ending([0, 1, 2][: n + 1]) for n in range(3)] == [None, None, "stop"]
    assert stop.ending([3, 1, 2]) is None


def test_without_stop_texts_nothing_is_decoded():
    def refuse(ids):
        raise AssertionError("decoded")

    stop = StopWatch(SimpleNamespace(eos_ids=(9,), decode=refuse), ())
    assert stop.ending([1, 2]) is None
    assert stop.ending([1, 9]) == "eos"


ASKING_THE_HOST = {torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero, torch.ops.aten.masked_select}


class Recording(TorchDispatchMode):
    """A CUDA graph on a CPU: the operations of one run, done again on the same tensors, whatever Python would do by then."""

    def __init__(self):
        super().__init__()
        self.done = []

    def __call__(self, step):
        made = Recording()
        with made:
            step()
        return made

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function.overloadpacket not in ASKING_THE_HOST, f"{function} can't be recorded"
        out = function(*args, **(kwargs or {}))
        self.done.append((function, args, kwargs or {}, out))
        return out

    def replay(self):
        for function, args, kwargs, out in self.done:
            for old, new in zip(tree_leaves(out), tree_leaves(function(*args, **kwargs)), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


@pytest.fixture
def recorded(monkeypatch):
    """Sampling as on a GPU, with recorded steps; the list of buffers that were made."""
    for module in (decode, local):
        monkeypatch.setattr(module, "is_recorded", lambda device: True)
    monkeypatch.setattr(decode, "Recorder", Recording)
    monkeypatch.setattr(decode, "ROW_STEP", 4)
    for module in (decode, local):
        monkeypatch.setattr(module, "PLACE_STEP", 16)
    made = []
    spy_on(monkeypatch, Decoding, "__init__", made)
    return made


def test_recorded_steps_write_what_plain_ones_write(recorded, monkeypatch):
    of = policy()
    other = tiny.adapter(of.weights, "two", seed=8, size=0.2)
    sampler = LocalSampler(burst=3)
    given = SamplingSettings(max_new_tokens=10, num_samples=3, stops=("q1", "\n"))
    calls = [  # policy, prompts, seed, settings; and whether the buffers of the call before are used again
        (of, prompts(of), 1, given, False),
        (of, prompts(of), 2, given, True),
        (other, prompts(of)[:3], 3, given, True),  # another adapter, fewer rows
        (of, prompts(of), 4, dataclasses.replace(given, max_new_tokens=6), True),
        (of, [list(range(2, 40)), *prompts(of)[1:]], 5, given, False),  # no room for so long a prompt
        (of, prompts(of), 6, dataclasses.replace(given, temperature=0.7), False),
        (Policy(of.weights, None), prompts(of), 7, dataclasses.replace(given, temperature=0.7), False),  # no adapter
    ]
    found, kept = [], []
    for who, rows, seed, settings, _ in calls:
        num_made = len(recorded)
        found.append(sampler.sample(who, rows, settings, seed=seed))
        kept.append(len(recorded) == num_made)
    assert kept == [is_kept for *_, is_kept in calls]
    assert sampler._kept is not None
    assert 1 < len(sampler._kept.graphs) < 10  # by shape, not by step
    monkeypatch.undo()
    for rows_found, (who, rows, seed, settings, _) in zip(found, calls, strict=True):
        assert_same_rows(rows_found, LocalSampler(burst=1).sample(who, rows, settings, seed=seed))
    assert found[0] != found[1]


@pytest.mark.parametrize("is_bridged", [False, True])
def test_recorded_steps_are_the_slow_loops_at_temperature_0(recorded, is_bridged):
    of = policy(is_bridged=is_bridged)
    of.eos_ids = (*of.eos_ids, *of.encode("b5"))
    sampler = LocalSampler(burst=4)
    settings = SamplingSettings(max_new_tokens=16, temperature=0.0, stops=("qi",), batch_rows=5)
    slow = [slow_greedy(of, ids, 16, stops=("qi",)) for ids in prompts(of)]
    for _ in range(2):
        assert [(c.ids, c.finish) for c in sampler.sample(of, prompts(of), settings, seed=0)] == slow
    assert len(recorded) == (2 if is_bridged else 1)  # other models' own code may ask the host in between: not recorded
