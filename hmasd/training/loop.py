"""The training loop, and the words that it uses.

step        one step of one env with all its agents; one sample of the low level
lock-step   one step of all envs at once
round       `batch_size` samples (more by `batch_schedule`), collected by one policy version
segment     from one decision of the coordinator to the next, in one env; a high-level sample
update      the networks learn from the round (the coordinator when it holds enough segments)
episode     from a reset of one env to its termination or truncation
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hmasd import checkpoint
from hmasd.config import Config
from hmasd.distributed import ALONE, Ranks
from hmasd.envs.guard import check_step, check_view
from hmasd.envs.registry import make_env, start_envs
from hmasd.kernels.transfer import to_host
from hmasd.rollout.episodes import EpisodeTracker
from hmasd.telemetry.console import Progress
from hmasd.telemetry.logs import set_up_logging
from hmasd.telemetry.run_folder import make_run_folder, open_run_folder
from hmasd.telemetry.timers import Timers
from hmasd.telemetry.writers import MetricsLog
from hmasd.training.asynchronous import make_agent
from hmasd.training.evaluation import save_policy
from hmasd.training.evaluator import make_evaluator, waiting_policies
from hmasd.training.memory import keep_freed_memory
from hmasd.training.shares import OF_ENVS, OWN, divide, gather, join
from hmasd.training.signals import make_stop_request
from hmasd.training.silent import Silent
from hmasd.types import EnvView

logger = logging.getLogger(__name__)


def train(config: Config, ranks: Ranks = ALONE) -> int:
    """Train from the start, or from --model-path; returns the exit code."""
    torch.set_num_threads(config.threads)
    torch.set_float32_matmul_precision(config.matmul_precision)
    torch.backends.cudnn.allow_tf32 = config.matmul_precision != "highest"  # in its GRU, too
    keep_freed_memory()
    return Trainer(config, ranks).run()


class Trainer:
    """One training run: the agent, its envs, and what is written about them.

    With several ranks each has a trainer of its own for its share of the envs; the first writes.
    """

    def __init__(self, config: Config, ranks: Ranks = ALONE) -> None:
        self.config = config
        self.ranks = ranks
        share = ranks.share(config.num_envs)
        self.env = make_env(config.env, share.size, config.episode_length, config.env_options)
        self.agent = make_agent(config, self.env, ranks)
        self.episodes = EpisodeTracker(share.size, share.first)
        self.timers = Timers()
        self.stop = make_stop_request(ranks)
        self.last_checkpoint: str | None = None
        run_name = None
        if config.model_path is None:
            self.view = start_envs(self.env, config.seed, share)
        else:
            run_name = self._restore(Path(config.model_path))
        check_view(self.view, self.agent.env_steps // config.num_envs)
        self._meet()
        self.metrics_log: Any = Silent()
        self.evaluator: Any = Silent()
        self.progress: Any = Silent()
        if ranks.rank == 0:
            self._open_records(run_name)

    def _meet(self) -> None:
        """See that all ranks are about to do the same.

        Raises:
            RanksError: they have other settings, or go on from another checkpoint.
        """
        settings = json.dumps(dataclasses.asdict(self.config)).encode()
        agreed = (torch.tensor(list(settings)), torch.tensor(self.agent.env_steps))
        self.ranks.check_alike("the settings, or the env steps to go on from,", agreed)

    def _open_records(self, run_name: str | None) -> None:
        """Everything that is written about the run; run_name: of one that goes on."""
        config = self.config
        if run_name is None:
            self.run_dir = make_run_folder(config)
        else:
            self.run_dir = open_run_folder(config, run_name, self.agent.env_steps)
        set_up_logging(Path(config.output_dir), self.run_dir.name, config.log_level)
        logger.info("%s at %d env steps", self.run_dir.name, self.agent.env_steps)
        for note in getattr(self.env, "notes", ()):  # what an adapter did to make a game fit
            logger.warning("%s: %s", config.env, note)
        waiting = waiting_policies(self.run_dir, self.agent.steps_learned)
        self.metrics_log = MetricsLog(
            self.run_dir,
            Path(config.output_dir) / "tf-logs" / self.run_dir.name,
            None if run_name is None else self.agent.steps_learned,
            waiting,
        )
        self.evaluator = make_evaluator(config, self.run_dir, self.metrics_log, waiting)
        self.progress = Progress(config.total_steps, self.agent.env_steps)

    def run(self) -> int:
        """Rounds until `total_steps` or a signal; returns the exit code."""
        agent, progress = self.agent, self.progress
        evaluating = contextlib.closing(self.evaluator)
        with contextlib.closing(self.env), self.stop, self.metrics_log, progress, evaluating:
            while not self._finished():
                self.ranks.note(f"collecting, from env step {agent.env_steps} on")
                with self.timers("collect"):
                    self._collect_round()
                self.stop.agree()
                if self.stop.signal:
                    break
                self.ranks.note(f"updating, at env step {agent.env_steps}")
                with self.timers("update"):
                    metrics = agent.sync_update()
                self._compare_ranks()
                samples = int(metrics["Sync/BatchSize"])
                metrics |= self.episodes.metrics(self.ranks) | self._speed(samples)
                metrics |= self._evaluation(samples)
                self.metrics_log.write(metrics, agent.env_steps)
                logger.debug("%d env steps: %s", agent.env_steps, metrics)
                progress.update(
                    metrics, agent.env_steps, agent.policy_version, self.last_checkpoint
                )
            self._save(None if self._finished() else agent.env_steps)
            progress.update({}, agent.env_steps, agent.policy_version, self.last_checkpoint)
            self.evaluator.finish(agent.env_steps, lambda: self.stop.is_wanted)
        return self.stop.exit_code

    def _finished(self) -> bool:
        """Whether all steps are taken and learned from (a stop may leave a last full round)."""
        agent = self.agent
        return agent.env_steps >= self.config.total_steps and not agent.should_sync_update()

    def _collect_round(self) -> None:
        """Lock-steps until the round is full, or a signal asks to stop."""
        agent = self.agent
        while not agent.should_sync_update() and not self.stop.signal:
            seen = agent.observe(self.view)
            acting = agent.act(seen)
            step = self.env.step(to_host(acting.action).numpy())
            check_step(step, acting.step + 1)
            agent.store_transition(seen, acting, step)
            self.episodes.add(step)
            self.view = step.view
            if self._crossed(self.config.checkpoint_interval, self.config.num_envs):
                self._save(agent.env_steps)

    def _crossed(self, interval: int, steps: int) -> bool:
        """Whether the last `steps` env steps reached a multiple of `interval` (0: never)."""
        now = self.agent.env_steps
        return interval > 0 and now // interval > (now - steps) // interval

    def _speed(self, samples: int) -> dict[str, float]:
        seconds = self.timers.pop()
        collect, update = seconds["collect"], seconds["update"]
        return {
            "Sync/CollectionTime": collect,
            "Sync/UpdateTime": update,
            "time/steps_per_second": samples / (collect + update),
            "time/collect_steps_per_second": samples / collect,
            "time/update_steps_per_second": samples / update,
            **self.ranks.pop_seconds(),
        }

    def _compare_ranks(self) -> None:
        """Stop where a rank has gone astray.

        Raises:
            RanksError: a rank's parameters are not those of the first one.
        """
        interval = self.config.compare_interval
        if interval > 0 and self.agent.policy_version % interval == 0:
            learning, playing = self.agent.networks, self.agent.played
            both = [*learning.state_dict().values(), *playing.state_dict().values()]
            self.ranks.check_alike("the parameters", both)

    def _evaluation(self, samples: int) -> dict[str, float]:
        """Begin an evaluation where the round's samples made one due; what is known of it now."""
        config, steps = self.config, self.agent.env_steps
        at_end = config.eval_interval > 0 and steps >= config.total_steps
        metrics: dict[str, float] = {}
        if self._crossed(config.eval_interval, samples) or at_end:
            metrics = self.evaluator.begin(self.agent)
            if config.keep_policies:
                models = Path(config.output_dir) / "models"
                save_policy(checkpoint.policy_path(models, steps), self.agent)
        return metrics | self.evaluator.look(steps)

    # --- saving -------------------------------------------------------------------------------

    def _save(self, env_steps: int | None) -> None:
        """Write a checkpoint of all ranks; env_steps None: the final one."""
        self.ranks.note(f"saving, at env step {self.agent.env_steps}")
        self.episodes.meet(self.ranks)
        state = self.agent.state_dict()
        parts = gather(
            self.ranks,
            {
                **{name: state[name] for name in OWN},
                "env": {k: torch.from_numpy(x.copy()) for k, x in self.env.get_state().items()},
                "view": {k: torch.from_numpy(x.copy()) for k, x in _present(self.view).items()},
                "episodes": self.episodes.state_dict(),
            },
        )
        path = checkpoint.checkpoint_path(Path(self.config.output_dir) / "models", env_steps)
        if parts:
            self._write(
                path,
                state,
                join(parts, self.config.num_envs, env_divides=self._env_divides),
            )
        self.last_checkpoint = str(path)

    @property
    def _env_divides(self) -> bool:
        """Whether the arrays of the envs' state have a row per env, as with `first_env`."""
        return hasattr(self.env, "first_env")

    def _write(self, path: Path, state: dict[str, Any], own: dict[str, Any]) -> None:
        """Write what all ranks share, from an agent's state, and what they have of their own."""
        self.metrics_log.sync()
        content = {
            "agent": state | {name: own.pop(name) for name in OWN},
            "config": dataclasses.asdict(self.config),
            "run_name": self.run_dir.name,
            **own,
        }
        checkpoint.save(path, content)
        logger.info("saved %s", path)

    def _restore(self, path: Path) -> str:
        """Take everything over from a checkpoint; returns the run's name."""
        content = checkpoint.load(path)
        if "optimizers" not in content["agent"] or not content.keys() >= {*OF_ENVS, "run_name"}:
            raise checkpoint.CheckpointError(
                f"{path} holds an agent without its envs, not a training to go on with: use it "
                "with --eval-only, or give a checkpoint hmasd_sync_enhanced_*.pth"
            )
        state = content["agent"]
        whole = {name: state[name] for name in OWN} | {name: content[name] for name in OF_ENVS}
        own = divide(whole, self.ranks, self.config.num_envs, self._env_divides)
        self.agent.load_state_dict(state | {name: own[name] for name in OWN}, content.get("config"))
        self.env.set_state({name: x.numpy() for name, x in own["env"].items()})
        self.view = EnvView(**{name: x.numpy() for name, x in own["view"].items()})
        self.episodes.load_state_dict(own["episodes"])
        self.last_checkpoint = str(path)
        return content["run_name"]


def _present(view: EnvView) -> dict[str, np.ndarray]:
    """The fields that this env has."""
    return {name: x for name, x in view._asdict().items() if x is not None}
