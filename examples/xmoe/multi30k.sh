#!/usr/bin/env bash
# Dense, Switch, X-MoE and MoEC on a small real corpus: same active size, data, batches, updates and seed.
# CORPUS: folder in OPUS-100's layout. OUT: everything is written there; the same command goes on where it was stopped.
# UPDATES: of each training. One thread each, two trainings at a time.
set -euo pipefail
: "${CORPUS:?set CORPUS to a corpus in the layout of OPUS-100}" "${OUT:?set OUT to a folder for data, runs and results}"
updates=${UPDATES:-3000}
verb() { "${PYTHON:-python}" -m fairseq_plugins.opus100 "$@"; }

verb prepare --corpus "$CORPUS" --data "$OUT/data" --vocab-size 8000

shape=()
for side in encoder decoder; do
  shape+=("--$side-layers" 3 "--$side-embed-dim" 128 "--$side-ffn-embed-dim" 512 "--$side-attention-heads" 4)
done
experts=(--criterion label_smoothed_cross_entropy_with_moe --moe-experts 16 --moe-freq 1 --moe-capacity-factor 2)
train() { # name, then flags of fairseq-train
  local name=$1
  shift
  verb train --data "$OUT/data" --run "$OUT/$name" --arch transformer_mt --max-tokens 2048 --max-update "$updates" --sampling concat \
    --lr 2e-3 --warmup-updates 500 --dropout 0 --threads 1 --save-interval-updates 500 --keep-checkpoints 8 \
    -- "${shape[@]}" --lr-scheduler cosine --clip-norm 1.0 "$@"
}
train dense & first=$!
train switch "${experts[@]}" --moe-router linear --moe-gate softmax & second=$!
wait "$first"
wait "$second"
train xmoe "${experts[@]}" --moe-router cosine --moe-gate softmax & first=$!
train moec "${experts[@]}" --moe-router cosine --moe-gate sigmoid --moe-clusters 4 --moe-cluster-dropout 0.25 & second=$!
wait "$first"
wait "$second"

for name in dense switch xmoe moec; do
  verb evaluate --data "$OUT/data" --run "$OUT/$name" --output "$OUT/results/$name"
done
verb compare --data "$OUT/data" --results "$OUT/results/"{dense,switch,xmoe,moec} --output "$OUT/comparison"
inspect() { "${PYTHON:-python}" -m fairseq_plugins moe-inspect "$@" --batches 0; }
for name in switch xmoe moec; do # the last two checkpoints: usage, load, collapse, and how many tokens changed their expert
  mapfile -t kept < <(ls -t "$OUT/$name"/checkpoint_[0-9]*_[0-9]*.pt)
  inspect "${kept[0]:-$OUT/$name/checkpoint_last.pt}" "$OUT/data" --previous "${kept[1]:-$OUT/$name/checkpoint_best.pt}" --output "$OUT/inspect/$name"
done
verb report --results "$OUT/results/"{dense,switch,xmoe,moec} --runs "$OUT/"{dense,switch,xmoe,moec} --names dense switch xmoe moec \
  --baseline dense --data "$OUT/data" --output "$OUT/report.html"
