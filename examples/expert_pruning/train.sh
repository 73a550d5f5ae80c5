#!/usr/bin/env bash
# From a mixture of experts to a dense model for one direction: fine-tune with eager pruning, prune-experts, evaluate both.
# DATA: folder of `opus100 prepare`. RUN: folder of a mixture-of-experts training on it, examples/xmoe for example. OUT: everything is
# written there. ARCH, and arguments: the architecture of that training and the flags of fairseq-train that gave it its shape.
# DIRECTION, UPDATES, LR: of the fine-tuning.
set -euo pipefail
: "${DATA:?set DATA to the folder that opus100 prepare wrote}" "${RUN:?set RUN to the folder of a training with experts}"
: "${OUT:?set OUT to a folder for the fine-tuning and its results}"
direction=${DIRECTION:-de-en} updates=${UPDATES:-2000}
verb() { "${PYTHON:-python}" -m fairseq_plugins.opus100 "$@"; }

verb train --data "$DATA" --run "$OUT/tuned" --arch "${ARCH:-xmoe_mt_base}" --sampling concat --max-tokens 4096 --dropout 0.1 \
  --lr "${LR:-2e-4}" --warmup-updates $((updates / 10)) --max-update "$updates" --save-interval-updates $(((updates + 7) / 8)) \
  -- "$@" --finetune-from-model "$RUN/checkpoint_best.pt" --lang-pairs "$direction" --criterion label_smoothed_cross_entropy_with_moe \
  --moe-capacity-factor 0 --moe-prune eager --moe-prune-updates "$updates" --moe-prune-windows 4 --moe-prune-threshold 0.1
"${PYTHON:-python}" -m fairseq_plugins prune-experts "$OUT/tuned/checkpoint_last.pt" --output "$OUT/dense.pt"
verb evaluate --data "$DATA" --run "$RUN" --directions "$direction" --output "$OUT/results/experts"
verb evaluate --data "$DATA" --checkpoint "$OUT/dense.pt" --directions "$direction" --output "$OUT/results/pruned"
