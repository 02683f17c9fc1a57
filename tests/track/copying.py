"""A tracker that writes lines into a file, and fails, hangs or dies where the environment tells it to."""

import json
import os
import time


class Copying:
    def __init__(self, job, home):
        self.file = home / f"{job['name']}.told"
        old = [json.loads(line) for line in self.file.read_text().splitlines()] if self.file.exists() else []
        self.last = max((line["at"] for line in old if "at" in line), default=-1)
        self._write({"job": job})

    def _write(self, line):
        with self.file.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def log(self, points):
        for at, values in points:
            if at >= int(os.environ.get("COPYING_FAILS_AT", "1000000")):
                raise ConnectionError("the server is gone")
            if at >= int(os.environ.get("COPYING_HANGS_AT", "1000000")):
                time.sleep(600)
            if at >= int(os.environ.get("COPYING_DIES_AT", "1000000")):
                os._exit(7)
            self._write({"at": at, "values": values})

    def table(self, columns, rows, sentence):
        self._write({"columns": columns, "rows": rows, "sentence": sentence})

    def close(self, finished):
        self._write({"closed": finished})
