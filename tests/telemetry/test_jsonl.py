"""The last line of a log, found without reading it all."""

import json

from hmasd.telemetry import jsonl


def test_the_last_whole_line(tmp_path, monkeypatch):
    path = tmp_path / "x.jsonl"
    path.write_text("")
    assert jsonl.last_line(path) is None
    path.write_text("".join(json.dumps({"env_steps": i, "x": "y" * 50}) + "\n" for i in range(9)))
    assert jsonl.last_line(path)["env_steps"] == 8
    with path.open("a") as file:
        file.write('{"env_steps": 9, "x"')  # cut off
    assert jsonl.last_line(path)["env_steps"] == 8
    monkeypatch.setattr(jsonl, "LAST_BYTES", 150)
    assert jsonl.last_line(path)["env_steps"] == 8
    with path.open("ab") as file:
        file.write(b"\n\x00\x00\x00\n[9]\n")  # whole lines, but damaged
    assert jsonl.last_line(path)["env_steps"] == 8
