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
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hmasd import checkpoint
from hmasd.config import Config
from hmasd.envs.guard import check_step, check_view
from hmasd.envs.registry import make_env
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
from hmasd.training.signals import StopRequest
from hmasd.types import EnvView

logger = logging.getLogger(__name__)


def train(config: Config) -> int:
    """Train from the start, or from --model-path; returns the exit code."""
    torch.set_num_threads(config.threads)
    torch.set_float32_matmul_precision(config.matmul_precision)
    torch.backends.cudnn.allow_tf32 = config.matmul_precision != "highest"  # in its GRU, too
    keep_freed_memory()
    return Trainer(config).run()


class Trainer:
    """One training run: the agent, its envs, and what is written about them."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.env = make_env(config.env, config.num_envs, config.episode_length, config.env_options)
        self.agent = make_agent(config, self.env)
        self.episodes = EpisodeTracker(config.num_envs)
        self.timers = Timers()
        self.stop = StopRequest()
        self.last_checkpoint: str | None = None
        content = None
        if config.model_path is None:
            self.view = self.env.reset(config.seed)
            self.run_dir = make_run_folder(config)
        else:
            content = self._restore(Path(config.model_path))
            self.run_dir = open_run_folder(config, content["run_name"], self.agent.env_steps)
        set_up_logging(Path(config.output_dir), self.run_dir.name, config.log_level)
        logger.info("%s at %d env steps", self.run_dir.name, self.agent.env_steps)
        for note in getattr(self.env, "notes", ()):  # what an adapter did to make a game fit
            logger.warning("%s: %s", config.env, note)
        check_view(self.view, self.agent.env_steps // config.num_envs)
        waiting = waiting_policies(self.run_dir, self.agent.steps_learned)
        self.metrics_log = MetricsLog(
            self.run_dir,
            Path(config.output_dir) / "tf-logs" / self.run_dir.name,
            None if content is None else self.agent.steps_learned,
            waiting,
        )
        self.evaluator = make_evaluator(config, self.run_dir, self.metrics_log, waiting)

    def run(self) -> int:
        """Rounds until `total_steps` or a signal; returns the exit code."""
        agent, config = self.agent, self.config
        progress = Progress(config.total_steps, agent.env_steps)
        evaluating = contextlib.closing(self.evaluator)
        with contextlib.closing(self.env), self.stop, self.metrics_log, progress, evaluating:
            while not self._finished():
                with self.timers("collect"):
                    self._collect_round()
                if self.stop.signal:
                    break
                with self.timers("update"):
                    metrics = agent.sync_update()
                samples = int(metrics["Sync/BatchSize"])
                metrics |= self.episodes.metrics() | self._speed(samples)
                metrics |= self._evaluation(samples)
                self.metrics_log.write(metrics, agent.env_steps)
                logger.debug("%d env steps: %s", agent.env_steps, metrics)
                progress.update(
                    metrics, agent.env_steps, agent.policy_version, self.last_checkpoint
                )
            self._save(None if self._finished() else agent.env_steps)
            progress.update({}, agent.env_steps, agent.policy_version, self.last_checkpoint)
            self.evaluator.finish(agent.env_steps, lambda: self.stop.signal is not None)
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
        }

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
        """Write a checkpoint; env_steps None: the final one."""
        self.metrics_log.sync()
        path = checkpoint.checkpoint_path(Path(self.config.output_dir) / "models", env_steps)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.agent.save_model(
            path,
            config=dataclasses.asdict(self.config),
            run_name=self.run_dir.name,
            env={name: torch.from_numpy(x.copy()) for name, x in self.env.get_state().items()},
            view={k: torch.from_numpy(x.copy()) for k, x in _present(self.view).items()},
            episodes=self.episodes.state_dict(),
        )
        self.last_checkpoint = str(path)
        logger.info("saved %s", path)

    def _restore(self, path: Path) -> dict[str, Any]:
        """Take everything over from a checkpoint; returns its content."""
        content = checkpoint.load(path)
        if "optimizers" not in content["agent"]:
            raise checkpoint.CheckpointError(
                f"{path} holds a policy to play, not a training to go on with: use it with "
                "--eval-only, or give a checkpoint hmasd_sync_enhanced_*.pth"
            )
        self.agent.load_state_dict(content["agent"], content.get("config"))
        self.env.set_state({name: x.numpy() for name, x in content["env"].items()})
        self.view = EnvView(**{name: x.numpy() for name, x in content["view"].items()})
        self.episodes.load_state_dict(content["episodes"])
        self.last_checkpoint = str(path)
        return content


def _present(view: EnvView) -> dict[str, np.ndarray]:
    """The fields that this env has."""
    return {name: x for name, x in view._asdict().items() if x is not None}
