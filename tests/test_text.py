"""Rows as text in pieces: samples and drift say what the model wrote, whatever the tokenizer."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from stateshape.core.states import Origin
from stateshape.record.text import added_texts, state_sample
from stateshape.study.drift_rollouts import token_texts
from tiny import row


def bytes_of(text: str) -> list[str]:
    return [f"<0x{byte:02X}>" for byte in text.encode()]


def like_llama_2() -> PreTrainedTokenizerFast:
    """A blank before every text, bytes where a character is unknown; decoding takes the first blank off again."""
    pieces = ["<unk>", "<s>", "</s>", *bytes_of("😀"), "▁", "▁a", "▁b", "▁3", "b", "3", "+"]
    made = Tokenizer(
        models.BPE(
            {piece: i for i, piece in enumerate(pieces)}, [], unk_token="<unk>", byte_fallback=True, fuse_unk=True
        )
    )
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def byte_level() -> PreTrainedTokenizerFast:
    """A token per byte, as GPT-2 writes them; 😀 is four tokens."""
    vocabulary = {sign: i for i, sign in enumerate([*sorted(pre_tokenizers.ByteLevel.alphabet()), "<s>", "</s>"])}
    made = Tokenizer(models.BPE(vocabulary, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")


class Says:
    """What of a policy writes its tokens as text."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer

    def ids(self, *tokens: str) -> list[int]:
        return self.tokenizer.convert_tokens_to_ids(list(tokens))

    def decode(self, ids, skip_special_tokens=True):
        return self.tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens)


@pytest.fixture(params=[like_llama_2, byte_level])
def policy(request) -> Says:
    return Says(request.param())


def test_a_rollouts_pieces_keep_the_blanks_that_a_token_alone_would_lose():
    policy = Says(like_llama_2())
    made = row(policy.ids("<s>", "▁a"), policy.ids("▁b", "▁3", "+", "3", "</s>"), Origin.LEARNER)
    assert [policy.decode([token]) for token in made.response] == [
        "b",
        "3",
        "+",
        "3",
        "",
    ]  # what was written down before
    assert token_texts(made, policy) == [" b", " 3", "+", "3", ""]


@pytest.mark.parametrize("tail", [["</s>"], []])
def test_a_character_of_several_tokens_stands_with_the_last_of_them(policy, tail):
    """Each prefix of pieces is the text of so many tokens, less a character that is not yet complete."""
    emoji = policy.tokenizer("😀", add_special_tokens=False)["input_ids"][-4:]
    letters = policy.tokenizer("b", add_special_tokens=False)["input_ids"][-1:]
    made = row(policy.tokenizer("a")["input_ids"], [*letters, *emoji, *letters, *policy.ids(*tail)], Origin.LEARNER)
    assert token_texts(made, policy) == ["b", "", "", "", "😀", "b", *([""] * len(tail))]


def test_a_character_that_is_never_completed_stays_a_replacement_sign(policy):
    """As the whole text has it: pieces add up to what was decoded."""
    prompt = policy.tokenizer("a")["input_ids"]
    emoji = policy.tokenizer("😀", add_special_tokens=False)["input_ids"][-4:]
    made = row(prompt, emoji[:2], Origin.LEARNER)
    texts = token_texts(made, policy)
    assert texts[0] == "�"
    assert policy.decode(prompt) + "".join(texts) == policy.decode(made.ids)


def test_an_empty_response_has_no_pieces(policy):
    assert token_texts(row(policy.tokenizer("a")["input_ids"], [], Origin.LEARNER), policy) == []


def test_a_sample_says_what_the_row_says(policy):
    """Spans add up to the row's text with its special tokens, also where a span begins with a blank or inside a character."""
    emoji = policy.tokenizer("😀", add_special_tokens=False)["input_ids"][-4:]
    half = row(policy.tokenizer("a b")["input_ids"], policy.tokenizer("a 3 3")["input_ids"] + emoji[:2], Origin.LEARNER)
    whole = half.extended([*emoji[2:], *policy.ids("</s>")], Origin.TEACHER, logps=[None] * 3, finish="eos")
    sample = state_sample(whole, policy, step=3, supervised=[False] * len(half.ids) + [True] * 3, reward=1.0)
    said = policy.decode(whole.ids, skip_special_tokens=False)
    assert "".join(span.text for span in sample.spans) == said
    assert "�" not in said
    assert [(span.origin, span.is_supervised) for span in sample.spans] == [
        ("prompt", False),
        ("learner", False),
        ("teacher", True),
    ]
    assert sample.spans[-1].text == "😀</s>"
    assert (sample.step, sample.finish, sample.reward) == (3, "eos", 1.0)


def test_text_that_a_later_token_changes_belongs_to_what_was_certain():
    """Some decoders write " n't" as "n't": pieces still add up to the whole."""
    texts = ["", "do", "do n", "don't"]
    assert added_texts(texts.__getitem__, [1, 2, 3]) == ["do", "", "n't"]
    assert added_texts(texts.__getitem__, []) == []
