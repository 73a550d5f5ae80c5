#!/usr/bin/env bash
# DeepNet on OPUS-100 with the recipe of its Table 7. DATA: folder of `opus100 prepare`. RUN: folder for checkpoints. GPUS: how many.
# Arguments of `opus100 train` may follow, --dry-run for example.
set -euo pipefail
: "${DATA:?set DATA to the folder that opus100 prepare wrote}" "${RUN:?set RUN to a folder for checkpoints}"
gpus=${GPUS:-1}
exec "${PYTHON:-python}" -m fairseq_plugins.opus100 train --data "$DATA" --run "$RUN" --arch "${PRESET:-deepnet_mt_200l}" \
  --max-tokens 4096 --update-freq $(((128 + gpus - 1) / gpus)) --lr 5e-4 --warmup-updates 4000 --dropout 0.1 --max-update "${UPDATES:-100000}" "$@" \
  -- --checkpoint-activations
