#!/usr/bin/env bash
# XLM-T: a translation model whose encoder and decoder start from a pretrained encoder. DATA: folder of `opus100 prepare`. RUN: folder for checkpoints.
# INIT: what to start from (XLM-R's folder, a Hugging Face folder, a checkpoint of transformer_mlm). GPUS: how many. Arguments of `opus100 train` may follow.
set -euo pipefail
: "${DATA:?set DATA to the folder that opus100 prepare wrote}" "${RUN:?set RUN to a folder for checkpoints}"
gpus=${GPUS:-1} init=${INIT:-xlmr.base}
exec "${PYTHON:-python}" -m fairseq_plugins.opus100 train --data "$DATA" --run "$RUN" --arch "${PRESET:-xlm_t}" --sampling ramp:1:5:5 \
  --max-tokens 2048 --update-freq $(((32 + gpus - 1) / gpus)) --lr "${LR:-3e-4}" --warmup-updates 4000 --dropout 0.1 --max-update "${UPDATES:-100000}" "$@" \
  -- --init-encoder "${INIT_ENCODER:-$init}" --init-decoder "${INIT_DECODER:-$init}"
