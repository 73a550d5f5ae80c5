#!/usr/bin/env bash
# MoEC with the released WMT14 en-de recipe: 64 experts in 8 clusters, cluster-level expert dropout. DATA: folder of `opus100 prepare` of
# an en-de corpus. RUN: folder for checkpoints. GPUS: how many; the batch of an update stays that of 8 GPUs x 16 x 4,096 tokens.
# Arguments of `opus100 train` may follow, --dry-run for example.
set -euo pipefail
: "${DATA:?set DATA to the folder that opus100 prepare wrote}" "${RUN:?set RUN to a folder for checkpoints}"
gpus=${GPUS:-1}
exec "${PYTHON:-python}" -m fairseq_plugins.opus100 train --data "$DATA" --run "$RUN" --arch moec_mt_wmt14 --dropout 0.3 \
  --max-tokens 4096 --update-freq $(((128 + gpus - 1) / gpus)) --lr 5e-4 --warmup-updates 250 --max-update "${UPDATES:-32000}" "$@" \
  -- --criterion label_smoothed_cross_entropy_with_moe --moe-balance-weight 0.01 --moe-cluster-weight 0.01 \
  --optimizer adam --adam-eps 1e-6 --clip-norm 0.1
