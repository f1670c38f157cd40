"""Reads back what loggers wrote, from the files alone: offline wandb runs and TensorBoard event files."""

import json
import struct
import time
from pathlib import Path


def wandb_records(run_folder):
    """The records of the one offline run under ``run_folder``.

    ``wandb.finish`` returns a little before its service has written the last of them, which is the exit record.
    """
    (path,) = Path(run_folder).rglob("offline-run-*/run-*.wandb")
    deadline = time.monotonic() + 10
    records = _parse(path.read_bytes())
    while not any(record.HasField("exit") for record in records) and time.monotonic() < deadline:
        time.sleep(0.02)
        records = _parse(path.read_bytes())
    return records


def wandb_history(run_folder):
    """The rows that were logged, in order, each a dictionary; nested keys are joined by dots."""
    rows = [record.history.item for record in wandb_records(run_folder) if record.HasField("history")]
    return [_items(row) for row in rows]


def wandb_summary(run_folder):
    """The last value of each key."""
    summary = {}
    for record in wandb_records(run_folder):
        if record.HasField("summary"):
            summary |= _items(record.summary.update)
    return summary


def wandb_tables(run_folder):
    """The tables' files, parsed, by the name under which they were logged, the last of each name."""
    return {key: json.loads(path.read_text()) for key, path in _media(run_folder, "table-file").items()}


def wandb_images(run_folder):
    """The images' files by the name under which they were logged, the last of each name."""
    return _media(run_folder, "image-file")


def tensorboard_events(log_dir):
    """What an event folder holds, as TensorBoard's own reader sees it, with nothing sampled away."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    keep_all = {"scalars": 0, "histograms": 0, "images": 0, "tensors": 0}
    return EventAccumulator(str(log_dir), size_guidance=keep_all).Reload()


def _parse(log):
    """The messages of a LevelDB-style log: blocks of 32 KiB with pieces of records, the file's own header first."""
    from wandb.proto.wandb_internal_pb2 import Record

    position, message, records = 7, b"", []
    while position + 7 <= len(log):
        left = 32768 - position % 32768
        if left < 7:  # what is left of a block is too short for a piece's header: padding
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", log[position : position + 7])
        position += 7 + length
        if position > len(log):  # not yet written
            break
        message += log[position - length : position]
        if kind in (1, 4):  # FULL or LAST; FIRST is 2 and MIDDLE 3
            records.append(Record.FromString(message))
            message = b""
    return records


def _items(items):
    return {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}


def _media(run_folder, kind):
    (files,) = Path(run_folder).rglob("offline-run-*/files")
    paths = {}
    for row in wandb_history(run_folder):
        names = [key.removesuffix("._type") for key, value in row.items() if key.endswith("._type") and value == kind]
        paths |= {name: files / row[f"{name}.path"] for name in names}
    return paths
