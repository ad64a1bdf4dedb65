"""Chats as tokens: rendered by each policy's own template, supervised where the assistant wrote, whole turns dropped "
"where long."""

import json

import pytest
import torch

import tiny
from stateshape import SFT, train_run
from stateshape.core.chat import END_OF_TURN, Chat
from stateshape.core.files import BadInput
from stateshape.core.method import Draw
from stateshape.core.states import Origin
from stateshape.locality.states import training_rows
from stateshape.policy.chat import rendered
from stateshape.policy.open import open_reader, read_template
from stateshape.policy.policy import Policy
from stateshape.policy.settings import ModelSettings
from stateshape.record.text import spans_of
from stateshape.sampling.local import LocalSampler
from stateshape.sampling.settings import SamplingSettings
from stateshape.sampling.stops import StopWatch
from stateshape.signals.continuation import TeacherContinuation
from stateshape.signals.distribution import TeacherDistribution
from stateshape.signals.gold import GoldTokens
from stateshape.signals.rendering import own_rows
from stateshape.signals.teacher_logp import TeacherLogProb
from stateshape.states.cuts import Cut, OneState
from stateshape.states.dataset import DatasetPairs, DatasetStates
from stateshape.states.fit import check_texts, fit_notes
from stateshape.states.sampled import LearnerStates, TeacherStates
from stateshape.study.describe import template_of
from stateshape.study.origin import check_same_origin
from stateshape.tasks.load import load_task
from stateshape.tasks.reading import Reading

