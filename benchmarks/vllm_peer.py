"""vLLM driven directly, in its own environment: reads a JSON line per task from stdin, writes one per result to stdout.

Imports nothing of the package: its environment does not hold it. The engine's arguments are those of `stateshape serve`.
"""

import json
import os
import sys
import time


def main() -> None:
    model, adapter, dtype, max_model_len, device = sys.argv[1:6]
    told, sys.stdout = os.fdopen(os.dup(1), "w"), sys.stderr
    os.dup2(2, 1)  # vLLM prints to stdout
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    llm = LLM(
        model=model,
        dtype=dtype,
        max_model_len=int(max_model_len),
        enable_lora=True,
        max_lora_rank=32,
        max_loras=4,
        logprobs_mode="processed_logprobs",
        generation_config="vllm",
        enable_chunked_prefill=device != "cpu",
    )
    request = LoRARequest("adapter", 1, adapter)
    print(json.dumps({"ready": True}), file=told, flush=True)
    for line in sys.stdin:
        task = json.loads(line)
        params = [
            SamplingParams(
                n=task["group"],
                max_tokens=task["tokens"],
                temperature=1.0,
                seed=task["seed"] + 1000 * i,
                ignore_eos=True,
                stop_token_ids=task["ends"],
                logprobs=0,
            )
            for i in range(len(task["prompts"]))
        ]
        begun = time.perf_counter()
        answers = llm.generate(
            [{"prompt_token_ids": ids} for ids in task["prompts"]], params, lora_request=request, use_tqdm=False
        )
        seconds = time.perf_counter() - begun
        tokens = sum(len(row.token_ids) for answer in answers for row in answer.outputs)
        print(json.dumps({"seconds": seconds, "tokens": tokens}), file=told, flush=True)


if __name__ == "__main__":
    main()
