"""Curves, hyperparameters and the verdict as TensorBoard event files: tensorboard --logdir <home>/tensorboard."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from tensorboard.compat.proto import event_pb2, summary_pb2, types_pb2
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.plugins.scalar.metadata import create_summary_metadata
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.event_file_writer import EventFileWriter


class TensorBoard:
    def __init__(self, job: dict[str, Any], home: Path) -> None:
        from regimes.study.foreign.event_files import last_step

        folder = home / "tensorboard" / job["name"]
        folder.mkdir(parents=True, exist_ok=True)
        marker, before = folder / ".run", any(folder.glob("*tfevents*"))
        same = marker.exists() and marker.read_text() == job["id"]
        # Of the last point a kill may have left half: it is written again. Another run of this name begins at 0.
        self.last = last_step(folder) - 1 if before and same else -1
        marker.write_text(job["id"])
        self.writer = EventFileWriter(str(folder))
        if before:
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._add(event_pb2.Event(step=self.last + 1, session_log=start))
        self._add(event_pb2.Event(summary=hparams_pb(job["config"], trial_id=job["id"])))

    def _add(self, event: Any) -> None:
        event.wall_time = time.time()
        self.writer.add_event(event)

    def log(self, points: list[Any]) -> None:
        # In 32 bits: TensorBoard's own server, in its usual fast mode, shows no curve of 64-bit numbers.
        for at, values in points:
            made = [
                summary_pb2.Summary.Value(
                    tag=name, metadata=create_summary_metadata("", ""),
                    tensor=TensorProto(dtype=types_pb2.DT_FLOAT, float_val=[value]),
                )
                for name, value in values.items()
            ]  # fmt: skip
            self._add(event_pb2.Event(step=at, summary=summary_pb2.Summary(value=made)))
        self.writer.flush()

    def table(self, columns: list[str], rows: list[list[Any]], sentence: str) -> None:
        lines = [columns, ["---"] * len(columns), *rows]
        text = "\n".join([sentence, "", *("|" + "|".join(map(str, line)) + "|" for line in lines)])
        self._add(event_pb2.Event(summary=text_pb("verdict", text)))

    def close(self, finished: bool) -> None:
        if finished:
            end = plugin_data_pb2.SessionEndInfo(status=api_pb2.STATUS_SUCCESS, end_time_secs=time.time())
            about = metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(session_end_info=end))
            told = summary_pb2.Summary.Value(
                tag=metadata.SESSION_END_INFO_TAG, metadata=about, tensor=metadata.NULL_TENSOR
            )
            self._add(event_pb2.Event(summary=summary_pb2.Summary(value=[told])))
        self.writer.close()
