"""A user's own parts, in a file outside the package."""

from __future__ import annotations


def length_reward(item, text, finish):
    """Longer is better; nothing can be said of an empty answer."""
    return len(text) / 10 if text else None