PLAIN = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}{% if m.role == 'assistant' %}<eos>{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
MARKED = (
    "{% for m in messages %}{{ m.role }}:{% if m.role == 'assistant' %}{% generation %} {{ m.content }}<eos>{% "
    "endgeneration %}"
    "{% else %} {{ m.content }}{% endif %}{{ '\\n' }}{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)
SHORT = (
    "{% for m in messages %}{{ m.role[:1] }}= {{ m.content }}{% if m.role == 'assistant' %}<eos>{% endif %}{{ '\\n' }}{% "
    "endfor %}"
    "{% if add_generation_prompt %}a={% endif %}"
)
COUNTING = "{{ messages | length }}" + PLAIN
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system here') }}{% endif %}" + PLAIN
SAID = [
    {"role": "system", "content": "short"},
    {"role": "user", "content": "3+4?"},
    {"role": "assistant", "content": "7"},
    {"role": "tool", "content": "x"},
    {"role": "assistant", "content": "so 8"},
]
DRAW = Draw(item_ids=("chats/1",), step=0, seed=0)


def policy(template=PLAIN, seed=0, **options):
    weights = tiny.weights(seed)
    weights.tokenizer.chat_template = template
    return Policy(weights, None)


def items(tmp_path, *rows, **options):
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {item.item_id: item for item in load_task(str(path), **options).train}


def written(policy, row):
    """The texts of a row's runs of tokens, each with its origin."""
    parts = []
    for token, origin in zip(row.ids, row.origins, strict=True):
        text = policy.decode([token], skip_special_tokens=False)
        if parts and parts[-1][0] == origin:
            parts[-1] = (origin, parts[-1][1] + text)
        else:
            parts.append((origin, text))
    return parts


def asked(policy, asked):
    return policy.decode(policy.encode_prompt(asked), skip_special_tokens=False)


# What the assistant wrote


@pytest.mark.parametrize("template", [PLAIN, MARKED])
def test_every_assistant_turn_is_learned_and_nothing_else(tmp_path, template):
    learner, chats = policy(template), items(tmp_path, {"messages": SAID})
    states = DatasetStates(items=chats).draw(learner, DRAW)
    assert written(learner, states.trajectories()[0]) == [
        (Origin.PROMPT, "system: short\nuser: 3+4?\nassistant:"),
        (Origin.DATASET, " 7<eos>"),
        (Origin.ENVIRONMENT, "\ntool: x\nassistant:"),
        (Origin.DATASET, " so 8<eos>"),
    ]
    supervised = GoldTokens().read(learner, states, DRAW).supervise_BT
    assert learner.decode(states.ids_BT[supervised].tolist(), skip_special_tokens=False) == " 7<eos> so 8<eos>"


def test_only_the_last_turn_is_learned_where_that_is_asked_for(tmp_path):
    learner = policy()
    chats = items(tmp_path, {"messages": SAID}, reading=Reading(turns="last"))
    (row,) = DatasetStates(items=chats).draw(learner, DRAW).trajectories()
    assert [text for origin, text in written(learner, row) if origin == Origin.DATASET] == [" so 8<eos>"]
    assert Origin.ENVIRONMENT not in row.origins


def test_the_turns_of_a_given_prompt_are_context(tmp_path):
    learner = policy()
    chats = items(tmp_path, {"prompt": SAID[:4], "completion": SAID[4:]})
    (row,) = DatasetStates(items=chats).draw(learner, DRAW).trajectories()
    assert [text for origin, text in written(learner, row) if origin == Origin.DATASET] == [" so 8<eos>"]
    marked = policy(MARKED)
    (row,) = DatasetStates(items=chats).draw(marked, DRAW).trajectories()
    assert [text for origin, text in written(marked, row) if origin == Origin.DATASET] == [" so 8<eos>"]


def test_a_prompt_is_the_chat_up_to_the_last_reply(tmp_path):
    learner, chats = policy(), items(tmp_path, {"messages": SAID})
    text = "system: short\nuser: 3+4?\nassistant: 7<eos>\ntool: x\nassistant:"
    assert asked(learner, chats["chats/1"].asked) == text
    settings = SamplingSettings(max_new_tokens=4, stops=(END_OF_TURN,))
    states = LearnerStates(items=chats, sampler=LocalSampler(), settings=settings).draw(learner, DRAW)
    (row,) = states.trajectories()
    assert learner.decode(row.ids[: row.prompt_length], skip_special_tokens=False) == text


def test_a_pair_of_chats_shares_its_prompt(tmp_path):
    learner = policy()
    chats = items(tmp_path, {"chosen": SAID[1:3], "rejected": [SAID[1], {"role": "assistant", "content": "no"}]})
    better, worse = DatasetPairs(items=chats).draw(learner, DRAW).trajectories()
    assert written(learner, better)[0] == written(learner, worse)[0] == (Origin.PROMPT, "user: 3+4?\nassistant:")
    assert [written(learner, row)[1][1] for row in (better, worse)] == [" 7<eos>", " no<eos>"]


def test_a_turn_that_ends_in_plain_text_gets_an_end_token_behind_the_last(tmp_path):
    learner = policy(PLAIN.replace("<eos>", ""))
    (row,) = DatasetStates(items=items(tmp_path, {"messages": SAID})).draw(learner, DRAW).trajectories()
    assert written(learner, row)[-1] == (Origin.DATASET, " so 8\n<eos>")
    assert learner.turn_ends == ()


def test_a_turn_ends_where_its_template_ends_it():
    learner = policy(PLAIN.replace("<eos>", "<pad>"))  # another token than the tokenizer's own end
    assert learner.turn_ends == (tiny.PAD,)
    assert StopWatch(learner, (END_OF_TURN,)).ending([5, tiny.PAD]) == "eos"
    assert StopWatch(learner, ("x",)).ending([5, tiny.PAD]) is None


def test_a_template_that_writes_the_date_writes_the_same_every_day():
    learner = policy("{{ strftime_now('%d') }}" + PLAIN)
    assert learner.prompt_text(Chat(messages=tuple(SAID[:2]))).startswith("26system")


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ('{%- set day = strftime_now( "%d %b %Y" ) %}{{ day }}', "26 Jul 2024"),
        ("{{ strftime_now('%Y-%m-%d') if strftime_now is defined else '' }}", "2024-07-26"),
        ("{{ strftime_now('it\"s %d') }}", 'it"s 26'),
    ],
)
def test_the_date_is_written_however_a_template_asks_for_it(text, written):
    assert policy(text + PLAIN).prompt_text(Chat(messages=tuple(SAID[:2]))).startswith(f"{written}system")


