#!/usr/bin/env bash
# What softer attention of the teacher is worth for pseudo-labels: students of gold translations, of plain labels, of T = 1.5 and 2 head widths.
# One teacher de-en labels the first LINES train sentences; students read the same sources, start alike and see as many updates.
# CORPUS: folder in OPUS-100's layout with de-en. OUT: everything is written there; the same command goes on where it was stopped.
# TEACHER_UPDATES, UPDATES, LINES, SEED: one comparison has one of each. One thread, one training at a time.
set -euo pipefail
: "${CORPUS:?set CORPUS to a corpus in the layout of OPUS-100}" "${OUT:?set OUT to a folder for data, runs and results}"
python=${PYTHON:-python}
export OMP_NUM_THREADS=1
seed=${SEED:-1} teacher_updates=${TEACHER_UPDATES:-2500} updates=${UPDATES:-1200} lines=${LINES:-10000}
here=$(dirname "$0")
. "$here/../side_by_side.sh"
same_as_before "$OUT" "TEACHER_UPDATES, UPDATES, LINES or SEED" "$teacher_updates" "$updates" "$lines" "$seed"
verb() { "$python" -m fairseq_plugins.opus100 "$@"; }

train() { # name, data, updates, layers, width inside feed-forwards
  local shape=() side
  for side in encoder decoder; do
    shape+=("--$side-layers" "$4" "--$side-embed-dim" 128 "--$side-ffn-embed-dim" "$5" "--$side-attention-heads" 4)
  done
  verb train --data "$2" --run "$OUT/runs/$1" --arch transformer_mt --dropout 0.1 --max-tokens 1024 --max-update "$3" \
    --sampling concat --lr 2e-3 --warmup-updates 400 --threads 1 --seed "$seed" --save-interval-updates 500 --keep-checkpoints 1 \
    -- --residual pre "${shape[@]}" --lr-scheduler cosine --required-batch-size-multiple 1 --lang-pairs de-en
  for split in dev test; do
    verb evaluate --data "$OUT/data" --run "$OUT/runs/$1" --directions de-en --subset "$split" --workers 1 --output "$OUT/results/$split/$1"
  done
}
verb prepare --corpus "$CORPUS" --pairs de-en --data "$OUT/data" --vocab-size 4000
train teacher "$OUT/data" "$teacher_updates" 3 512
head_dim=32 # of the teacher: 128 / 4


data() { # name: data of a student's corpus
  verb prepare --corpus "$OUT/corpora/$1" --data "$OUT/labelled/$1" --vocabulary "$OUT/data"
}
label() { # name, T
  CORPUS=$OUT/corpora/gold DATA=$OUT/labelled/gold TEACHER=$OUT/runs/teacher/checkpoint_best.pt OUT=$OUT/corpora/$1 PAIR=de-en \
    TEMPERATURE=$2 MAX_TOKENS=2000 bash "$here/label.sh" --cpu
  data "$1"
}
"$python" "$here/label_corpus.py" --corpus "$CORPUS" --direction de-en --lines "$lines" --out "$OUT/corpora/gold"
data gold
label plain 0
label lambda_1.5 $((head_dim * 3 / 2))
label lambda_2.0 $((head_dim * 2))

arms=(gold plain lambda_1.5 lambda_2.0)
for arm in "${arms[@]}"; do train "$arm" "$OUT/labelled/$arm" "$updates" 2 256; done
for split in dev test; do
  verb compare --data "$OUT/data" --subset "$split" --directions de-en --baseline plain --results "${arms[@]/#/$OUT/results/$split/}" \
    "$OUT/results/$split/teacher" --output "$OUT/comparison/$split"
done
