#!/bin/bash
# Predict a cohort on four machines: sbatch examples/slurm_predict.sh cohort/cohort.csv predicted
#SBATCH --job-name=osteomet-predict
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --mem=160G
#SBATCH --time=12:00:00
#SBATCH --requeue
set -euo pipefail

cohort=$1
out=$2
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
export RAY_USAGE_STATS_ENABLED=0

# The cluster lasts as long as the job. Machines wait for the head by themselves.
srun --nodes=1 --ntasks=1 --nodelist="$head" --overlap \
  ray start --head --port=6379 --num-cpus="$SLURM_CPUS_PER_TASK" --block &
others=$((SLURM_NNODES - 1))
if ((others > 0)); then
  srun --nodes="$others" --ntasks="$others" --exclude="$head" --overlap \
    ray start --address="$head:6379" --num-cpus="$SLURM_CPUS_PER_TASK" --block &
fi
sleep "${CLUSTER_START_S:-30}"

# A job that was requeued keeps what is finished. It ends with 2 where scans failed.
srun --nodes=1 --ntasks=1 --nodelist="$head" --overlap \
  osteomet predict --cohort "$cohort" -o "$out" --engine ray --address "$head:6379"