# What is refused


@pytest.mark.parametrize(
    ("template", "row", "message"),
    [
        (None, {"messages": SAID}, "which has no chat template, for the chat of"),
        (
            COUNTING,
            {"messages": SAID},
            "chats.jsonl:1: message 3 (assistant): the chat template writes what comes before",
        ),
        (NO_SYSTEM, {"messages": SAID}, "chats.jsonl:1: message 1 (system): the chat template can't render 'system'"),
        (PLAIN, {"messages": [SAID[1], {"role": "assistant", "content": "7<eos>"}]}, "special token '<eos>' in it"),
        (
            PLAIN,
            {"messages": [SAID[1], {"role": "assistant", "tool_calls": [{"function": {"name": "add7"}}]}]},
            "message 2 (assistant): tool_calls: the chat template leaves out 'add7'",
        ),
    ],
)
def test_what_a_template_cannot_say_is_refused_with_the_message(tmp_path, template, row, message):
    learner = policy(template)
    with pytest.raises(BadInput) as caught:
        check_texts(learner, list(items(tmp_path, row).values()))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_last_turn_of_an_unstable_template_can_be_learned():
    unstable = policy("{% if messages[-1].role == 'assistant' %}!{% endif %}" + PLAIN.replace("!", ""))
    with pytest.raises(BadInput, match="writes what comes before this turn differently"):
        rendered(unstable.tokenizer, Chat(messages=tuple(SAID)))


def test_a_file_that_is_no_template_is_refused(tmp_path):
    path = tmp_path / "odd.jinja"
    path.write_text("{% for x in %}")
    with pytest.raises(BadInput, match="is no Jinja template"):
        read_template(str(path))
    path.write_text(MARKED)
    assert read_template(str(path)) == MARKED


def test_every_chat_of_a_run_is_checked_before_a_model_loads(tmp_path, monkeypatch):
    def load(*_):
        raise AssertionError("the model is loaded")

    monkeypatch.setattr("stateshape.policy.open.load_weights", load)
    template = tmp_path / "chat.jinja"
    template.write_text(
        "{% for m in messages %}{{ {'user': 'u', 'assistant': 'a'}[m.role] + m.content }}{{ eos_token }}{% endfor %}"
    )
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps({"messages": said}) + "\n" for said in (SAID[1:3], SAID)))
    with pytest.raises(
        BadInput, match=r"chats\.jsonl:2: message 1 \(system\): the chat template can't render 'system'"
    ):
        train_run(
            SFT(),
            model="embedded",
            task=str(path),
            out=tmp_path / "run",
            model_settings=ModelSettings(chat_template=str(template)),
        )
    assert not (tmp_path / "run").exists()


# Long chats


def long_chat(num_exchanges, length=40):
    said = [{"role": "system", "content": "short"}]
    for k in range(num_exchanges):
        said += [{"role": "user", "content": "a" * length}, {"role": "assistant", "content": str(k)}]
    return {"messages": said}


def test_a_long_chat_loses_its_oldest_exchanges_as_a_whole(tmp_path):
    learner, chats = policy(), items(tmp_path, long_chat(6))
    (row,) = DatasetStates(items=chats).draw(learner, DRAW).trajectories()
    text = learner.decode(row.ids, skip_special_tokens=False)
    assert len(row.ids) <= learner.max_positions < len(learner.rendered(chats["chats/1"].solved).ids)
    assert text.startswith("system: short\nuser: aaa")
    assert [part for origin, part in written(learner, row) if origin == Origin.DATASET] == [
        f" {k}<eos>" for k in (3, 4, 5)
    ]
    (note,) = fit_notes(learner, list(chats.values()), [DatasetStates(items=chats)])
    assert note.startswith("chat: 1 of 1 do not fit into the model's 256 positions, and lose their oldest exchanges")


