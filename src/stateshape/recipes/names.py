"""The recipes that ship with the package, by name."""

from __future__ import annotations

from collections.abc import Mapping

BUILT_IN: Mapping[str, str] = {
    name: f"stateshape.recipes.{name}:{class_name}"
    for name, class_name in {
        "sft": "SFT",
        "kd": "KD",
        "continuation_on_data": "ContinuationOnData",
        "dpo": "DPO",
        "seq_kd": "SeqKD",
        "kd_on_teacher": "KDOnTeacher",
        "continuation_on_teacher": "ContinuationOnTeacher",
        "opd": "OPD",
        "opd_logp": "OPDLogProb",
        "opd_continuation": "OPDContinuation",
        "self_continuation": "SelfContinuation",
        "grpo": "GRPO",
        "rft": "RFT",
        "online_dpo": "OnlineDPO",
        "sdft": "SDFT",
        "gkd": "GKD",
        "dagger": "DAgger",
        "grpo_opd": "GRPOPlusOPD",
        "opd_sft": "OPDPlusSFT",
        "replay": "Replay",
    }.items()
}

# Earlier names. Command lines, study files and the records of begun folders go on saying them, and a plan's checksum is of
# the name as it is written there.
ALIASES: Mapping[str, str] = {"opd_rl": "opd_logp"}


def built_in_path(name: str) -> str | None:
    """module:Class of a built-in recipe, by its name or an earlier one; None if there is none."""
    return BUILT_IN.get(ALIASES.get(name, name))
