"""Sampling on vLLM servers, behind the Sampler protocol. Chosen by `--sampler vllm --servers URL[,URL]`.

wire: HTTP with bounded retries. protocol: vLLM's requests and answers. check: whether servers fit, before a model loads.
adapters: publishes adapters by path, under a name never used twice. gate: rescores some rows by our own pass. sampler: deals
prompts to servers. command: the vLLM command line of `stateshape serve`. Only sampler knows all of them.
"""
