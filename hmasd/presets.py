"""Named settings: whole ones for a task, and changes to stand on them. Data only.

`--preset NAME` chooses one; `--preset paper_3m,mappo` lays the second over the first.
"""

from __future__ import annotations

from typing import Any

NUM_ENVS = 32


def _paper(
    env: str,
    episode_length: int,
    total_steps: int,
    eval_episodes: int,
    learning_rate: float,
    skills: tuple[int, int, int],
    coefs: tuple[float, float, float, float, float],
    *,
    skill_input: str,
    discriminator_epochs: int,
) -> dict[str, Any]:
    """One row of the paper's tables.

    Args:
        env: Name of the environment.
        episode_length: Table 2; a round is one episode length per env.
        total_steps: Table 2.
        eval_episodes: Table 2.
        learning_rate: Table 2.
        skills: Table 3: k, n_Z, n_z.
        coefs: Table 3: λ_h, λ_l, λ_e, λ_D, λ_d.
        skill_input: As in the authors' code.
        discriminator_epochs: As in the authors' code.
    """
    skill_interval, num_team_skills, num_agent_skills = skills
    high_entropy, low_entropy, extrinsic, team, individual = coefs
    return _PAPER_COMMON | {
        "env": env,
        "batch_size": NUM_ENVS * episode_length,
        "total_steps": total_steps,
        "episode_length": episode_length,
        "eval_episodes": eval_episodes,
        "learning_rate": learning_rate,
        "skill_interval": skill_interval,
        "num_team_skills": num_team_skills,
        "num_agent_skills": num_agent_skills,
        "high_entropy_coef": high_entropy,
        "low_entropy_coef": low_entropy,
        "extrinsic_coef": extrinsic,
        "team_coef": team,
        "individual_coef": individual,
        # what one round closes when no episode ends early
        "high_level_batch_size": NUM_ENVS * (episode_length // skill_interval),
        "skill_input": skill_input,
        "discriminator_epochs": discriminator_epochs,
    }


_PAPER_COMMON: dict[str, Any] = {  # Table 1, and what MAPPO's and the authors' code add to it
    "num_envs": NUM_ENVS,
    "hidden_size": 64,
    "adam_eps": 1e-5,
    "coordinator_epochs": 15,
    "discoverer_epochs": 15,
    "clip": 0.2,
    "value_coef": 1.0,
    "gae_lambda": 0.95,
    "gamma": 0.99,
    "huber_delta": 10.0,
    "max_grad_norm": 10.0,
    "chunk_length": 10,
    "coordinator_blocks": 1,
    "coordinator_heads": 1,
    "choice_residual": False,
    "skill_persistence": 0.0,
    "discriminator_rounds": 1,
    "critic_head": "team",
    "skill_gain": 0.01,
    "discriminator_smoothness": 0.0,
    "advantage_floor": 0.0,
    "agent_id": False,
    "reset_hidden_on_skill": False,
    "individual_reward": "log_q",
    "intrinsic_offset": "none",
    "high_discount": "paper",
    "exploration_start": 0,
    "winning_step": 1.0,
    "winning_extrinsic_coef": 0.0,
    "winning_intrinsic": 1.0,
    "winning_sharpness": 1.0,
    "policy_average": 1,
    "losing_entropy": 1.0,
    "discriminator_balance": False,
    "coordinator_kl_limit": 0.0,
}


def _smac(
    name: str, skills: tuple[int, int, int], coefs: tuple[float, float, float, float, float]
) -> dict[str, Any]:
    return _paper(
        name, 100, 2_000_000, 100, 1e-4, skills, coefs, skill_input="input", discriminator_epochs=5
    )


def _overcooked(
    name: str,
    skills: tuple[int, int, int],
    coefs: tuple[float, float, float, float, float],
    discriminator_epochs: int,
) -> dict[str, Any]:
    return _paper(
        name,
        400,
        10_000_000,
        32,
        1e-4,
        skills,
        coefs,
        skill_input="output",
        discriminator_epochs=discriminator_epochs,
    )


_ALICE_AND_BOB = _paper(
    "alice_and_bob",
    100,
    3_000_000,
    100,
    5e-4,
    (50, 2, 4),
    (0.1, 0.01, 0.0, 0.1, 0.2),
    skill_input="output",
    discriminator_epochs=15,
)

_MAPPO: dict[str, Any] = {  # the discoverer with one skill and only the team reward
    "high_level": "random",
    "skill_persistence": 0.0,
    "num_team_skills": 1,
    "num_agent_skills": 1,
    "extrinsic_coef": 1.0,
    "team_coef": 0.0,
    "individual_coef": 0.0,
    "critic_head": "team",
    "skill_gain": 0.01,  # of the only skill: no preference at the start
    "low_entropy_coef": 0.01,
    "winning_step": 1.0,
    "winning_extrinsic_coef": 0.0,
    "winning_sharpness": 1.0,
    "policy_average": 1,
}

CHANGES: dict[str, dict[str, Any]] = {
    # other algorithms, in the same loop
    "mappo": _MAPPO,
    "ippo": _MAPPO | {"critic_input": "obs"},
    "mat": {
        "low_level": "action",
        "num_team_skills": 1,
        "skill_interval": 1,
        "skill_persistence": 0.0,
        "choice_residual": False,
        "high_level_batch_size": 1,  # every round
        "high_entropy_coef": 0.01,
        "advantage_floor": 0.0,
        "exploration_start": 0,
        "winning_step": 1.0,
        "policy_average": 1,
        "losing_entropy": 1.0,
        "coordinator_kl_limit": 0.0,
    },
    # the paper's ablations; on Alice_and_Bob its own setting already has lambda_e = 0
    "no_team_skill": {"num_team_skills": 1, "team_coef": 0.0},
    "no_individual_skill": {"num_agent_skills": 1, "individual_coef": 0.0},
    "no_extrinsic": {
        "extrinsic_coef": 0.0,
        "winning_extrinsic_coef": 0.0,
        "winning_intrinsic": 1.0,
    },
    "no_intrinsic": {
        "extrinsic_coef": 1.0,
        "winning_extrinsic_coef": 0.0,
        "team_coef": 0.0,
        "individual_coef": 0.0,
    },
    # the guide's "original version": small batches of several policy versions, 32 steps in a row
    "asynchronous": {"sync_mode": False, "batch_size": 128, "chunk_length": 32},
    # as long as any episode: one choice at its start
    "no_high_level": {"high_level": "random", "skill_interval": 1_000_000},
}
"""Changes to whatever they are laid over, by name."""

PRESETS: dict[str, dict[str, Any]] = {
    "paper_alice_and_bob": _ALICE_AND_BOB,
    "paper_3m": _smac("smac_3m", (25, 3, 3), (0.001, 0.01, 100.0, 0.1, 0.5)),
    "paper_2s_vs_1sc": _smac("smac_2s_vs_1sc", (25, 2, 5), (0.03, 0.01, 100.0, 0.1, 1.0)),
    "paper_2m_vs_1z": _smac("smac_2m_vs_1z", (50, 3, 2), (0.005, 0.01, 100.0, 0.1, 1.0)),
    "paper_cramped_room": _overcooked(
        "overcooked_cramped_room", (25, 3, 3), (0.01, 0.01, 100.0, 1.0, 0.5), 15
    ),
    "paper_asymmetric_advantages": _overcooked(
        "overcooked_asymmetric_advantages", (25, 3, 3), (0.01, 0.01, 100.0, 0.1, 0.1), 5
    ),
    "paper_coordination_ring": _overcooked(
        "overcooked_coordination_ring", (10, 3, 3), (0.1, 0.01, 100.0, 0.15, 0.1), 5
    ),
    # Ours before the default: 8 skills, rounds of a whole episode per env (docs/searches.md).
    "alice_and_bob": _ALICE_AND_BOB
    | {
        "skill_interval": 25,
        "num_agent_skills": 8,
        "high_level_batch_size": 128,
        "discriminator_rounds": 10,
        "discriminator_smoothness": 0.4,
        "advantage_floor": 0.1,
        "skill_gain": 1.0,
        "critic_head": "skill",
        "high_discount": "smdp",
        "coordinator_kl_limit": 0.05,
        "choice_residual": True,
        "learning_rate": 7e-4,
        "coordinator_epochs": 10,
        "discoverer_epochs": 10,
        "discriminator_epochs": 5,
    },
    **CHANGES,
}
"""Settings by name of the preset; what a preset does not name keeps its default."""
