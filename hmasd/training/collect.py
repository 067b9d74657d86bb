"""One lock-step of collection: only what the next action needs happens here."""

from __future__ import annotations

from hmasd.agent import HMASDAgent
from hmasd.envs.base import BatchedEnv
from hmasd.types import EnvStep, EnvView


def collect_step(agent: HMASDAgent, env: BatchedEnv, view: EnvView) -> EnvStep:
    """Act, step, store; view: what the envs show now. Returns what they answered."""
    seen = agent.observe(view)
    acting = agent.act(seen)
    step = env.step(acting.action.cpu().numpy())
    agent.store_transition(seen, acting, step)
    return step
