"""Sampling: token ids in, token ids out. settings has the Sampler protocol, local the engine on this machine.

decode, slots: a step over the key-value cache. draw: one token from one number. stops: texts that end a row. blended: two
policies as one writer. Knows no task.
"""
