#!/usr/bin/env bash
# Which language is a line in? A classifier, and a probe that leaves the encoder as it is, from a pre-trained encoder.
# CORPUS: folder in OPUS-100's layout. DATA: folder of `opus100 prepare` with the vocabulary of the pre-training.
# INIT: its checkpoint. OUT: folder for the task; RUNS: for the two trainings (OUT). The same command goes on where it was stopped.
# PRESET: --arch of INIT. LENGTH: longest text in tokens, at most the positions of INIT.
# TRAIN_LINES: of each language, for training. LEAVE_OUT: languages whose pairs are not read.
# BATCH, UPDATES, LR, PROBE_UPDATES (0: no probe), PROBE_LR, SEED: of the two trainings.
# Arguments of fairseq-train may follow. What the defaults are: UniLMv2's for GLUE. For a small model on one core:
#   OMP_NUM_THREADS=1 PRESET=unilmv2_tiny LENGTH=128 UPDATES=1000 LR=5e-4 PROBE_LR=1e-2 bash classify.sh --cpu
set -euo pipefail
: "${CORPUS:?set CORPUS to a corpus in the layout of OPUS-100}" "${DATA:?set DATA to the folder that opus100 prepare wrote}"
: "${INIT:?set INIT to the checkpoint of a pre-trained transformer_mlm}" "${OUT:?set OUT to a folder for data and runs}"
python=${PYTHON:-python}
text=$OUT/text data=$OUT/data runs=${RUNS:-$OUT}
lines=${TRAIN_LINES:-100} leave_out=${LEAVE_OUT:-} seed=${SEED:-1}
made=$data/done.$lines.$leave_out.$seed
user_dir=$("$python" -m fairseq_plugins path)

if [ ! -e "$made" ]; then
  if compgen -G "$data/done.*" > /dev/null; then
    echo "error: OUT $OUT holds a task of other TRAIN_LINES, LEAVE_OUT or SEED; give another folder" >&2
    exit 1
  fi
  rm -rf "$data" # fairseq-preprocess does not overwrite a dictionary
  "$python" "$(dirname "$0")/language_task.py" --corpus "$CORPUS" --out "$text" --train-lines "$lines" \
    --leave-out "$leave_out" --seed "$seed"
  "$python" -m fairseq_plugins.opus100 encode --data "$DATA" --inputs "$text/"{train,valid,test}.txt \
    --outputs "$text/"{train,valid,test}.input0
  preprocess() { # what, then where its dictionary is, if there is one
    "$python" -m fairseq_cli.preprocess --only-source --trainpref "$text/train.$1" --validpref "$text/valid.$1" \
      --testpref "$text/test.$1" --destdir "$data/$1" --workers 1 "${@:2}"
  }
  preprocess input0 --srcdict "$DATA/dict.txt"
  preprocess label
  mkdir -p "$data" && touch "$made"
fi
classes=$(sort -u "$text/train.label" | wc -l || true)

train() { # name, updates, learning rate, then arguments of fairseq-train
  local name=$1 updates=$2 lr=$3
  shift 3
  mkdir -p "$runs/$name"
  # Not again where it is done: fairseq-train looks at --max-update only after a step.
  [ -e "$runs/$name/done.$updates" ] || "$python" -m fairseq_cli.train "$data" --user-dir "$user_dir" --task sentence_prediction \
    --num-classes "$classes" --init-token 0 --max-positions "${LENGTH:-512}" --shorten-method truncate \
    --criterion sentence_prediction --arch "${PRESET:-unilmv2_base}" --classification-head linear \
    --finetune-from-model "$INIT" --optimizer adam --adam-betas "(0.9, 0.98)" --adam-eps 1e-6 --weight-decay 0.01 \
    --lr "$lr" --lr-scheduler polynomial_decay --warmup-updates $((updates / 10)) --total-num-update "$updates" \
    --max-update "$updates" --batch-size "${BATCH:-32}" --required-batch-size-multiple 1 --seed "$seed" --num-workers 0 \
    --best-checkpoint-metric accuracy --maximize-best-checkpoint-metric --no-epoch-checkpoints \
    --save-dir "$runs/$name" --log-format json --log-file "$runs/$name.log" "$@"
  touch "$runs/$name/done.$updates"
  "$python" -m fairseq_cli.validate "$data" --user-dir "$user_dir" --path "$runs/$name/checkpoint_best.pt" \
    --task sentence_prediction --criterion sentence_prediction --valid-subset test --batch-size 64 --log-format simple |
    tee "$runs/$name.test.log"
}
train classifier "${UPDATES:-3200}" "${LR:-2e-5}" "$@"
[ "${PROBE_UPDATES:-}" = 0 ] || train probe "${PROBE_UPDATES:-${UPDATES:-3200}}" "${PROBE_LR:-1e-3}" --freeze-encoder "$@"