def test_a_long_prompt_loses_exchanges_before_it_loses_tokens(tmp_path):
    learner, chats = policy(), items(tmp_path, long_chat(6), long_chat(2, length=300))
    prompt = learner.fitted_prompt(chats["chats/1"].asked, behind=9)
    assert learner.decode(prompt).startswith("system: short\nuser: aaa")
    assert len(prompt) + 9 <= 256
    cut = learner.fitted_prompt(chats["chats/2"].asked, behind=9)
    assert len(cut) == 256 - 9
    assert learner.decode(cut).endswith("aaa\nassistant:")


def test_a_reply_that_leaves_no_room_is_refused(tmp_path):
    chats = items(tmp_path, {"messages": [SAID[1], {"role": "assistant", "content": "a" * 300}]})
    with pytest.raises(BadInput, match=r"chats.jsonl:1: got a reply that leaves no room for a prompt"):
        check_texts(policy(), list(chats.values()))


# On record


def test_a_recorded_chat_says_what_is_the_environments(tmp_path):
    learner, chats = policy(), items(tmp_path, {"messages": SAID})
    (row,) = DatasetStates(items=chats).draw(learner, DRAW).trajectories()
    supervised = [origin == Origin.DATASET for origin in row.origins]
    spans = spans_of(row.ids, row.origins, supervised, learner)
    assert [(span.origin, span.is_supervised) for span in spans] == [
        ("prompt", False),
        ("dataset", True),
        ("environment", False),
        ("dataset", True),
    ]
    (made,) = training_rows({"": GoldTokens().read(learner, DatasetStates(items=chats).draw(learner, DRAW), DRAW)})
    environment = [t for t, origin in enumerate(row.origins) if origin == Origin.ENVIRONMENT]
    assert environment
    assert not set(made.prefix_tokens) & set(environment)


def test_a_chat_template_is_part_of_what_a_run_rests_on(tmp_path):
    path = tmp_path / "chat.jinja"
    path.write_text(PLAIN)
    first = template_of(ModelSettings(chat_template=str(path)))
    assert template_of(ModelSettings()) == {}
    path.write_text(SHORT)
    with pytest.raises(BadInput, match="was started with different chat template"):
        check_same_origin(tmp_path, first, template_of(ModelSettings(chat_template=str(path))))
    with pytest.raises(BadInput, match=r"none\.jinja: no such file"):
        template_of(ModelSettings(chat_template=str(tmp_path / "none.jinja")))


# Cuts


def test_a_chat_is_cut_in_its_last_turn(tmp_path):
    learner, chats = policy(), items(tmp_path, {"messages": SAID})
    states = DatasetStates(items=chats, cut=Cut(low=0.5, high=0.5)).draw(learner, DRAW)
    (row,) = states.trajectories()
    assert learner.decode(row.response) == " so"
    (row,) = DatasetStates(items=chats, cut=OneState()).draw(learner, DRAW).trajectories()
    assert learner.decode(row.ids, skip_special_tokens=False).startswith("system: short\nuser: 3+4?\nassistant: 7")
    assert len(row.response) >= 1


# Teachers with a template of their own


def own_prompt(teacher, chats, row):
    return [*teacher.encode_prompt(chats[row.item_id].asked), *row.response]


