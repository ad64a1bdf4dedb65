"""The losses against TRL's own code on the same numbers, in value and in gradient. Where they differ: docs/losses.md.

TRL's loss methods are called with a stand-in for the trainer that holds the settings they read, and log-probs from a table
of logits. Runs where TRL is installed (the `bench` extra).
"""

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from stateshape.core.head import Head
from stateshape.core.signals import Credit, Imitate, MatchDistribution, Prefer, Reference
from stateshape.core.states import Origin, pack
from stateshape.core.tensors import before
from stateshape.losses.cross_entropy import CrossEntropy
from stateshape.losses.divergence import Divergence
from stateshape.losses.policy_gradient import PolicyGradient
from stateshape.losses.preference import Preference
from stateshape.signals.reward import advantages
from tiny import row

pytest.importorskip("trl")
pytestmark = pytest.mark.numerics

PROMPT, RESPONSES = 2, (5, 1, 3, 4)  # tokens; every row has the same prompt length, so that TRL's columns are ours
VOCABULARY, MAX_TOKENS = 7, 8
WIDTH = PROMPT + max(RESPONSES)
ADVANTAGES = (1.0, -0.7, 0.4, -1.6)


def noise(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Table:
    """logits_BTV for every position; the head is the identity."""

    def __init__(self):
        self.logits_BTV = noise(len(RESPONSES), WIDTH, VOCABULARY, seed=1).requires_grad_()
        self.head = Head(torch.eye(VOCABULARY, dtype=torch.float64))

    def hidden(self, ids_BT, lengths_B, at_BT):
        return self.logits_BTV[at_BT]


def states():
    generator = torch.Generator().manual_seed(3)
    rows = []
    for number, length in enumerate(RESPONSES):
        ids = torch.randint(VOCABULARY, (PROMPT + length,), generator=generator).tolist()
        logps = (-2 + 0.4 * noise(length, seed=number)).tolist()
        rows.append(row(ids[:PROMPT], ids[PROMPT:], Origin.LEARNER, group=number // 2, logps=logps))
    return pack(rows, device="cpu")


def token_logps(logits_BTV, ids_BT):
    """[B, T - 1]: log p of every token but the first."""
    return logits_BTV.log_softmax(-1)[:, :-1].gather(-1, ids_BT[:, 1:, None])[..., 0]


def assert_same(ours, theirs, learner):
    """Value and gradient by the table of logits."""
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    (a,) = torch.autograd.grad(ours, learner.logits_BTV)
    (b,) = torch.autograd.grad(theirs, learner.logits_BTV)
    assert a.norm() > 1e-3
    assert (a - b).norm() <= 1e-6 * b.norm()


ACCELERATOR = SimpleNamespace(
    device="cpu",
    num_processes=1,
    sync_gradients=True,
    gather=lambda x: x,
    gather_for_metrics=lambda x: x,
    reduce=lambda x, reduction: x,
)


# Policy gradient


def grpo_by_trl(learner, batch, *, reference_BT=None, **settings):
    from trl import GRPOTrainer

    completion_mask = (torch.arange(WIDTH) < batch.lengths_B[:, None])[:, PROMPT:].long()
    logps = token_logps(learner.logits_BTV, batch.ids_BT)[:, PROMPT - 1 :]
    trainer = SimpleNamespace(
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        use_vllm=False,
        vllm_importance_sampling_correction=False,
        _entropy_bonus_enabled=False,
        use_adaptive_entropy=False,
        max_completion_length=MAX_TOKENS,
        current_gradient_accumulation_steps=1,
        accelerator=ACCELERATOR,
        model=SimpleNamespace(training=True),
        args=SimpleNamespace(use_bias_correction_kl=False, delta=None, steps_per_generation=1),
        _metrics=defaultdict(lambda: defaultdict(list)),
        _get_per_token_logps_and_entropies=lambda *_, **__: (logps, torch.zeros_like(logps), None),
        **{"importance_sampling_level": "token", "epsilon_low": 0.2, "epsilon_high": 0.3, "beta": 0.0, **settings},
    )
    inputs = {
        "prompt_ids": batch.ids_BT[:, :PROMPT],
        "prompt_mask": torch.ones(len(batch), PROMPT, dtype=torch.int64),
        "completion_ids": batch.ids_BT[:, PROMPT:],
        "completion_mask": completion_mask,
        "advantages": torch.tensor(ADVANTAGES, dtype=torch.float64),
        "old_per_token_logps": batch.behaviour_logp_BT[:, PROMPT:].nan_to_num(),
        "num_items_in_batch": completion_mask.sum(),
    }
    if reference_BT is not None:
        inputs["ref_per_token_logps"] = reference_BT[:, PROMPT:]
    return GRPOTrainer._compute_loss(trainer, None, inputs)


def credit(batch, reference_BT=None):
    advantage_B = torch.tensor(ADVANTAGES, dtype=torch.float64)
    return Credit(
        states=batch,
        supervise_BT=batch.written_by(Origin.LEARNER),
        advantage_BT=advantage_B[:, None].expand(batch.ids_BT.shape).contiguous(),
        reward_B=torch.zeros(len(batch)),
        reference=None if reference_BT is None else Reference(logp_BT=reference_BT),
    )


@pytest.mark.parametrize("with_kl", [False, True])
@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"loss_type": "grpo"}, {"normalise": "sequence-mean"}),
        ({"loss_type": "bnpo"}, {"normalise": "token-mean"}),
        ({"loss_type": "dapo"}, {"normalise": "token-mean"}),
        ({"loss_type": "dr_grpo"}, {"normalise": "constant", "max_tokens": MAX_TOKENS}),
        (
            {"loss_type": "grpo", "importance_sampling_level": "sequence"},
            {"normalise": "sequence-mean", "ratio": "sequence"},
        ),
    ],
)
def test_policy_gradients(theirs, ours, with_kl):
    learner, batch = Table(), states()
    reference_BT = noise(len(RESPONSES), WIDTH, seed=5) - 2
    ours = {**ours, "clip_low": 0.2, "clip_high": 0.3}
    if with_kl:
        ours |= {"kl_coefficient": 0.3, "kl_estimator": "k3"}
        theirs = {**theirs, "beta": 0.3, "reference_BT": reference_BT}
    loss, signal = PolicyGradient(**ours), credit(batch, reference_BT if with_kl else None)
    value = loss.total(learner, signal)
    assert 0 < value.sums["frac_clipped"] < loss.count(signal)
    assert_same(value.total / loss.count(signal), grpo_by_trl(learner, batch, **theirs), learner)


