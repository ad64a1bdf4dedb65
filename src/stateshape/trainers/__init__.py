"""Watches a model while another library trains it: transformers' Trainer, TRL, or a loop of the user's own.

callback: for a Trainer. watch: the plain hook below it, for any loop. choices: what is asked for, checked before a model is
loaded. live: somebody else's model as our policies see weights. reading: puts everything back that a measurement changes.
batches: what a batch supervises. landing: where that is. own_states: the states the model now visits. saved: the folder.
Imported by nothing but the user.
"""
