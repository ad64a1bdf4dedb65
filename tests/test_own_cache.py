"""A model's own cache, by whatever name its code gives it out and takes it."""

import pytest

from stateshape.policy.own_cache import caches_of


class Old:
    def forward(self, input_ids, past_key_values=None): ...


class New:
    def forward(self, input_ids, cache=None): ...


class Anything:
    def forward(self, **kwargs): ...


class Recurrent:
    def forward(self, input_ids, state=None): ...


@pytest.mark.parametrize(
    ("model", "outputs", "given"),
    [
        (Old(), {"past_key_values": 1}, {"past_key_values": 1}),
        (New(), {"cache": 1}, {"cache": 1}),
        (
            Old(),
            {"cache": 1},
            {"past_key_values": 1},
        ),  # code of its own under a transformers that renames what it gives
        (Anything(), {"cache": 1}, {"cache": 1}),
        (Recurrent(), {"state": 1}, {"state": 1}),
        (Recurrent(), {"logits": 1}, {}),
    ],
)
def test_a_cache_is_given_back_by_the_name_that_the_model_takes(model, outputs, given):
    assert caches_of(model, outputs) == given
