"""Training: step (one update, for every method), loop (a whole run, resumable), checkpoint, settings, operators, health.

Knows no method by name. Imported by study.
"""
