"""`stateshape train RECIPE`: a recipe's own fields as flags, next to shared settings. No second config class."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import tyro

from stateshape.cli.arguments import RowFlags, check_models, out_folder, task_and_folder
from stateshape.cli.processes import check_processes, is_first
from stateshape.core import layout
from stateshape.core.files import BadInput
from stateshape.core.locks import hold
from stateshape.core.wording import shown

if TYPE_CHECKING:
    from pathlib import Path

    from stateshape.core.records import Operators, RunRecord

ARGS = """
Args:
    recipe: The method's own settings.
    model: 'embedded', a local folder, or a hub id.
    task: Task whose training prompts are used: gsm8k, arithmetic, or rows of your own (docs/guides/your-data.md).
    out: The run folder.
    seed: Seed of data order, adapter initialisation and sampling.
    data: Rows of your own, in place of --task; or the folder with the official files (default: $STATESHAPE_DATA, the hub).
    rows: How rows of your own are read.
    settings: Optimiser, batch size and length of training.
    model_settings: Device, dtype, compilation.
    start: Go on from the adapter of this run or adapter folder, on the same base. Default: a fresh adapter.
    locality: How closely the run is watched while it trains (docs/locality.md).
    sampler: What samples: local, this machine; vllm, the servers (docs/guides/servers.md). Default: vllm where there are some.
    servers: Addresses of vLLM servers, separated by commas.
    along: Keep the adapter at N steps, each half of the next: checkpoint-<step>/ in the run folder. Default: only at the end.
    eval: Evaluate the run while it trains (docs/guides/watch.md).
    report_to: Experiment trackers: tensorboard, trackio, wandb, mlflow. Default: none.
    processes: Train in N processes on this machine, one per GPU, or sharing the cores (docs/guides/data_parallel.md).
    config: YAML file with any of these flags as keys: `lr: 1e-3`, `lora: {rank: 8}`. Flags on the command line win.
    profile: Print time and memory per phase, and write profile.json; adds one step, without its update.
    quiet: No progress output.
    json_events: Report progress as JSON lines on stderr.
"""


def train_overview(recipe: tyro.conf.Positional[str]) -> None:
    """Train one method into a run folder, with LoRA or all parameters. For its flags: stateshape train RECIPE --help.

    Args:
        recipe: A method listed by `stateshape methods`, or your own as package.module:Class or file.py:Class.
    """
    raise BadInput(f"recipe: got {shown(recipe)}; expected it right after train: stateshape train RECIPE --model M ...")


def train_command(name: str) -> Callable[..., None]:
    """A function with the flags of one recipe. Raises BadInput if there is no such recipe."""
    from stateshape.evals.settings import EvalSettings
    from stateshape.locality.settings import LocalitySettings
    from stateshape.policy.settings import ModelSettings
    from stateshape.recipes.recipe import recipe_class
    from stateshape.train.settings import TrainSettings

    flat = tyro.conf.arg(name="")
    recipe_type = recipe_class(name)

    def train(
        *,
        recipe: Any,
        model: str,
        task: str | None = None,
        out: str,
        seed: int = 0,
        data: str | None = None,
        rows: Any = RowFlags(),  # noqa: B008
        settings: Any = TrainSettings(),  # noqa: B008
        model_settings: Any = ModelSettings(),  # noqa: B008
        start: str | None = None,
        locality: Any = LocalitySettings(),  # noqa: B008
        sampler: Literal["local", "vllm"] | None = None,
        servers: str | None = None,
        along: int | None = None,
        eval: Any = EvalSettings(),  # noqa: B008
        report_to: list[str] = [],  # noqa: B006
        processes: int = 1,
        config: str | None = None,  # the parser has read it
        profile: bool = False,
        quiet: bool = False,
        json_events: bool = False,
    ) -> None:
        from stateshape.api import train_run
        from stateshape.cli.terminal import reporter_for

        check_processes(processes)
        check_models(model)
        folder = out_folder(out)
        task_name, data_dir = task_and_folder(task, data)
        operators: Operators | None = {} if profile else None
        reporter = reporter_for(quiet=quiet, json_events=json_events)
        try:
            record = train_run(
                recipe, name=name, model=model, task=task_name, out=folder, seed=seed, data_dir=data_dir,
                settings=settings, model_settings=model_settings, reporter=reporter, operators=operators, along=along,
                reading=rows.reading(),
                start=start,
                locality=locality,
                sampler=sampler or ("local" if servers is None else "vllm"),
                servers=[] if servers is None else servers.split(","),
                evals=eval, report_to=report_to,
            )  # fmt: skip
        finally:
            reporter.stop()
        if is_first():
            tell(record, folder, operators, quiet=quiet)

    train.__doc__ = f"{recipe_type.__doc__}\n\nRun the same command again to resume a stopped run.\n{ARGS}"
    train.__annotations__ = get_type_hints(train, include_extras=True) | {
        "recipe": Annotated[recipe_type, flat],
        "rows": Annotated[RowFlags, flat],
        "settings": Annotated[TrainSettings, flat],
        "locality": LocalitySettings,
        "eval": EvalSettings,
        "model_settings": Annotated[ModelSettings, flat],
    }
    return train


def tell(record: RunRecord, folder: Path, operators: Operators | None, *, quiet: bool) -> None:
    """Prints what the run has cost, and writes down its profile where there is one."""
    from stateshape.cli.costs import time_split, write_profile

    if not quiet:
        print(time_split(record.seconds, record.num_supervised_tokens, record.num_sampled_tokens))
        print(f"run folder: {folder}")
    if operators is not None:
        with hold(folder):
            write_profile(
                folder / layout.PROFILE, record.phases(), operators, provenance=record.provenance, quiet=quiet
            )
