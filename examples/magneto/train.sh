#!/usr/bin/env bash
# Magneto (Sub-LN), 18-18, on OPUS-100 with batches of about 500,000 tokens (Section 4.3). DATA, RUN, GPUS as in examples/deepnet/train.sh.
set -euo pipefail
: "${DATA:?set DATA to the folder that opus100 prepare wrote}" "${RUN:?set RUN to a folder for checkpoints}"
gpus=${GPUS:-1}
exec "${PYTHON:-python}" -m fairseq_plugins.opus100 train --data "$DATA" --run "$RUN" --arch magneto_mt_36l \
  --max-tokens 4096 --update-freq $(((128 + gpus - 1) / gpus)) --lr "${LR:-1e-3}" --warmup-updates 8000 --dropout 0.1 --max-update "${UPDATES:-100000}" "$@"
