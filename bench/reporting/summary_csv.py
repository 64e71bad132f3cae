"""The rows of a summary as CSV, one line a cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.experiment import CALIBRATION, Cell
from bench.reporting.summary import Row
from bench.runs import mean
from bench.stats import Interval


def to_csv(rows: Sequence[Row]) -> str:
    """The rows as CSV; ``docs/records.md`` lists the columns."""
    import pandas as pd  # takes a while, and the command line imports this module

    frame = pd.DataFrame([_columns(row) for row in rows], columns=list(_columns(_EMPTY)), dtype=object)
    flags = frame.map(lambda value: {True: "yes", False: "no"}[value] if isinstance(value, bool) else value)
    return flags.to_csv(index=False, float_format="%.9g", lineterminator="\n")


_EMPTY = Row("", Cell(dataset="", backend="", protocol="", mode="load"), "", "", 0, 0)


def _columns(row: Row) -> Mapping[str, object]:
    cell = row.cell.model_dump(include=set(Cell.model_fields) - {"dataset", *CALIBRATION})
    return {
        "dataset": row.dataset,
        **cell,
        "device": row.device,
        "threads": row.threads,
        "status": row.status,
        "reason": row.reason,
        "runs": row.runs,
        "rounds": row.rounds,
        **_bounds("epoch_seconds", row.epoch),
        "first_epoch_seconds": row.first_epoch_seconds,
        "first_batch_seconds": row.first_batch_seconds,
        "wait_seconds": row.wait_seconds,
        "copy_seconds": row.copy_seconds,
        "step_seconds": row.step_seconds,
        "wait_share": row.share(row.wait_seconds),
        "copy_share": row.share(row.copy_seconds),
        "step_share": row.share(row.step_seconds),
        "images_per_second": row.images_per_second,
        "load_images_per_second": row.load_images_per_second,
        **_bounds("accuracy", row.accuracy),
        "macro_f1_mean": row.macro_f1,
        **_bounds("loading_seconds_per_image", row.held.time),
        **_bounds("alone_seconds_per_image", row.held.alone),
        **_bounds("estimated_epoch_seconds", row.held.epoch),
        **_bounds("loading_cost", row.held.cost),
        **_bounds("slowdown", row.held.slowdown),
        "break_even_images_per_second": row.break_even,
        "predicted_images_per_second": row.predicted,
        **_bounds("memory_ratio", row.memory_ratio),
        "tied_with_row_above": row.tied_above,
        "tied_with_fastest": row.tied_best,
        "rounds_needed": row.rounds_needed,
        "train_images": row.train_images,
        "val_images": row.val_images,
        "store_bytes": row.store_bytes,
        "pack_seconds": row.pack_seconds,
        "peak_pss_bytes_mean": mean(row.pss_bytes.values()),
        "cpu_seconds_mean": row.cpu_seconds,
        "bytes_read_mean": row.bytes_read,
        "gpu_utilisation_mean": row.gpu_utilisation,
        "read_bytes_per_second": row.read_bytes_per_second,
        "resident": row.resident,
        "not_cold": row.not_cold,
        "disturbed": row.disturbed,
        "path_taken": row.path_taken,
        "declared": ";".join(promise for promise, _ in row.differences),
        "order_distance": row.order_distance,
        "order_tolerance": row.order_tolerance,
        "class_mix": row.class_mix,
        "content_sha256": row.content_sha256,
        "warnings": ";".join(sorted({doubt.kind for doubt in row.doubts})),
    }


def _bounds(name: str, interval: Interval | None) -> dict[str, float | None]:
    if interval is None:
        return dict.fromkeys((f"{name}_mean", f"{name}_low", f"{name}_high"))
    return {f"{name}_mean": interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
