"""Rows as people have them: recognised by their columns, from every format, for every use; what is wrong names file, "
"line and column."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stateshape.cli.arguments import task_and_folder
from stateshape.core.chat import END_OF_TURN
from stateshape.core.files import BadInput
from stateshape.study.plan import make_plan
from stateshape.study.study_file import RunChoice, StudyFile, TaskChoice
from stateshape.tasks.load import check_evaluable, load_task
from stateshape.tasks.reading import Reading, columns_of
from stateshape.tasks.sources import HubName, hub_name

USER, REPLY = {"role": "user", "content": "3+4?"}, {"role": "assistant", "content": "7"}
NO = {"role": "assistant", "content": "no"}
CALL = {"type": "function", "function": {"name": "add", "arguments": '{"a": 3}'}}


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def load(tmp_path, *rows, name="mine.jsonl", **reading):
    return load_task(write(tmp_path / name, *rows), reading=Reading(**reading))


def refusal(tmp_path, *rows, **reading):
    with pytest.raises(BadInput) as caught:
        load(tmp_path, *rows, **reading)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500 + len(str(tmp_path))
    return message


# Kinds


@pytest.mark.parametrize(
    ("row", "kind", "asked", "completion"),
    [
        ({"messages": [USER, REPLY]}, "messages", [USER], "7"),
        ({"messages": [USER, REPLY], "prompt": "3+4?"}, "messages", [USER], "7"),
        (
            {"conversations": [{"from": "human", "value": "3+4?"}, {"from": "gpt", "value": "7"}]},
            "messages",
            [USER],
            "7",
        ),
        ({"instruction": "3+4?", "output": "7"}, "alpaca", [USER], "7"),
        ({"prompt": [USER], "completion": [REPLY]}, "completion", [USER], "7"),
        ({"prompt": [USER], "completion": "7"}, "completion", [USER], "7"),
        ({"prompt": [USER], "chosen": "7", "rejected": "no"}, "preference", [USER], "7"),
        ({"chosen": [USER, REPLY], "rejected": [USER, NO]}, "preference", [USER], "7"),
        ({"prompt": "3+4?", "chosen": [USER, REPLY], "rejected": [USER, NO]}, "preference", [USER], "7"),
        ({"prompt": "3+4?", "chosen": [REPLY], "rejected": [NO]}, "preference", [USER], "7"),
        ({"prompt": [USER]}, "prompt", [USER], None),
        ({"prompt": [USER], "answer": "7", "split": "train"}, "task", [USER], None),
    ],
)
def test_a_chat_is_recognised_by_its_columns(tmp_path, caplog, row, kind, asked, completion):
    (item,) = load(tmp_path, row).train
    assert f"1 rows of kind {kind} (1 train, 0 test" in caplog.text
    assert [dict(message) for message in item.chat.messages] == asked
    assert item.completion == completion
    assert (item.solved is not None) == (completion is not None)
    if kind == "preference":
        assert item.refused.messages[-1] == NO
        assert item.solved.given == item.refused.given == 1


@pytest.mark.parametrize(
    ("row", "kind", "prompt", "completion"),
    [
        ({"prompt": "3+4=", "completion": "7"}, "completion", "3+4=", " 7"),
        ({"prompt": "3+4=", "chosen": "7", "rejected": "no"}, "preference", "3+4=", " 7"),
        ({"text": "so it is"}, "text", "", "so it is"),
        ({"prompt": "3+4="}, "prompt", "3+4=", None),
    ],
)
def test_a_text_stays_a_text(tmp_path, caplog, row, kind, prompt, completion):
    (item,) = load(tmp_path, row).train
    assert f"1 rows of kind {kind}" in caplog.text
    assert (item.chat, item.prompt, item.completion, item.gold) == (None, prompt, completion, None)


def test_texts_become_messages_where_that_is_asked_for(tmp_path):
    (item,) = load(tmp_path, {"prompt": "3+4?", "completion": "7", "answer": 7}, as_chat=True).train
    assert [dict(one) for one in item.solved.messages] == [USER, REPLY]
    assert item.gold == "7"


def test_a_chat_ends_at_its_turns_and_a_text_at_end_tokens(tmp_path):
    assert load(tmp_path, {"messages": [USER, REPLY]}).stops == (END_OF_TURN,)
    assert load(tmp_path, {"prompt": "a", "completion": "b"}).stops == ()
    stops = {"settings": {"stops": ["x"]}}
    assert load(tmp_path, stops, {"messages": [USER, REPLY]}).stops == (END_OF_TURN, "x")


@pytest.mark.parametrize(
    ("row", "fitting"),
    [
        ({"messages": [USER, REPLY], "text": "x"}, "messages and of text"),
        ({"prompt": "x", "chosen": "a", "rejected": "b", "messages": [USER, REPLY]}, "messages and of preference"),
        ({"instruction": "x", "output": "a", "text": "x a"}, "alpaca and of text"),
    ],
)
def test_rows_of_two_kinds_are_refused_and_a_flag_decides(tmp_path, row, fitting):
    message = refusal(tmp_path, row)
    assert f"mine.jsonl:1: got columns of {fitting}; expected one kind; choose with --kind" in message
    kind = fitting.partition(" ")[0]
    assert load(tmp_path, row, kind=kind).train


def test_other_columns_are_kept_for_rewards_in_every_kind(tmp_path):
    rows = (
        {"prompt": "x", "answer": "1", "solution": "x 1", "split": "train", "difficulty": 3, "source": {"url": "u"}},
        {"prompt": "x", "completion": "y", "difficulty": 3, "source": {"url": "u"}},
        {"messages": [USER, REPLY], "difficulty": 3, "source": {"url": "u"}},
    )
    for row in rows:
        (item,) = load(tmp_path, row).train
        assert item.columns == {"difficulty": 3, "source": {"url": "u"}}


def test_a_mistyped_column_of_our_own_shape_is_refused(tmp_path):
    message = refusal(tmp_path, {"prompt": "x", "answer": "1", "solutoin": "x 1", "split": "train"})
    assert "unknown field 'solutoin'" in message
    assert "did you mean solution?" in message


def test_other_columns_are_left_alone_and_named(tmp_path, caplog):
    (item,) = load(tmp_path, {"messages": [USER, REPLY], "source": "web", "score": 3}).train
    assert "other columns, for rewards: source, score" in caplog.text
    assert item.item_id == "mine/1"


def test_columns_have_the_names_that_are_given(tmp_path):
    row = {"question": "3+4?", "answer": "3+4=7\n#### 7", "id": [1]}
    columns = columns_of("prompt=question,completion=answer,id=")
    (item,) = load(tmp_path, row, columns=columns).train
    assert (item.prompt, item.completion, item.gold) == ("3+4?", " 3+4=7\n#### 7", None)
    both = {"prompt": "question", "completion": "answer", "answer": "answer", "id": ""}
    assert load(tmp_path, row, columns=both).train[0].gold == "7"
    assert "columns: got 'reply', which is no column; expected one of 'question, answer, id'" in refusal(
        tmp_path, row, columns={"completion": "reply"}
    )
    with pytest.raises(BadInput, match="columns: got 'prompt'; expected pairs like"):
        columns_of("prompt")


def test_splits_are_the_rows_own_else_the_kinds(tmp_path):
    rows = [{"prompt": [USER], "completion": [REPLY], "split": split} for split in ("train", "test", None)]
    task = load(tmp_path, *rows)
    assert (len(task.train), len(task.test)) == (2, 1)
    assert len(load(tmp_path, *rows, split="test").test) == 2
    plain = {"prompt": "a", "answer": "b"}
    assert len(load(tmp_path, plain).test) == len(load(tmp_path, plain, split="train").train) == 1


def test_what_has_no_answer_cannot_be_evaluated(tmp_path):
    with pytest.raises(BadInput, match=r"got 1 test rows without an answer \(mine/1 is the first\)"):
        check_evaluable(load(tmp_path, {"messages": [USER, REPLY]}, split="test"))


def test_reading_is_part_of_what_a_run_rests_on(tmp_path):
    row = {"messages": [USER, REPLY, USER, REPLY]}
    assert load(tmp_path, row).data_sha256 != load(tmp_path, row, turns="last").data_sha256


# Messages


def test_messages_are_brought_into_one_form(tmp_path):
    said = [
        {"role": "user", "content": [{"type": "text", "text": "3+"}, {"type": "text", "text": "4?"}]},
        {"role": "assistant", "content": None, "tool_calls": [CALL], "name": None},
        {"role": "tool", "content": "7"},
        REPLY,
    ]
    tools = json.dumps([{"type": "function", "function": {"name": "add"}}])
    row = {"messages": said, "tools": tools, "chat_template_kwargs": {"enable_thinking": False}}
    chat = load(tmp_path, row).train[0].solved
    assert dict(chat.messages[0]) == USER
    assert chat.messages[1]["tool_calls"][0]["function"]["arguments"] == {"a": 3}
    assert "name" not in chat.messages[1]
    assert chat.tools[0]["function"]["name"] == "add"
    assert chat.template_kwargs == {"enable_thinking": False}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": "hi"}, "mine.jsonl:2: messages: got 'hi'; expected a list of messages"),
        ({"messages": []}, "mine.jsonl:2: messages: got []; expected a list of messages"),
        ({"messages": [USER, "hi"]}, "mine.jsonl:2: messages: message 2: got 'hi'; expected role and content"),
        ({"messages": [{"content": "x"}]}, "mine.jsonl:2: messages: message 1: role: got None"),
        ({"messages": [USER, {"role": "assistant", "content": " "}]}, "message 2: content: got ' ' from the assistant"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
            "message 1: content: got 'image'; expected a text",
        ),
        ({"messages": [REPLY]}, "message 1: got role 'assistant'; expected a user or a system first"),
        ({"messages": [{"from": "nobody", "value": "x"}]}, "message 1: from: got 'nobody'; expected one of human"),
        ({"messages": [USER, REPLY], "tools": "x"}, "mine.jsonl:2: tools: got 'x'; expected JSON"),
        ({"messages": [USER, REPLY], "chat_template_kwargs": {"tokenize": 1}}, "got 'tokenize', which is set here"),
        ({"messages": [USER, REPLY], "answer": [7]}, "mine.jsonl:2: answer: got [7]; expected a text or a number"),
        ({"messages": [USER, REPLY], "split": "dev"}, "mine.jsonl:2: split: got 'dev'; expected 'train' or 'test'"),
        ({"messages": [USER, REPLY], "id": {}}, "mine.jsonl:2: id: got {}; expected a text or a whole number"),
        ({"text": "x"}, "mine.jsonl:2: messages: got None in a row with 'text'; expected messages in every row"),
        (7, "mine.jsonl:2: got '7'; expected an object"),
    ],
)
def test_a_malformed_chat_names_line_column_and_message(tmp_path, row, message):
    assert message in refusal(tmp_path, {"messages": [USER, REPLY]}, row)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": [USER], "completion": [USER]}, "completion: message 1: got role 'user'; expected 'assistant'"),
        ({"prompt": [USER, REPLY], "completion": "x"}, "prompt: got a last message from the assistant"),
        ({"prompt": "a", "completion": " "}, "completion: got ' '; expected a text that is not empty"),
        ({"prompt": 3, "completion": "x"}, "prompt: got 3; expected a text"),
        ({"chosen": "a", "rejected": "b"}, "prompt: got None, and chosen and rejected are no chats"),
        (
            {"chosen": [USER, REPLY], "rejected": [{"role": "user", "content": "no"}, NO]},
            "two chats that differ before",
        ),
        ({"instruction": "x", "output": 3}, "output: got 3; expected a text"),
        ({"text": ""}, "text: got ''; expected a text that is not empty"),
    ],
)
def test_a_malformed_row_of_another_kind_names_line_and_column(tmp_path, row, message):
    told = refusal(tmp_path, row)
    assert "mine.jsonl:1: " in told
    assert message in told


def test_pairs_that_are_equal_are_counted(tmp_path, caplog):
    load(tmp_path, {"chosen": [USER, REPLY], "rejected": [USER, REPLY]})
    assert "rejected: 1 of 1 are the same text as their solution" in caplog.text


# Formats


ROWS = [{"prompt": "3+4=", "completion": "7"}, {"prompt": 'a, "b"\nc', "completion": "d"}]


def as_csv(path):
    path.write_text('prompt,completion\r\n3+4=,7\r\n"a, ""b""\nc",d\r\n', encoding="utf-8")


FORMATS = {
    "json": lambda path: path.write_text(json.dumps(ROWS), encoding="utf-8"),
    "jsonl": lambda path: write(path, *ROWS),
    "csv": as_csv,
    "tsv": lambda path: path.write_text('prompt\tcompletion\n3+4=\t7\n"a, ""b""\nc"\td\n', encoding="utf-8"),
    "parquet": lambda path: pq.write_table(pa.Table.from_pylist(ROWS), path),
}


@pytest.mark.parametrize("ending", FORMATS)
def test_every_format_gives_the_same_items(tmp_path, ending):
    path = tmp_path / f"mine.{ending}"
    FORMATS[ending](path)
    task = load_task(str(path))
    assert task.name == "mine"
    assert [(item.prompt, item.completion) for item in task.train] == [("3+4=", " 7"), ('a, "b"\nc', " d")]


def test_chats_of_a_table_lose_the_gaps_that_tables_fill_in(tmp_path):
    said = [USER, {"role": "assistant", "content": "", "tool_calls": [CALL]}, {"role": "tool", "content": "7"}, REPLY]
    path = tmp_path / "mine.parquet"
    pq.write_table(pa.Table.from_pylist([{"messages": said}]), path)
    (item,) = load_task(str(path)).train
    assert "tool_calls" not in item.solved.messages[0]
    table = tmp_path / "mine.csv"
    table.write_text('messages\n"' + json.dumps([USER, REPLY]).replace('"', '""') + '"\n')
    assert [dict(one) for one in load_task(str(table)).train[0].solved.messages] == [USER, REPLY]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "prompt,completion\na,b\nc\n", "a.csv:3: got 1 cells; expected 2, as in the first line"),
        ("a.csv", 'prompt,completion\n"a\nb",c\nd,e,f\n', "a.csv:4: got 3 cells; expected 2"),
        ("a.csv", 'prompt,completion\n"a', "a.csv:2: no CSV (unexpected end of data)"),
        ("a.csv", "prompt,prompt\na,b\n", "a.csv:1: got ['prompt', 'prompt']; expected a first line"),
        ("a.csv", "prompt,completion\na,\nb,c\n", "a.csv:2: completion: got None in a row with"),
        ("a.json", '{"prompt": "x"}', "a.json: got {'prompt': 'x'}; expected a list of objects"),
        ("a.json", '[{"prompt": "x", "completion": 3}]', "a.json:row 1: completion: got 3; expected a text"),
        ("a.parquet", "PAR1", "a.parquet: not a readable Parquet file"),
        ("b.parquet", None, "b.parquet: no such file"),
        ("b.csv", None, "b.csv: no such file"),
    ],
)
def test_a_malformed_file_names_its_place(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(BadInput) as caught:
        load_task(str(tmp_path / name))
    assert message in str(caught.value)


# The hub


def test_names_of_the_hub():
    assert hub_name("hub:a/b") == HubName("a/b", None, "train")
    assert hub_name("hub:a/b:test_sft") == HubName("a/b", None, "test_sft")
    assert hub_name("hub:a/b:main") == HubName("a/b", "main", "train")
    assert hub_name("hub:a/b:main:test") == HubName("a/b", "main", "test")
    for odd in ("hub:", "hub:a/", "hub:a/b:c:d:e", "hub:a/b/c"):
        with pytest.raises(BadInput, match="expected hub:owner/name"):
            hub_name(odd)


def test_rows_of_the_hub_are_read_as_a_file_is(monkeypatch):
    asked = []

    def load_dataset(*args, **options):
        asked.append((args, options))
        return [{"messages": [USER, REPLY]}]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    task = load_task("hub:owner/chats:main:train_sft")
    assert asked == [(("owner/chats", "main"), {"split": "train_sft"})]
    assert (task.name, len(task.train)) == ("owner-chats-main-train_sft", 1)
    assert len(load_task("hub:owner/chats:test_sft").test) == 1


def test_the_hub_that_cannot_be_read_is_one_line(monkeypatch):
    def load_dataset(*args, **options):
        raise ConnectionError("no route\nto host")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(
        BadInput, match=r"hub:a/b: a/b could not be read from the hub \(no route\); expected its name and split"
    ):
        load_task("hub:a/b")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(BadInput, match="'datasets' is not installed; expected it, to read the hub; pip install"):
        load_task("hub:a/b")


# Flags and study files


def test_data_may_be_rows_or_the_folder_of_the_official_files(tmp_path, monkeypatch):
    monkeypatch.delenv("STATESHAPE_DATA", raising=False)
    assert task_and_folder(None, "mine.csv") == ("mine.csv", None)
    assert task_and_folder("gsm8k", str(tmp_path)) == ("gsm8k", Path(tmp_path))
    for task, data, message in (("gsm8k", "a.csv", "together with --task"), (None, None, "task: got none")):
        with pytest.raises(BadInput, match=message):
            task_and_folder(task, data)


def study(**run):
    return StudyFile(
        study="a",
        model="embedded",
        target=TaskChoice(task="arithmetic"),
        retention=[],
        runs={"one": RunChoice(recipe="sft", **run)},
    )


def test_a_plan_knows_how_rows_are_read():
    plain, again = make_plan(study(data="a.csv")), make_plan(study(data="a.csv", read=Reading()))
    other = make_plan(study(data="a.csv", read=Reading(turns="last")))
    assert plain.sha256 == again.sha256 != other.sha256
    with pytest.raises(BadInput, match=r"runs.one.read: got some without data"):
        make_plan(study(read=Reading(turns="last")))


def test_columns_of_a_task_that_has_its_own_are_refused():
    with pytest.raises(BadInput, match="task: got arithmetic with columns"):
        load_task("arithmetic", reading=Reading(turns="last"))
