"""Every setting of a run in one dataclass; its docstrings are the command line's help.

Symbols in brackets are the paper's (HMASD, NeurIPS 2023). Derived numbers are properties.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # reading settings must not import torch
    from hmasd.types import EnvOptions


@dataclass(frozen=True)
class Config:
    """Settings of one run: defaults < preset or config_1.py < --config file < command line."""

    # --- the task -----------------------------------------------------------------------------
    env: str = "alice_and_bob"
    """Name of the environment (--help lists the names), or where to find one of your own:
    my_package.my_module:make_env, gym:MODULE:ID, pettingzoo:MODULE (docs/environments.md)."""
    env_args: str = ""
    """Keyword arguments of the environment's factory, as a YAML mapping: '{num_agents: 3}'."""
    team_reward: Literal["sum", "mean"] = "sum"
    """How an environment's rewards per agent become the team's."""
    env_workers: int = 0
    """Processes that play a plain Python environment, each a share of the envs; 0: in this process.
    Results are the same to the bit. Pays where a step of one env takes more than about 20 us and
    there are cores to spare (docs/environments.md); batched environments have no use for it."""
    env_timeout: float = 60.0
    """Seconds that a worker may take to start, or for one step of all its envs, before it counts as
    hanging."""
    env_restarts: int = 0
    """How often a worker that raised, died or hangs is replaced; the episodes of its envs are lost,
    and nobody learns from their samples of this round. 0: the first failure ends the run."""
    num_envs: int = 32
    """Environments that step in lock-step [E]."""
    batch_size: int = 1024
    """Samples of one synchronous round: one sample is one step of one env with all its agents.
    Must be a multiple of num_envs; batch_size / num_envs steps per env make a round."""
    batch_schedule: Literal["constant", "linear", "noise"] = "constant"
    """How the round grows, by whole multiples of batch_size. 'linear': over total_steps, each size
    for an equal share of them. 'noise': up to the gradient noise scale, which is measured each
    round (low/noise_scale, in samples): a larger round would be worth less than what it costs."""
    max_batch_factor: int = 4
    """The largest round, in multiples of batch_size, unless batch_schedule is 'constant'; with
    'noise' and 1 the noise scale is measured and the round stays as it is."""
    sync_mode: bool = True
    """Update on full rounds of one policy version (the guide). False, to compare with: update as
    soon as batch_size samples are there, in fragments of chunk_length steps that each env finishes
    at another time, so that a batch mixes several versions; metrics `async/...` tell how much."""
    total_steps: int = 3_000_000
    """Env steps to train for, summed over the envs."""
    episode_length: int = 100
    """Steps after which an episode is truncated."""
    seed: int = 1
    """One number from which every random generator of the run is derived."""

    # --- skills -------------------------------------------------------------------------------
    skill_interval: int = 25
    """Steps between two decisions of the coordinator [k]. The clock restarts with the episode."""
    skill_persistence: float = 0.5
    """Chance that skills whose interval is over go on for another one, and so on, while nothing is
    won and the coordinator does not explore; the less, the more was won. Skills so learn walks that
    take longer than k. The team does not choose this, it happens to it ("sticky" choices, Machado
    et al. 2018). 0: each decision holds for k steps (paper)."""
    num_team_skills: int = 2
    """Team skills Z to discover [n_Z]."""
    num_agent_skills: int = 24
    """Individual skills z to discover [n_z]. They share out what an agent can reach, so that each
    place that counts is near to where one of them leads: more than there are such places."""
    skill_input: Literal["input", "output"] = "output"
    """Where the skill enters the discoverer: joined to the observation ('input'), or to the last
    layer's input ('output': an additive preference over actions, learned sooner on small games)."""
    skill_gain: float = 3.0
    """Scale of the initial weights by which a skill at the output prefers actions. 0.01 (paper):
    all skills start alike; 1: every skill starts as a random walk with a drift of its own; 3: as
    one that mostly follows its drift."""
    critic_head: Literal["team", "skill"] = "skill"
    """What the discoverer's critic tells apart: 'team': one value V_l(s, Z) for all agents (paper);
    'skill': one value per agent and its skill, V_l^i(s, Z, z^i), from the same single pass."""
    critic_input: Literal["state", "obs"] = "state"
    """What the discoverer's critic sees: 'state': the global state, one pass for all agents (paper,
    MAPPO); 'obs': each agent's own observation and nothing of the others (IPPO)."""
    high_level: Literal["coordinator", "random"] = "coordinator"
    """Who chooses the skills. 'random': uniform chance, and nothing of the coordinator is computed;
    with skill_interval = episode_length that is once per episode."""
    low_level: Literal["discoverer", "action"] = "discoverer"
    """What an individual skill is. 'discoverer': what the discoverer's policy acts under. 'action':
    the action itself, repeated for skill_interval steps; with an interval of 1 that is MAT. The
    number of skills is then the env's number of actions, and there is no discoverer."""
    agent_id: bool = False
    """Append a one-hot agent number to every observation."""
    reset_hidden_on_skill: bool = False
    """Restart the GRU state with every new skill, not only with every new episode."""

    # --- rewards ------------------------------------------------------------------------------
    extrinsic_coef: float = 0.0
    """Weight of the team reward in the discoverer's reward [lambda_e]."""
    winning_extrinsic_coef: float = 30.0
    """What is added to extrinsic_coef when all of the last 100 episodes were won; before, it grows
    with the share of wins, and falls more slowly than that, over about 300 updates. Skills that are
    paid nothing for it may rest beside what is to be done, and greedy play with them; those that
    earn the team reward from the start do not pause, which who searches needs. 0: nothing
    (paper)."""
    winning_intrinsic: float = 0.0
    """Share of team_coef and individual_coef that is left when all of the last 100 episodes were
    won; before, it falls with the share of wins, and rises again more slowly, over about 300
    updates. Skills are told apart ever better, and each step is paid for it: in the end resting for
    ever is worth more than a win that ends the episode. 1: all of them (paper)."""
    team_coef: float = 0.1
    """Weight of log q_D(Z | s) in the discoverer's reward [lambda_D]; 0: q_D is not trained."""
    individual_coef: float = 0.2
    """Weight of log q_d(z | o, Z), or its log-odds (individual_reward), in the discoverer's reward
    [lambda_d]; 0: q_d is not trained."""
    individual_reward: Literal["log_q", "log_odds"] = "log_odds"
    """What it is worth that q_d names an individual skill. 'log_q' (paper): levels off where q_d is
    nearly sure, so a skill may stop on the way, and the most likely action walk against a wall
    there. 'log_odds': log q_d - log(1 - q_d), which goes on growing with the distance from where
    other skills lead."""
    intrinsic_offset: Literal["none", "log_n"] = "none"
    """'none': log q, at most 0, or log-odds as they are. 'log_n': adds what makes chance worth 0,
    log n or log(n - 1), so that ending an episode early is not attractive."""
    high_discount: Literal["paper", "smdp"] = "smdp"
    """'smdp': gamma counts once per step, inside the sum and between decisions: a decision that
    wastes k steps costs a share 1 - gamma^k of what can still be won. 'paper': a segment's reward
    is the plain sum and gamma counts once per decision, so that wasting one costs hardly anything,
    and greedy play may repeat a choice that leads nowhere."""
    novelty_coef: float = 1.0
    """Weight of a bonus in the coordinator's reward, while it explores, for what a segment brings
    about that chance choices of skills hardly ever do, such as a thing collected, where the team
    reward needs more steps in a row than chance makes. 1: what is four times as rare (to all
    surveys, see survey_interval) is worth 0.7 more, paid once, when it comes about; the less, the
    more is won. 0: none."""
    exploration_start: int = 1_000_000
    """Env steps after which the coordinator explores for twice as many, if fewer than one in ten
    of about the last 100 episodes was won; then training as before goes on for as many as at first,
    and so on: from 1 to 3 million, 4 to 6, ... After one more update as before comes a survey of
    what skills by chance lead to; then the bonus is paid. Until one in ten is won or the time is
    over the skills pause: a coordinator finds its way among skills that stay as they are, where it
    is lost among moving ones. (With extrinsic_coef above 0 they do not pause.) Half-way a
    coordinator that has won few begins anew. Where something is won when the time is over, it goes
    on until nine in ten are. A game that does not tell success is never won: set it to 0 there, and
    losing_entropy to 1. 0: it never explores (paper)."""
    exploration_batch_size: int = 512
    """Closed segments after which an exploring coordinator is updated: what it looks for is rare,
    and many segments of an episode in a row tell what led to it. The survey takes two such
    batches."""
    exploration_epochs: int = 15
    """PPO passes of an exploring coordinator over a batch of segments."""
    survey_interval: int = 10
    """Updates of an exploring coordinator from one survey to the next. The first is of what chance
    leads to, the others of what it has come to itself; what is new is worth the mean over all, so
    after the second of several things to do the third is worth looking for. None while one in a
    hundred episodes is won. 0: only the first."""

    # --- optimisation -------------------------------------------------------------------------
    learning_rate: float = 1e-3
    """Adam's step size, for all networks."""
    winning_step: float = 0.05
    """Share of the step size that is left when all of the last 100 episodes were won; in between it
    falls with the share of wins. "Win or learn fast" (Bowling & Veloso 2002): what wins together
    should not move on from each other. 1: the step size never falls (paper)."""
    winning_sharpness: float = 10.0
    """Power that the probabilities of actions are raised to (and scaled to sum to 1) when all of
    the last 100 episodes were won; where a share s was, it is winning_sharpness to the power of s.
    Play by chance leaves a wrong most likely action sooner or later, greedy play never does: what
    is nearly greedy in training loses by it, and learns. It falls over about 300 updates, so that
    who is stuck for once learns out of it, not to play by chance. 1: what the network says
    (paper)."""
    policy_average: int = 400
    """The policy that is evaluated and played elsewhere is the average over about this many updates
    of the one that learns, if all of the last 100 episodes were won; the less is won, the fewer
    they are (after a fall only as it lasts, over about 300 updates), and each counts as its odds of
    winning, so that neither what it was before it won nor what it is while it loses its way does.
    Nothing that learns depends on it. 1: it is the newest (paper)."""
    adam_eps: float = 1e-5
    """Adam's epsilon."""
    max_grad_norm: float = 10.0
    """Gradients of each network are clipped to this norm."""
    coordinator_epochs: int = 6
    """PPO passes over a batch of segments."""
    coordinator_kl_limit: float = 0.05
    """An update of the coordinator makes no further pass once its KL from the one that chose the
    skills exceeds this. Its batches are small, and after long success one unlucky batch could throw
    it onto a single skill. 0: no limit (paper)."""
    discoverer_epochs: int = 6
    """PPO passes over a round."""
    clip: float = 0.2
    """PPO's clip range of the probability ratio, and of the value in normalised space."""
    value_coef: float = 1.0
    """Weight of the value loss [lambda_c]."""
    huber_delta: float = 10.0
    """Where the Huber loss of the value goes from quadratic to linear."""
    gamma: float = 0.99
    """Discount."""
    gae_lambda: float = 0.95
    """GAE's lambda."""
    high_entropy_coef: float = 0.1
    """Weight of the coordinator's entropy [lambda_h]."""
    losing_entropy: float = 0.3
    """Share of high_entropy_coef that counts while none of the last 100 episodes was won; it grows
    with the share of wins. A coordinator that searches has to follow what is rare; one that wins
    has to keep all skills in use, or nothing keeps the others in their places. 1: all of it counts
    (paper)."""
    low_entropy_coef: float = 0.015
    """Weight of the discoverer's entropy [lambda_l]."""
    advantage_floor: float = 0.1
    """The coordinator's advantages are scaled to 1 only if they vary more than this many standard
    deviations of its returns; keeps it from drifting on noise before the first reward. 0: paper."""
    high_level_batch_size: int = 128
    """Closed segments after which the coordinator is updated, at the end of that round."""
    chunk_length: int = 8
    """Steps of a recurrent training sequence; must divide batch_size / num_envs."""
    discriminator_epochs: int = 6
    """Gradient steps of each discriminator per round, each on as many pairs as a round holds."""
    discriminator_rounds: int = 10
    """Rounds whose pairs the discriminators learn from; 1: this round's only."""
    discriminator_balance: bool = True
    """Skills count alike for the discriminators, though the coordinator chooses some seldom (up to
    ten times as seldom as the others on average, over all Z): those that it does without keep the
    others in their places. False: every pair counts alike (paper)."""

    compare_interval: int = 100
    """Rounds between two comparisons of the parameters of all processes of a run (torchrun); a
    difference ends it. 0: never."""
    rank_timeout: float = 60.0
    """Seconds without a sign of life (each process of a run gives one every second) after which a
    process counts as lost: killed, frozen or cut off. The run then ends on all."""
    reduce_timeout: float = 1800.0
    """Seconds that the processes of a run wait for the slowest of them, which may be evaluating or
    saving, before they give it up."""
    samples_at_once: int = 0
    """Samples that go through a network at once in an update. A larger round is done in slices
    whose gradients add up to the whole round's (gradient accumulation): the result is the same and
    takes less memory. Recurrent chunks stay whole. 0: the whole round."""

    discriminator_smoothness: float = 1.0
    """How much the discriminators' logits may change in one env step [c]. They are then sure of a
    skill only many steps away from where the others lead, so skills go on to the extremes of what
    can be reached. 1 is good where log_odds are the reward, as they do not level off; about
    10 / k for log_q. 0: no limit (paper)."""

    # --- networks -----------------------------------------------------------------------------
    hidden_size: int = 64
    """Width of every network."""
    coordinator_blocks: int = 1
    """Encoder blocks, and decoder blocks, of the coordinator's transformer."""
    coordinator_heads: int = 1
    """Attention heads of the coordinator's transformer."""
    choice_residual: bool = True
    """Whether the choice just made (Z, or the skill of the agent before) is added to what the
    coordinator's decoder makes the next one of. Else (paper) attention alone tells of it: hardly at
    first, and later perhaps nothing, for good; then all agents draw alike, and the most likely
    skill is the same for all of them."""

    # --- evaluation, output, machine ----------------------------------------------------------
    eval_interval: int = 100_000
    """Env steps between two evaluations; 0: never."""
    eval_episodes: int = 100
    """Episodes of each evaluation, for greedy and for stochastic play."""
    eval_mode: Literal["inline", "process"] = "inline"
    """Who plays evaluations. 'inline': training does, between two rounds. 'process': a process
    beside it, on one thread at a low priority, so training goes on: worth it where a core is free.
    The numbers are the same, those of training too; they come later, each under the env steps
    of its policy."""
    eval_timeout: float = 600.0
    """With 'process': seconds that an evaluation may take before it counts as hanging and is given
    up, also when training waits for the last ones at its end."""
    eval_only: bool = False
    """Evaluate --model-path and stop."""
    checkpoint_interval: int = 320_000
    """Env steps between two checkpoints; 0: only at the end."""
    keep_policies: bool = False
    """Keep the networks of every evaluation as models/policy_<env steps>.pth, for --eval-only."""
    model_path: str | None = None
    """Checkpoint to go on from, or to evaluate."""
    auto_resume: bool = False
    """Go on from the newest intact checkpoint in output_dir, if there is one, else start anew: the
    same command then starts a run and goes on with it, after a crash or under torchrun
    --max-restarts. It counts more than model_path; give each run an output_dir of its own."""
    output_dir: str = "."
    """Folder in which models/, logs/, tf-logs/ and runs/ are made."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """How much the text log says."""
    device: str = "cpu"
    """torch device of the networks and of the round's memory."""
    threads: int = 1
    """CPU threads of torch. One is fastest unless the machine is idle and the networks are wide."""
    matmul_precision: Literal["highest", "high", "medium"] = "highest"
    """What torch's own fp32 products may use inside, where the processor has it: 'high' TF32 (GPU),
    'medium' bfloat16. The compiled CPU kernels always stay in full fp32."""

    @property
    def rollout_length(self) -> int:
        """Steps per env in the first round [T]; batch_schedule may let later ones grow."""
        return self.batch_size // self.num_envs

    @property
    def longest_segment(self) -> int:
        """Steps from a decision to the next where nothing cuts them short."""
        return min(self.skill_interval, self.episode_length)

    @property
    def largest_batch_size(self) -> int:
        """Samples of the largest round that batch_schedule may make."""
        growing = self.batch_schedule != "constant"
        return self.batch_size * (self.max_batch_factor if growing else 1)

    @property
    def env_options(self) -> EnvOptions:
        """What `make_env` needs besides name and sizes."""
        from hmasd.types import EnvOptions

        return EnvOptions(
            env_args=self.env_args,
            team_reward=self.team_reward,
            workers=self.env_workers,
            timeout=self.env_timeout,
            restarts=self.env_restarts,
        )
