"""What the slower passes cost: windows beside our decoder, the general pass beside transformers' own loop.

    python -m benchmarks.passes [--model embedded|FOLDER] [--repeats N] [--threads N]

Rows, each peer / ours (above 1, ours is faster):

    windows    sampling through transformers' modules with a window in every layer; peer: our decoder on the same weights,
               without windows. Both write the same number of tokens: no row ends early.
    general    sampling by the general pass; peer: transformers' generate with the same weights, left-padded, by its own cache
    step       a step of supervised training by the general pass; peer: the same by transformers' own forward on rows
               padded on the right, with cross-entropy on all logits

The model is Llama- or Qwen-like, of which the general pass is made to run what our decoder would.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
import torch.nn.functional as F
import transformers

from benchmarks.common import (
    LORA,
    Measured,
    Options,
    Row,
    Side,
    compared,
    interleave,
    load_policy,
    model_folder,
    quiet_peers,
    show,
    timed,
    train_task,
)
from benchmarks.sampling import GROUP, Generate, Ours
from stateshape.core.tensors import token_logp
from stateshape.policy.checks import Passes
from stateshape.policy.habits import Habits
from stateshape.policy.policy import Policy
from stateshape.policy.weights import SharedWeights
from stateshape.sampling.settings import SamplingSettings

WINDOW = 32
NEW_TOKENS = 96
NUM_PROMPTS = 8
GENERAL = Passes("general", habits=Habits(*[True] * len(Habits._fields)))


def endless(policy: Policy) -> Policy:
    policy.eos_ids = ()
    return policy


def windowed(model: str) -> Policy:
    """The model with a window in every layer."""
    folder = model_folder(model)
    config = transformers.AutoConfig.from_pretrained(folder)
    if config.model_type == "llama":
        config = transformers.MistralConfig(**{k: v for k, v in config.to_dict().items() if k != "model_type"})
    else:
        config.use_sliding_window = True
        config.layer_types = ["sliding_attention"] * config.num_hidden_layers
    config.sliding_window = WINDOW
    network = transformers.AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=torch.float32)
    weights = SharedWeights(network, transformers.AutoTokenizer.from_pretrained(folder), source="windowed")
    assert weights.passes.kind == "bridge", weights.passes
    return Policy(weights, None)


def general(model: str) -> Policy:
    policy = load_policy(model)
    policy.weights.passes = GENERAL
    return policy


def sampling_rows(model: str, options: Options) -> list[Row]:
    plain, prompts = endless(load_policy(model)), []
    for item in train_task(model).train[:NUM_PROMPTS]:
        prompts.append(plain.encode_prompt(item.prompt))
    settings = SamplingSettings(max_new_tokens=NEW_TOKENS, num_samples=GROUP)
    own = load_policy(model)
    peer = Generate(
        own.weights.model, endless(own), prompts, group=GROUP, new_tokens=NEW_TOKENS, batch_rows=256, cache="dynamic"
    )
    peer.options["eos_token_id"] = None
    own.weights.model.generation_config.eos_token_id = None
    sides: dict[str, Side] = {
        "decoder": Ours(plain, prompts, settings),
        "windows": Ours(endless(windowed(model)), prompts, settings),
        "general": Ours(endless(general(model)), prompts, settings),
        "generate": lambda repeat: Measured(timed(lambda: peer(repeat))[0], len(prompts) * GROUP * NEW_TOKENS),
    }
    found = interleave(sides, repeats=options.num_repeats())
    return [
        compared("windows", model, found["windows"], found["decoder"], peer="our decoder"),
        compared("general", model, found["general"], found["generate"], peer="transformers generate"),
    ]


def step_row(model: str, options: Options) -> Row:
    rows = [[*range(5, 5 + length)] for length in (60, 80, 72, 90, 100, 66, 70, 84)]
    policy = general(model)
    policy.weights.add_adapter("learner", LORA, seed=0)
    learner = Policy(policy.weights, "learner", is_trainable=True)
    parameters = learner.parameters()
    targets = torch.cat([torch.tensor(row[1:]) for row in rows])

    def ours() -> Any:
        hidden_ND = learner.hidden_at(rows, [range(len(row) - 1) for row in rows])
        return torch.autograd.grad(-token_logp(hidden_ND, learner.head, targets).sum(), parameters)

    def plainly() -> Any:
        width = max(map(len, rows))
        ids_BT = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
        mask_BT = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        logits_BTV = policy.weights.model(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False).logits[:, :-1]
        labels_BT = ids_BT[:, 1:].masked_fill(mask_BT[:, 1:] == 0, -100)
        loss = F.cross_entropy(logits_BTV.flatten(0, 1).float(), labels_BT.flatten(), reduction="sum")
        return torch.autograd.grad(loss, parameters)

    for a, b in zip(ours(), plainly(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-2)
    sides: dict[str, Side] = {
        "ours": lambda repeat: Measured(timed(ours)[0], len(targets)),
        "peer": lambda repeat: Measured(timed(plainly)[0], len(targets)),
    }
    found = interleave(sides, repeats=options.num_repeats())
    return compared("step", model, found["ours"], found["peer"], peer="transformers' own forward")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded", help="embedded, or a folder")
    parser.add_argument("--repeats", type=int, help="timed repeats of each side")
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    quiet_peers()
    options = Options(repeats=chosen.repeats)
    show([*sampling_rows(chosen.model, options), step_row(chosen.model, options)])


if __name__ == "__main__":
    main()
