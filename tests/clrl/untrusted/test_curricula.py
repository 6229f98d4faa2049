"""Curriculum files that others made."""

import json
import os
from pathlib import Path

import pytest

from tests.clrl import forgery
from tests.clrl.forgery import NOT_JSON, NOT_PLAIN
from tests.clrl.untrusted.conftest import refused

TABLES: dict[str, bytes] = {
    "toml that spawns": b'skills = [{id = "subprocess:Popen", args = ["mkdir", "MARKER"]}]',
    "toml that calls": b'skills = [{id = "os:system", command = "mkdir MARKER"}]',
    "toml without end": b"a = " + b"[" * 100_000,
    "deep toml keys": b".".join([b"a"] * 50_000) + b" = 1",
    "toml with a key twice": b"name = 'a'\nname = 'b'\nskills = []",
    "toml with NaN": b'skills = [{id = "arm-reach", horizon = nan}]',
    "toml with infinity": b'skills = [{id = "arm-reach", steps = inf}]',
    "toml with a huge integer": b'skills = [{id = "arm-reach", steps = ' + b"9" * 4000 + b"}]",
    "toml that is no text": b"\xff\xfe\x00",
    "toml with dates": b'skills = [{id = "arm-reach", name = 2020-01-01}]',
}


@pytest.mark.parametrize("content", [*TABLES, *NOT_JSON, "pickle", "zip"])
def test_a_curriculum_file_of_others_runs_nothing(
    content: str, tmp_path: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    others = {"pickle": forgery.pickled(marker), "zip": forgery.zipped(marker)}
    data = (TABLES | NOT_JSON | others)[content].replace(b"MARKER", str(marker).encode())
    for suffix in ("toml", "json"):
        file = tmp_path / f"mine.{suffix}"
        file.write_bytes(data)
        line = refused(capsys, marker, "train", str(file), "--out", str(tmp_path / "made"))
        assert str(file) in line
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("how", ["pipe", "endless device", "folder", "terabyte"])
def test_what_is_no_plain_curriculum_file_is_refused(
    how: str, tmp_path: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    NOT_PLAIN[how](tmp_path / "mine.toml")
    refused(capsys, marker, "train", str(tmp_path / "mine.toml"))


def test_a_model_file_that_never_ends_is_refused(
    tmp_path: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "ant.xml")
    skill = {"id": "Ant-v5", "env_kwargs": {"xml_file": str(tmp_path / "ant.xml")}}
    (tmp_path / "mine.json").write_text(json.dumps({"skills": [skill]}))
    assert "is not a plain file" in refused(capsys, marker, "train", str(tmp_path / "mine.json"))