def test_a_teacher_reads_the_prompt_in_its_own_template(tmp_path):
    learner, teacher, chats = policy(), policy(SHORT, seed=1), items(tmp_path, {"messages": SAID})
    settings = SamplingSettings(max_new_tokens=5)
    states = LearnerStates(items=chats, sampler=LocalSampler(), settings=settings).draw(learner, DRAW)
    (row,) = states.trajectories()
    signal = TeacherDistribution(teacher=teacher, positions="all", items=chats).read(learner, states, DRAW)
    ids = own_prompt(teacher, chats, row)
    hidden = tiny.hidden(teacher, torch.tensor([ids]), torch.tensor([len(ids)]))[0]
    expected = hidden[len(ids) - len(row.response) - 1 : len(ids) - 1]
    torch.testing.assert_close(signal.teacher_hidden_ND, expected)
    credit = TeacherLogProb(teacher=teacher, items=chats).read(learner, states, DRAW)
    logp = (expected @ teacher.head.weight_VD.T).log_softmax(-1)
    at = torch.arange(len(row.response))
    wanted = logp[at, torch.tensor(row.response)] - torch.tensor(row.logps[row.prompt_length :])
    torch.testing.assert_close(credit.advantage_BT[credit.supervise_BT], wanted, atol=1e-4, rtol=1e-4)


def test_a_teacher_continues_from_its_own_rendering(tmp_path):
    class Noting:
        asked: list

        def sample(self, policy, prompts, settings, *, seed, progress=None):
            self.asked = [list(prompt) for prompt in prompts]
            return LocalSampler().sample(policy, prompts, settings, seed=seed)

    learner, teacher, chats = policy(), policy(SHORT, seed=1), items(tmp_path, {"messages": SAID})
    settings, noting = SamplingSettings(max_new_tokens=4), Noting()
    states = LearnerStates(items=chats, sampler=LocalSampler(), settings=settings, cut=OneState()).draw(learner, DRAW)
    signal = TeacherContinuation(teacher=teacher, sampler=noting, settings=settings, items=chats)
    read = signal.read(learner, states, DRAW)
    (row,) = states.trajectories()
    assert noting.asked == [own_prompt(teacher, chats, row)]
    (made,) = read.states.trajectories()
    assert made.ids[: len(row.ids)] == row.ids  # spliced behind the learner's own rendering


def test_what_a_teacher_wrote_stands_behind_the_learners_prompt(tmp_path):
    learner, teacher, chats = policy(), policy(SHORT, seed=1), items(tmp_path, {"messages": SAID})
    settings = SamplingSettings(max_new_tokens=4)
    source = TeacherStates(items=chats, sampler=LocalSampler(), settings=settings, teacher=teacher)
    (row,) = source.draw(learner, DRAW).trajectories()
    assert row.ids[: row.prompt_length] == learner.encode_prompt(chats["chats/1"].asked)
    assert set(row.origins[row.prompt_length :]) == {Origin.TEACHER}


def test_a_chat_of_several_turns_is_read_in_the_teachers_template_throughout(tmp_path):
    learner, teacher, chats = policy(), policy(SHORT, seed=1), items(tmp_path, {"messages": SAID})
    states = DatasetStates(items=chats).draw(learner, DRAW)
    supervise = GoldTokens().read(learner, states, DRAW).supervise_BT
    ((ids, at),) = own_rows(teacher, learner, states, supervise, chats)
    assert teacher.decode(ids, skip_special_tokens=False) == "s= short\nu= 3+4?\na= 7<eos>\nt= x\na= so 8<eos>"
    assert teacher.decode([ids[t + 1] for t in at], skip_special_tokens=False) == " 7<eos> so 8<eos>"
    spoken = policy(SHORT.replace("<eos>", "."), seed=1)
    with pytest.raises(BadInput, match="write the assistant's turns with different tokens"):
        own_rows(spoken, learner, states, supervise, chats)


def test_one_template_is_read_once(tmp_path):
    learner, teacher, chats = policy(), policy(seed=1), items(tmp_path, {"messages": SAID})
    states = DatasetStates(items=chats).draw(learner, DRAW)
    supervise = GoldTokens().read(learner, states, DRAW).supervise_BT
    assert own_rows(teacher, learner, states, supervise, chats) is None


# A reader without weights


def test_the_reader_encodes_as_the_model_does():
    reader = open_reader("embedded", ModelSettings())
    assert reader.eos_ids == (0,)
    assert reader.decode(reader.encode_prompt("Question: 3+4?")) == "Question: 3+4?"