def test_group_advantages_differ_by_bessels_correction_alone():
    """TRL divides by the sample's standard deviation, this project by the population's."""
    from trl.trainer.utils import nanstd

    reward_B = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    ours = advantages(reward_B, torch.arange(8) // 4, baseline="group-mean", scale="std")
    grouped = reward_B.view(2, 4)
    theirs = (grouped - grouped.mean(1, keepdim=True)) / (nanstd(grouped, dim=1, keepdim=True) + 1e-4)
    torch.testing.assert_close(ours, theirs.flatten() * (4 / 3) ** 0.5, rtol=1e-3, atol=1e-6)


# Divergences


@pytest.mark.parametrize(
    ("beta", "choices"),
    [
        (0.0, {"direction": "forward"}),
        (0.0, {"direction": "jsd", "beta": 0.0}),
        (0.1, {"direction": "jsd", "beta": 0.1}),
        (0.5, {"direction": "jsd", "beta": 0.5}),
        (0.9, {"direction": "jsd", "beta": 0.9}),
        (1.0, {"direction": "jsd", "beta": 1.0}),
        (1.0, {"direction": "reverse"}),
    ],
)
def test_generalised_jsd(beta, choices):
    from trl.experimental.gkd import GKDTrainer

    learner, batch = Table(), states()
    teacher_BTV = noise(len(RESPONSES), WIDTH, VOCABULARY, seed=2)
    supervise_BT = batch.written_by(Origin.LEARNER)
    signal = MatchDistribution(
        states=batch,
        supervise_BT=supervise_BT,
        teacher_hidden_ND=teacher_BTV[before(supervise_BT)],
        teacher_head=Head(torch.eye(VOCABULARY, dtype=torch.float64)),
    )
    loss = Divergence(**choices)
    labels = batch.ids_BT.masked_fill(~supervise_BT, -100)
    theirs = GKDTrainer.generalized_jsd_loss(
        learner.logits_BTV[:, :-1], teacher_BTV[:, :-1], labels=labels[:, 1:], beta=beta
    )
    assert_same(loss.total(learner, signal).total / loss.count(signal), theirs, learner)


# Preferences


@pytest.mark.parametrize(("theirs", "shape"), [("sigmoid", "dpo"), ("ipo", "ipo")])
def test_preferences(theirs, shape):
    from trl import DPOTrainer

    learner, batch = Table(), states()
    supervise_BT = batch.written_by(Origin.LEARNER)
    reference_B = -2 * torch.tensor(RESPONSES, dtype=torch.float64) + noise(len(RESPONSES), seed=6)
    signal = Prefer(states=batch, supervise_BT=supervise_BT, reference_logp_B=reference_B)
    loss = Preference(shape=shape, beta=0.3)
    order = torch.tensor([0, 2, 1, 3])  # TRL: all chosen, then all rejected
    mask = supervise_BT[order].long()
    logps = token_logps(learner.logits_BTV, batch.ids_BT)[order] * mask[:, 1:]
    zero = torch.zeros_like(logps).detach()
    said = SimpleNamespace(log_probs=logps, entropy=zero, mean_logits=zero, is_top1=zero.bool())
    trainer = SimpleNamespace(
        accelerator=ACCELERATOR,
        model=SimpleNamespace(training=False),
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        loss_types=[theirs],
        loss_weights=[1.0],
        beta=0.3,
        use_weighting=False,
        _total_train_tokens=0,
        _metrics=defaultdict(lambda: defaultdict(list)),
    )
    inputs = {
        "input_ids": batch.ids_BT[order],
        "attention_mask": torch.ones_like(mask),
        "completion_mask": mask,
        "ref_chosen_logps": reference_B[order][:2],
        "ref_rejected_logps": reference_B[order][2:],
    }
    value = DPOTrainer._compute_loss(trainer, lambda **_: said, inputs, return_outputs=False)
    assert_same(loss.total(learner, signal).total / loss.count(signal), value, learner)
    assert loss.count(signal) == 2


# Supervised fine-tuning


def test_cross_entropy_on_completions_alone():
    """Labels of the completion alone; TRL's collator pads them, transformers' causal loss is the value."""
    from transformers.loss.loss_utils import ForCausalLMLoss
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    learner, batch = Table(), states()
    supervise_BT = batch.written_by(Origin.LEARNER)
    examples = [{"input_ids": made.ids, "labels": [-100] * PROMPT + made.ids[PROMPT:]} for made in batch.trajectories()]
    labels = DataCollatorForLanguageModeling(pad_token_id=0)(examples)["labels"]
    theirs = ForCausalLMLoss(learner.logits_BTV, labels, vocab_size=VOCABULARY)
    loss, signal = CrossEntropy(), Imitate(states=batch, supervise_BT=supervise_BT)
    assert_same(loss.total(learner, signal).total / loss.count(signal), theirs, learner)
