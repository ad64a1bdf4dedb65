"""The separator between a prompt and the text after it: a blank, or nothing where a blank would be wrong.

Knows nothing of tokens: policy.py encodes both together.
"""

from __future__ import annotations

import re

# Chinese and Japanese: punctuation and kana, ideographs, full-width forms. Korean puts blanks between words.
WITHOUT_BLANKS = re.compile(r"[\u3000-\u30ff\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff\uff00-\uff9f\U00020000-\U0003ffff]")


def prompt_text(written: str) -> str:
    """The prompt without blanks at its end, unless they indent its last line."""
    bare = written.rstrip(" ")
    return written if bare.endswith("\n") else bare


def default_delimiter(prompt: str) -> str:
    """Empty after a line break (a chat template, code) and after Chinese or Japanese; otherwise a blank.

    The script is that of the prompt's last letter, or of its last full-width sign if that comes later.
    """
    if prompt[-1].isspace():
        return ""
    last = next((sign for sign in reversed(prompt) if sign.isalpha() or WITHOUT_BLANKS.match(sign)), "")
    return "" if WITHOUT_BLANKS.match(last) else " "


def text_behind(text: str, delimiter: str) -> str:
    """A solution joined to its prompt by the delimiter. Without one, its leading white space is kept (code is indented)."""
    return delimiter + text.strip() if delimiter else text.rstrip()


def option_behind(option: str, delimiter: str) -> str:
    return option if option[0].isspace() else delimiter + option
