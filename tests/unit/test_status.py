"""Lag from offsets, workers from their notes, and what the API leaves out."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from streams import status


@pytest.mark.parametrize(
    ("offsets", "ends", "lag"),
    [
        ({("t", 0): 5}, {("t", 0): (0, 9)}, {"t": 4}),
        ({("t", 0): 5, ("t", 1): 2}, {("t", 0): (0, 9), ("t", 1): (0, 2)}, {"t": 4}),
        # A partition without a position is read from its beginning.
        ({("t", 0): 9}, {("t", 0): (0, 9), ("t", 1): (3, 10)}, {"t": 7}),
        # What retention took away can no longer be behind.
        ({("t", 0): 1}, {("t", 0): (6, 9)}, {"t": 3}),
        # The topic was made anew: nothing is negative.
        ({("t", 0): 50}, {("t", 0): (0, 2)}, {"t": 0}),
        # Topics that this consumer does not read do not count.
        ({("t", 0): 1}, {("t", 0): (0, 1), ("u", 0): (0, 7)}, {"t": 0}),
        ({("gone", 0): 1}, {}, {}),
    ],
)
def test_lag(offsets, ends, lag):
    assert status.behind(offsets, ends) == lag


def test_workers_are_those_that_live(tmp_path):
    assert status.workers(tmp_path, {}) == []
    status.note_worker(tmp_path, ["plan", "apply"])
    ours = {"pid": os.getpid(), "roles": ["plan", "apply"]}
    notes = tmp_path / "run" / "workers"
    (notes / "broken.json").write_text("{")
    (notes / "1.json").write_text(json.dumps({"pid": 1, "roles": [], "started": 0.5}))  # the number went to another
    assert status.workers(tmp_path, {}) == [ours]
    assert status.workers(tmp_path, {"worker": {"pid": os.getpid()}}) == [ours]
    assert status.workers(tmp_path, {"worker": {"pid": 77}}) == [ours, {"pid": 77, "roles": []}]


def test_notes_of_the_dead_are_taken_away(tmp_path):
    script = (
        "import sys; from pathlib import Path; from streams import status; status.note_worker(Path(sys.argv[1]), [])"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
    notes = tmp_path / "run" / "workers"
    assert len(list(notes.iterdir())) == 1
    assert status.workers(tmp_path, {}) == []
    status.note_worker(tmp_path, [])
    assert [note.stem for note in notes.iterdir()] == [str(os.getpid())]


def test_the_api_tells_no_credential_and_no_place():
    told = {
        "home": "/secret/home", "org": "o", "postgres": {"dsn": "postgresql://u:secret@h"}, "kafka": {},
        "connect": {}, "registry": {}, "gateway": {"url": "u", "token": "secret"}, "workers": [{"pid": 1}],
        "components": {"kafka": {"state": "ready", "pid": 4, "log": "/secret/log"}}, "connections": [],
        "dead_letters": 0, "conflicts": {}, "reviews": {}, "lag": {}, "unreachable": {},
    }  # fmt: skip
    shown = status.for_api(told)
    assert "secret" not in str(shown)
    assert (shown["components"], shown["workers"]) == ({"kafka": "ready"}, 1)
