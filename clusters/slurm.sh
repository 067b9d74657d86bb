#!/bin/bash
# One run on several machines under Slurm: a torchrun on each, a process for each of its cores, or
# for each of its GPUs where the job has some. Arguments are those of train_sync_enhanced.py:
#
#   sbatch clusters/slurm.sh --preset alice_and_bob --num-envs 256 --batch-size 25600 --output-dir one
#   sbatch --nodes 4 --gpus-per-node 8 clusters/slurm.sh --device cuda --num-envs 4096 --batch-size 131072 --output-dir two
#
# The same command again goes on from the newest checkpoint in its --output-dir: one folder per run.
# Submit from the project's folder, with its environment active: it is the same on all machines.
#SBATCH --job-name=hmasd
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --output=%x_%j.log
#SBATCH --signal=TERM@120
set -euo pipefail

processes=${SLURM_GPUS_ON_NODE:-$SLURM_CPUS_PER_TASK}
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p) # head would break the pipe
port=$((20000 + SLURM_JOB_ID % 10000)) # jobs that share a machine must not meet

# --signal: two minutes before its time is over, every process is told to save and end (torchrun allows 30 seconds).
exec srun --kill-on-bad-exit=1 torchrun \
    --nnodes "$SLURM_JOB_NUM_NODES" \
    --nproc-per-node "$processes" \
    --rdzv-backend c10d \
    --rdzv-endpoint "$first:$port" \
    --rdzv-id "$SLURM_JOB_ID" \
    --max-restarts 3 \
    train_sync_enhanced.py --auto-resume "$@"
