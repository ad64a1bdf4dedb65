"""The arithmetic of docs/guides/scale.md: what the page shows is what the script computes, from shapes that are published."""

from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks.scale import MODELS, Inputs, run_cost, study_cost, tables

PAGE = Path(__file__).resolve().parents[1] / "docs" / "guides" / "scale.md"


@pytest.mark.parametrize(("title", "text"), tables(Inputs()))
def test_the_page_shows_what_the_script_computes(title, text):
    assert text in PAGE.read_text(encoding="utf-8"), f"{title}: run python -m benchmarks.scale and put it into the page"


@pytest.mark.parametrize(("model", "published"), zip(MODELS, (8.03e9, 70.6e9, 405.9e9), strict=True))
def test_shapes_give_the_published_number_of_parameters(model, published):
    assert model.parameters == pytest.approx(published, rel=0.002)


def test_rank_one_on_all_linear_layers_counts_inputs_and_outputs():
    """Llama 3.1 8B, by hand: (4096 + 4096) * 2 + (4096 + 1024) * 2 + (4096 + 14336) * 3 for each of 32 layers."""
    assert MODELS[0].adapter_parameters(1) == 32 * (16384 + 10240 + 55296)


def test_more_servers_help_until_the_longest_chain_is_what_takes_time():
    one, ten, many = (study_cost(MODELS[0], servers, Inputs()) for servers in (1, 10, 1000))
    assert one.hours == pytest.approx(10 * ten.hours)
    assert many.hours == pytest.approx(Inputs().chain * run_cost(MODELS[0], Inputs()).hours)
    assert many.at_once == pytest.approx(Inputs().runs / Inputs().chain)


def test_a_slower_step_makes_a_run_longer_and_its_server_no_busier():
    slow, fast = (run_cost(MODELS[0], replace(Inputs(), mfu=mfu)) for mfu in (0.1, 0.4))
    assert slow.trainer_hours == pytest.approx(4 * fast.trainer_hours)
    assert slow.server_hours == fast.server_hours
