"""The table at the end, from the stages' files: measurements, floors, and where the rest of the time went. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

HEAD = ("stage", "what", "seconds", "memory floor s", "compute floor s", "result", "largest causes of the gap")
Content = dict[str, Any]


def write_table(stages: Sequence[Content], path: Path) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text("\n".join(lines(stages)) + "\n", encoding="utf-8")
    temporary.replace(path)


def lines(stages: Sequence[Content]) -> Iterator[str]:
    origin = next((stage["provenance"] for stage in stages if stage.get("provenance")), {})
    packages = origin.get("packages", {})
    yield (
        f"{origin.get('gpu') or 'no GPU'}, driver {origin.get('driver') or '-'}, torch {packages.get('torch')}, transformers "
        f"{packages.get('transformers')}, revision {origin.get('git_revision')}, {origin.get('date')}"
    )
    yield ""
    for stage in stages:
        reason = f" ({stage['reason']})" if stage.get("reason") else ""
        yield f"- {stage['stage']}: {stage['state']}, {shown(stage.get('seconds'))} s{reason}"
    yield ""
    yield f"| {' | '.join(HEAD)} |"
    yield "|" + "---|" * len(HEAD)
    for stage in stages:
        for row in stage["rows"]:
            cells = (
                stage["stage"],
                what_of(row),
                *(shown(row.get(key)) for key in ("seconds", "memory_floor_s", "compute_floor_s")),
                result_of(row),
                causes(row.get("largest_causes") or []),
            )
            yield f"| {' | '.join(cell.replace('|', '/').replace(chr(10), ' ') for cell in cells)} |"


def what_of(row: Content) -> str:
    names = ("check", "engine", "method", "run", "study", "name", "model", "dtype")
    parts = [str(row[name]) for name in names if row.get(name)]
    parts += [f"{row['rows']} rows"] if "engine" in row else []
    parts += [f"seed {row['seed']}"] if "seed" in row else []
    parts += ["compiled"] if row.get("is_compiled") else []
    parts += ["estimate"] if "estimated_s" in row else []
    return ", ".join(parts)


def result_of(row: Content) -> str:
    if row.get("error"):
        return f"error: {str(row['error'])[:120]}"
    found = []
    if "passed" in row:
        found.append("passed" if row["passed"] else "NOT PASSED")
    for key, unit in RESULTS.items():
        if row.get(key) is not None:
            found.append(f"{shown(row[key])} {unit}")
    return ", ".join(found) or "-"


RESULTS = {
    "tokens_per_s": "tokens/s",
    "mfu_of_training_phase": "MFU",
    "share_of_bandwidth_limit": "of the bandwidth limit",
    "peak_memory_gb": "GB",
    "kl_nats": "nats",
    "mean_ratio": "mean ratio",
    "rows_equal": "rows equal",
    "ratio": "x the peer",
    "share_of_steps": "of the steps",
    "estimated_s": "s estimated",
    "steps": "steps",
}


def causes(found: list[Content]) -> str:
    return (
        ", ".join(
            f"{one['cause']} {one['share_of_gap']:.0%}" if one["share_of_gap"] is not None else one["cause"]
            for one in found
        )
        or "-"
    )


def shown(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, int | float) else "-"
