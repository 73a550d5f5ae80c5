#!/usr/bin/env bash
# Which language is a line in? A classifier, and a probe that leaves the encoder as it is, from ELECTRA's discriminator.
# INIT: a checkpoint of --arch electra, or what `export --to discriminator` made of one; its shape need not be said.
# All else is as in ../unilmv2/classify.sh: CORPUS, DATA, OUT, RUNS, LENGTH, TRAIN_LINES, LEAVE_OUT, BATCH, UPDATES, LR,
# PROBE_UPDATES, PROBE_LR, SEED. Arguments of fairseq-train may follow. For a small model on one core:
#   OMP_NUM_THREADS=1 LENGTH=128 UPDATES=1000 LR=5e-4 PROBE_LR=1e-2 bash classify.sh --cpu
set -euo pipefail
: "${CORPUS:?set CORPUS to a corpus in the layout of OPUS-100}" "${DATA:?set DATA to the folder that opus100 prepare wrote}"
: "${INIT:?set INIT to a checkpoint of an electra}" "${OUT:?set OUT to a folder for data and runs}"
runs=${RUNS:-$OUT}
mkdir -p "$runs"
"${PYTHON:-python}" -m fairseq_plugins export "$INIT" --to discriminator --output "$runs/discriminator.pt" |
  tee "$runs/discriminator.txt"
model=$(tail -n 1 "$runs/discriminator.txt") # --arch transformer_mlm and its shape
# shellcheck disable=SC2086
INIT=$runs/discriminator.pt RUNS=$runs PRESET=transformer_mlm \
  exec bash "$(dirname "$0")/../unilmv2/classify.sh" $model "$@"
