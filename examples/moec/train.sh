#!/usr/bin/env bash
# MoEC on WMT14 en-de with the released command: 64 experts in 8 clusters, cluster-level expert dropout. DATA: binarised en-de folder
# (fairseq-preprocess). RUN: folder for checkpoints. GPUS: how many; the batch of an update stays that of 8 GPUs x 16 x 4,096 tokens.
# Flags of fairseq-train may follow: --fp16, --cpu.
set -euo pipefail
: "${DATA:?set DATA to a binarised en-de folder}" "${RUN:?set RUN to a folder for checkpoints}"
gpus=${GPUS:-1}
exec "${TRAIN:-fairseq-train}" "$DATA" --user-dir "$("${PYTHON:-python}" -m fairseq_plugins path)" --task translation -s en -t de \
  --save-dir "$RUN" --arch moec_mt_wmt14 --criterion label_smoothed_cross_entropy_with_moe --label-smoothing 0.1 \
  --moe-balance-weight 0.01 --moe-cluster-weight 0.01 --optimizer adam --adam-betas '(0.9, 0.98)' --adam-eps 1e-6 --clip-norm 0.1 \
  --lr 5e-4 --lr-scheduler inverse_sqrt --warmup-updates 250 --warmup-init-lr 1e-7 --max-tokens 4096 \
  --update-freq $(((128 + gpus - 1) / gpus)) --max-update "${UPDATES:-32000}" --seed 1 "$@"
