"""`python -m stateshape`, which torchrun starts as a module."""

from stateshape.cli import entry

entry()
