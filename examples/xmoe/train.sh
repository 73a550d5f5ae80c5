#!/usr/bin/env bash
# X-MoE for translation: experts routed on a hypersphere. DATA: folder of `opus100 prepare`. RUN: folder for checkpoints. GPUS: how many.
# Arguments of `opus100 train` may follow, --dry-run for example.
set -euo pipefail
: "${DATA:?set DATA to the folder that opus100 prepare wrote}" "${RUN:?set RUN to a folder for checkpoints}"
gpus=${GPUS:-1}
exec "${PYTHON:-python}" -m fairseq_plugins.opus100 train --data "$DATA" --run "$RUN" --arch "${PRESET:-xmoe_mt_base}" \
  --max-tokens 4096 --update-freq $(((16 + gpus - 1) / gpus)) --lr 5e-4 --warmup-updates 4000 --dropout 0.1 --max-update "${UPDATES:-100000}" "$@" \
  -- --criterion label_smoothed_cross_entropy_with_moe --moe-balance-weight 0.01
