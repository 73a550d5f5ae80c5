#!/usr/bin/env bash
# The whole road on a small real corpus in OPUS-100's layout: DeepNet and stock fairseq, same size, data, batches and updates.
# CORPUS: folder with opus-100-corpus/v1.0 (or the pairs' folders). OUT: everything is written there; the same command goes on
# where it was stopped. One thread each; the two trainings run side by side, and if one fails the other is stopped.
# UPDATES: of each training.
set -euo pipefail
: "${CORPUS:?set CORPUS to a corpus in the layout of OPUS-100}" "${OUT:?set OUT to a folder for data, runs and results}"
updates=${UPDATES:-13500}
verb() { "${PYTHON:-python}" -m fairseq_plugins.opus100 "$@"; }

verb prepare --corpus "$CORPUS" --data "$OUT/data" --vocab-size 4000

shape=() # of deepnet_mt_tiny, spelt out so that stock fairseq gets the same
for side in encoder decoder; do
  shape+=("--$side-layers" 3 "--$side-embed-dim" 128 "--$side-ffn-embed-dim" 256 "--$side-attention-heads" 4)
done
train() { # name, architecture
  verb train --data "$OUT/data" --run "$OUT/$1" --arch "$2" --max-tokens 1000 --max-update "$updates" --sampling concat \
    --lr 2e-3 --warmup-updates 500 --dropout 0 --threads 1 --save-interval-updates 1500 --keep-checkpoints 3 \
    -- "${shape[@]}" --lr-scheduler cosine
}
. "$(dirname "$0")/../side_by_side.sh"
beside train deepnet deepnet_mt_tiny
beside train stock transformer
together
for name in deepnet stock; do
  verb evaluate --data "$OUT/data" --run "$OUT/$name" --output "$OUT/results/$name"
done
verb report --results "$OUT/results/deepnet" "$OUT/results/stock" --runs "$OUT/deepnet" "$OUT/stock" --names deepnet stock \
  --baseline stock --data "$OUT/data" --output "$OUT/report.html"
