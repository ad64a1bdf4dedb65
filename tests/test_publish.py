"""What is published: a folder that peft reads with its card, states and studies as datasets; whole or not at all."""

import json
from typing import ClassVar

import httpx
import peft
import pyarrow.parquet as pq
import pytest
import transformers
import yaml

import tiny
from stateshape.cli import main
from stateshape.embedded import base_folder

RUNS = ("tutor: {recipe: sft}", "student: {recipe: opd, teacher: tutor, with: {rollout_tokens: 4}}")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    file = folder / "mine.yaml"
    file.write_text(tiny.study_text(*RUNS))
    assert main(["study", str(file), "--out", str(folder / "out"), "--quiet"]) == 0
    return folder / "out"


@pytest.fixture
def run(study):
    return study / "runs" / "student" / "seed0"


def front_matter(folder):
    _, head, body = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(head), body


def test_a_published_run_is_read_by_peft_and_transformers(run, tmp_path):
    to = tmp_path / "model"
    assert main(["publish", str(run), "--to", str(to), "--base-model", str(base_folder())]) == 0
    model = peft.AutoPeftModelForCausalLM.from_pretrained(str(to))
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(to))
    ids = tokenizer("What is 2 + 2?", return_tensors="pt")
    assert model(**ids).logits.shape[1] == ids["input_ids"].shape[1]
    assert json.loads((to / "stateshape" / "run.json").read_text())["name"] == "student"


def test_a_model_card_has_the_hubs_front_matter_and_what_changed(run, tmp_path):
    main(["publish", str(run), "--to", str(tmp_path / "model"), "--base-model", "owner/base"])
    front, body = front_matter(tmp_path / "model")
    assert front["base_model"] == "owner/base"
    assert front["library_name"] == "peft"
    assert {"stateshape", "lora", "opd"} <= set(front["tags"])
    (index,) = front["model-index"]
    assert {result["dataset"]["name"] for result in index["results"]} == {"arithmetic", "facts"}
    assert "| Arithmetic | " in body
    assert "cannot tell" in body
    assert "| learner | teacher distribution |" in body
    assert (
        json.loads((tmp_path / "model" / "adapter_config.json").read_text())["base_model_name_or_path"] == "owner/base"
    )


def test_a_run_outside_a_study_says_that_nothing_was_measured(tmp_path):
    folder = str(tmp_path / "run")
    train = ["train", "sft", "--model", "embedded", "--task", "arithmetic", "--steps", "1", "--batch-prompts", "2"]
    assert main([*train, "--locality.share", "0", "--out", folder, "--quiet"]) == 0
    assert main(["publish", folder, "--to", str(tmp_path / "model")]) == 0
    front, body = front_matter(tmp_path / "model")
    assert "model-index" not in front
    assert "gains, forgetting and drift are not known" in body


def test_states_are_a_dataset(run, tmp_path):
    assert main(["publish", str(run), "--states", "--to", str(tmp_path / "states")]) == 0
    front, _ = front_matter(tmp_path / "states")
    (files,) = front["configs"]
    assert [pq.read_table(path).num_rows > 0 for path in (tmp_path / "states").glob(files["data_files"])] == [True]


def test_a_study_is_a_dataset_without_weights_and_rollouts(study, tmp_path):
    assert main(["publish", str(study), "--to", str(tmp_path / "study")]) == 0
    front, body = front_matter(tmp_path / "study")
    assert (tmp_path / "study" / front["configs"][0]["data_files"]).exists()
    assert "Table 2" in body or "| Run |" in body
    names = {path.name for path in (tmp_path / "study").iterdir()}
    assert {"README.md", "report.html", "tables", "plots", "verdicts.json", "findings.json", "table2.md"} <= names
    assert not names & {"runs", "manifest.json"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("SOURCE", "expected one of --to FOLDER"),
        ("SOURCE --to OUT --hub-model-id a/b", "expected one of --to FOLDER"),
        ("SOURCE --hub-dataset-id a/b", "expected --hub-model-id: a run is a model"),
        ("STUDY --hub-model-id a/b", "expected --hub-dataset-id: states and studies are datasets"),
        ("STUDY --states --to OUT", "is a study; expected the folder of one of its runs"),
        ("SOURCE --to SOURCE", "is not empty; expected a new or empty folder"),
        ("SOURCE --hub-model-id a/b --base-model OUTSIDE", "expected a name by which others find the base"),
        ("NONE --to OUT", "holds no run.json; expected a finished run's folder"),
    ],
)
def test_what_cannot_be_published_is_refused_in_one_line(study, run, tmp_path, capsys, arguments, message):
    places = {
        "SOURCE": run,
        "STUDY": study,
        "OUT": tmp_path / "out",
        "NONE": tmp_path / "none",
        "OUTSIDE": base_folder(),
    }
    given = [str(places.get(word, word)) for word in arguments.split()]
    assert main(["publish", *given]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_unfinished_run_is_not_published(run, tmp_path, capsys):
    copy = tmp_path / "run"
    copy.mkdir()
    record = json.loads((run / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps(record | {"is_complete": False}))
    assert main(["publish", str(copy), "--to", str(tmp_path / "out")]) == 2
    assert "is not finished" in capsys.readouterr().err


def test_a_folder_that_could_not_be_filled_is_not_left(run, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("stateshape.study.publish.write_text", fail)
    assert main(["publish", str(run), "--to", str(tmp_path / "out")]) == 2
    assert list(tmp_path.iterdir()) == []


class StandIn:
    """The hub, as far as publishing asks for it."""

    calls: ClassVar[list] = []

    def create_repo(self, repository, **named):
        self.calls.append(("create", repository, named))
        return f"https://hub/{repository}"

    def upload_folder(self, *, folder_path, **named):
        self.calls.append(("upload", sorted(path.name for path in folder_path.iterdir()), named))


def test_the_hub_gets_the_same_files(run, monkeypatch, capsys):
    StandIn.calls = []
    monkeypatch.setattr("stateshape.study.publish.HfApi", StandIn)
    assert main(["publish", str(run), "--hub-model-id", "me/student", "--private"]) == 0
    assert capsys.readouterr().out == "published: https://hub/me/student\n"
    (_, repository, created), (_, files, uploaded) = StandIn.calls
    assert (repository, created["private"], created["repo_type"]) == ("me/student", True, "model")
    assert uploaded["repo_id"] == "me/student"
    assert {"README.md", "adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= set(files)


def test_a_hub_out_of_reach_is_one_line(run, monkeypatch, capsys):
    class Unreachable(StandIn):
        def create_repo(self, *_, **__):
            raise httpx.ConnectError("Name or service not known")

    monkeypatch.setattr("stateshape.study.publish.HfApi", Unreachable)
    assert main(["publish", str(run), "--hub-model-id", "me/student"]) == 2
    told = capsys.readouterr().err
    assert "hub: me/student could not be written (Name or service not known)" in told
    assert told.count("\n") == 1
