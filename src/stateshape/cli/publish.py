"""`stateshape publish`: a run as a model with its card, a run's states or a study as a dataset; to a folder or to the hub."""

from __future__ import annotations

import tyro

from stateshape.core.files import BadInput


def publish(
    source: tyro.conf.Positional[str],
    *,
    to: str | None = None,
    hub_model_id: str | None = None,
    hub_dataset_id: str | None = None,
    states: bool = False,
    base_model: str | None = None,
    private: bool = False,
) -> None:
    """Publish a run as a model with its card, or a run's states or a study as a dataset: on the hub, or as a folder.

    The card says what changed against the base, with intervals and verdicts where the run belongs to a study, and gives the
    command as it was typed.

    Args:
        source: A finished run's folder, or a study's.
        to: Write the files to this new folder instead of the hub: no network is used.
        hub_model_id: owner/name of the model on the hub.
        hub_dataset_id: owner/name of the dataset on the hub, for states and studies.
        states: Publish the states that the run recorded instead of its weights.
        base_model: Name of the base as others find it, e.g. its hub id. Default: as in the run's record.
        private: Create a private repository on the hub.
    """
    from stateshape.api import publish as publish_to

    if sum(one is not None for one in (to, hub_model_id, hub_dataset_id)) != 1:
        raise BadInput(
            "publish: expected one of --to FOLDER, --hub-model-id OWNER/NAME and --hub-dataset-id OWNER/NAME"
        )
    where = publish_to(
        source, to=to, hub_model_id=hub_model_id, hub_dataset_id=hub_dataset_id, states=states, base_model=base_model,
        is_private=private,
    )  # fmt: skip
    print(f"published: {where}")
