#!/usr/bin/env bash
# How much of what experts are worth is left when one per layer stays: a dense model, a mixture of experts and the same one pruned, all fine-tuned
# for the same updates on one direction. OUT: the folder in which examples/xmoe/multi30k.sh was run (data, dense, xmoe). The same command goes on
# where it was stopped. DIRECTION, UPDATES: of the fine-tuning; THRESHOLD: of the pruning.
set -euo pipefail
: "${DATA:=${OUT:?DATA: set OUT to the folder of examples/xmoe/multi30k.sh}/data}"
direction=${DIRECTION:-de-en} updates=${UPDATES:-1000}
verb() { "${PYTHON:-python}" -m fairseq_plugins.opus100 "$@"; }

shape=()
for side in encoder decoder; do
  shape+=("--$side-layers" 3 "--$side-embed-dim" 128 "--$side-ffn-embed-dim" 512 "--$side-attention-heads" 4)
done
experts=(--criterion label_smoothed_cross_entropy_with_moe --moe-experts 16 --moe-freq 1 --moe-router cosine --moe-capacity-factor 0)
tune() { # name, model to start from, then flags of fairseq-train
  local name=$1 start=$2
  shift 2
  verb train --data "$DATA" --run "$OUT/tuned-$name" --arch transformer_mt --max-tokens 2048 --max-update "$updates" --sampling concat \
    --lr 5e-4 --warmup-updates 100 --dropout 0.1 --threads 1 --save-interval-updates $(((updates + 7) / 8)) --keep-checkpoints 8 \
    -- "${shape[@]}" --lr-scheduler cosine --clip-norm 1.0 --finetune-from-model "$OUT/$start/checkpoint_best.pt" --lang-pairs "$direction" "$@"
}
tune dense dense
tune experts xmoe "${experts[@]}"
tune pruned xmoe "${experts[@]}" --moe-prune eager --moe-prune-updates "$updates" --moe-prune-windows 4 --moe-prune-threshold "${THRESHOLD:-1.0}"
"${PYTHON:-python}" -m fairseq_plugins prune-experts "$OUT/tuned-pruned/checkpoint_last.pt" --output "$OUT/pruned.pt"

verb evaluate --data "$DATA" --run "$OUT/tuned-dense" --directions "$direction" --output "$OUT/results/dense-tuned"
verb evaluate --data "$DATA" --run "$OUT/tuned-experts" --directions "$direction" --output "$OUT/results/experts-tuned"
verb evaluate --data "$DATA" --checkpoint "$OUT/pruned.pt" --directions "$direction" --output "$OUT/results/pruned"
verb compare --data "$DATA" --results "$OUT/results/"{dense-tuned,experts-tuned,pruned} --names dense experts pruned --gain-of experts \
  --directions "$direction" --output "$OUT/comparison-pruning"
