#!/bin/bash
# Train on two machines of four GPUs: sbatch examples/slurm_train.sh cohort/cohort.csv runs/first
#SBATCH --job-name=osteomet-train
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@180
set -euo pipefail

cohort=$1
run=$2
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
program=$(command -v osteomet)

# Once, by one process; what is there already is kept.
osteomet prepare "$cohort" --workers "$SLURM_CPUS_PER_TASK"

# A job that was requeued goes on from its last checkpoint.
resume=()
if [[ -f $run/last.ckpt ]]; then
  resume=(--resume)
fi

# One torchrun per machine; it starts a process for each GPU and tells osteomet their numbers.
srun torchrun \
  --nnodes "$SLURM_NNODES" \
  --nproc-per-node "$SLURM_GPUS_ON_NODE" \
  --rdzv-backend c10d \
  --rdzv-id "$SLURM_JOB_ID" \
  --rdzv-endpoint "$head:29500" \
  "$program" train --cohort "$cohort" -o "$run" "${resume[@]}"
