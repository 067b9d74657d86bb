"""`hmasd COMMAND`: the right command runs, and a wrong one is explained."""

import importlib

import pytest

from hmasd import commands


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_every_command_has_a_main_and_a_help(name, capsys):
    assert callable(importlib.import_module(commands.COMMANDS[name].module).main)
    assert commands.main([name, "--help"]) == 0
    assert "usage" in capsys.readouterr().out.lower()


def test_a_command_gets_its_words_and_gives_its_exit_code(monkeypatch):
    seen = []
    module = importlib.import_module("hmasd.cli")
    monkeypatch.setattr(module, "main", lambda words: seen.append(words) or 7)
    assert commands.main(["train", "--seed", "3"]) == 7
    assert seen == [["--seed", "3"]]


def test_an_unknown_command_names_the_nearest(capsys):
    assert commands.main(["trainn"]) == 2
    assert "'train'" in capsys.readouterr().err


def test_without_words_the_commands_are_listed(capsys):
    assert commands.main([]) == 2
    told = capsys.readouterr().out
    assert all(name in told for name in commands.COMMANDS)
