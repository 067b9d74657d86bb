"""The default run: values only, read by `python train_sync_enhanced.py`; --help explains each."""

env = "alice_and_bob"  # the guide's game: two agents, one sparse reward
num_envs = 32  # 32 parallel environments
batch_size = 1024  # samples of a synchronous round: 32 envs x 32 steps
skill_interval = 32  # a corner is up to 14 steps away; shorter skills do not get there
num_agent_skills = 8  # more skills than corners: all four corners are covered on every seed
discriminator_rounds = 10  # rounds are small: discriminators that forget let the skills drift
discoverer_epochs = 6  # 15 passes over so small a round collapse the policy's entropy
coordinator_epochs = 6  # likewise
high_level_batch_size = 96  # three rounds close 3 x 32 segments of 32 steps
chunk_length = 8  # divides the 32 steps that each env contributes to a round
