"""Measurements on a GPU that is there for fifteen minutes: one command, stage by stage, each in a process of its own.

__main__ is the command. stages: what there is, in order of worth. driver: processes, time limits, the table. record: a
stage's file. check, sampling, training, studies, peers, commands, unit_tests: the stages. mps: several processes on one
GPU. within: a time limit for a piece of a stage. estimate: how long a study takes. causes: what the time between a floor
and a measurement is spent on. See docs/guides/gpu.md.
"""
