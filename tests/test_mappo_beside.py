"""Our MAPPO beside those of other systems: each side knows its flags, and is scored alike."""

import sys
from pathlib import Path

import pytest

from benchmarks import mappo_beside
from hmasd import cli
from tests.helpers.typed_commands import own_flags


@pytest.mark.parametrize("name", list(mappo_beside.MATCHES))
def test_both_sides_of_a_match_know_their_flags(name, tmp_path, monkeypatch):
    """Training takes ours; the other side's program declares theirs (it needs its own packages)."""
    seen = {}

    def run(python, script, flags, folder):
        seen[script.name] = [str(word) for k, x in flags.items() for word in (f"--{k}", x)]
        (folder / "runs/x").mkdir(parents=True)
        (folder / "runs/x/metrics.jsonl").write_text('{"rollout/return": -2.0}\n')
        return '{"reward_last_tenth": -0.5}\n'

    monkeypatch.setattr(mappo_beside, "_run", run)
    match = mappo_beside.MATCHES[name]
    assert mappo_beside.our_return(match, 3, 20, tmp_path / "ours") == -2.0
    theirs = mappo_beside.their_return(match, 3, 20, tmp_path / "theirs", "python")
    assert theirs == -0.5 * match.episode
    config = cli.load_config(seen["train_sync_enhanced.py"])
    assert (config.seed, config.total_steps) == (3, 20 * match.num_envs * match.episode)
    source = (Path(mappo_beside.__file__).parent / match.program).read_text()
    flags = {word[2:] for word in seen[match.program] if word.startswith("--")}
    assert flags <= own_flags(source)


PROGRAM_OF_JAXMARL = """
import sys
import wandb

words = dict(word.split("=") for word in sys.argv[1:])
total, envs, steps, seed = (
    int(words[name]) for name in ("TOTAL_TIMESTEPS", "NUM_ENVS", "NUM_STEPS", "SEED")
)
assert words["+ENV_KWARGS.max_steps"] == "24"  # its games end one step after that
if __name__ == "__main__":
    wandb.init(project="jaxmarl", mode="online")
    for update in reversed(range(total // envs // steps)):  # callbacks come in any order
        row = {"returns": -3 * (update + 100 * seed), "env_step": update * envs * steps}
        wandb.log(row)
    print("done")
"""


@pytest.mark.parametrize(("words", "last_tenth"), [("", 18.5), ("NUM_ENVS=64 LR=0.1", 37.5)])
def test_jaxmarls_own_program_is_run_as_it_is(words, last_tenth, tmp_path, monkeypatch, capsys):
    """Its own command line; wandb's place is taken; what it tells is of three agents together."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM_OF_JAXMARL)
    monkeypatch.setattr(mappo_beside, "our_return", lambda match, seed, *_: -10.0 * seed)
    command = f"x jaxmarl_own --seeds 2 --rounds 20 --out {tmp_path / 'out'} --baseline {program}"
    monkeypatch.setattr(sys, "argv", [*command.split(), "--overrides", words])
    mappo_beside.main()
    printed = capsys.readouterr().out
    for seed in (1, 2):
        score = -(last_tenth + 100 * seed)
        assert f"seed {seed}: hmasd {-10 * seed:.2f}, jaxmarl_own {score:.2f}\n" in printed
    assert "ours is better in 100%" in printed


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("jaxmarl_own", "jaxmarl_own needs --baseline"),
        ("jaxmarl_own --baseline not/there.py", "jaxmarl_own needs --baseline"),
        ("jaxmarl --overrides LR=1", "--baseline and --overrides are for jaxmarl_own"),
    ],
)
def test_only_jaxmarls_own_program_is_named(words, problem, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["x", *words.split(), "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit):
        mappo_beside.main()
    assert problem in capsys.readouterr().err
