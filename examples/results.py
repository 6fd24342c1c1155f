"""Results of many runs, kept in a JSON file: a table that was stopped goes on with the runs it has."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Key = Mapping[str, str | int]


class Results:
    """Results by key, written to a file after each.

    Settings are what all of them share. A file with other settings is an error, as its results would not
    belong in one table. The file is read again before it is written, so that processes with different keys
    may share it. Without a path, results are kept in memory.
    """

    def __init__(self, path: Path | None, settings: Mapping[str, Any]):
        self.path = path
        self.settings: dict[str, Any] = json.loads(json.dumps(settings))
        self.runs: list[dict[str, Any]] = []
        self.read()

    def read(self) -> None:
        """Read the file, if there is one."""
        if self.path is None or not self.path.exists():
            return
        try:
            saved = json.loads(self.path.read_text(encoding="utf-8"))
            found, self.runs = saved["settings"], saved["runs"]
        except (ValueError, KeyError, TypeError) as error:
            raise SystemExit(f"{self.path} is no file of results: {error!r}") from error
        other = [
            f"{name} {found.get(name)!r}, now {self.settings.get(name)!r}"
            for name in sorted({*found, *self.settings})
            if found.get(name) != self.settings.get(name)
        ]
        if other:
            raise SystemExit(
                f"{self.path} has results with other settings: {'; '.join(other)}. Name another file"
            )

    def get(self, key: Key) -> dict[str, Any] | None:
        """Return the result of a run, or None if it was not made yet."""
        self.read()
        return next((run for run in self.runs if all(run.get(name) == key[name] for name in key)), None)

    def add(self, key: Key, result: Mapping[str, Any]) -> None:
        """Keep the result of a run, in place of an earlier one, and write the file."""
        earlier = self.get(key)
        if earlier is not None:
            self.runs.remove(earlier)
        self.runs.append({**key, **result})
        if self.path is None:
            return
        # A run that is killed while it writes leaves the former file.
        lines = ",\n".join(f"  {json.dumps(run)}" for run in self.runs)
        unfinished = self.path.with_name(f".{self.path.name}.unfinished")
        unfinished.write_text(
            f'{{"settings": {json.dumps(self.settings)},\n "runs": [\n{lines}\n]}}\n', encoding="utf-8"
        )
        unfinished.replace(self.path)
