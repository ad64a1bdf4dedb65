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
        "opd_rl": "OPDRL",
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
