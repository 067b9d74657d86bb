"""The default run of `python train_sync_enhanced.py`: values only; --help explains each."""

env = "alice_and_bob"  # the guide's game: two agents, one sparse reward
num_envs = 32  # 32 parallel environments
batch_size = 1024  # samples of a synchronous round: 32 envs x 32 steps
skill_interval = 25  # a corner is up to 14 steps away, and an episode has four decisions
num_agent_skills = 24  # more than places that count: each is near to where some skill leads
discriminator_smoothness = 1.0  # skills go on to the extremes of the map, and twins part
discriminator_rounds = 10  # rounds are small: discriminators that forget let the skills drift
high_discount = "smdp"  # wasting a decision costs 1 - gamma^25 = 22 %: greedy play gets not stuck
learning_rate = 1e-3  # few epochs on small rounds bear a larger step
discoverer_epochs = 6  # 15 passes over so small a round collapse the policy's entropy
coordinator_epochs = 6  # likewise
discriminator_epochs = 6  # likewise
low_entropy_coef = 0.015  # keeps the skills' ways of getting there varied
high_level_batch_size = 128  # four rounds close 32 x 4 segments or more
chunk_length = 8  # divides the 32 steps that each env contributes to a round
