#!/usr/bin/env bash
# What a student learns from its teacher's relations, small: MiniLMv2 and MiniLM against masked language modelling from
# scratch, students of 6 and of 3 layers, one teacher of 12.
# Every student is measured in both losses on held-out text, predicts masked tokens after a short tuning of its last
# layer and head, and tells languages apart.
# CORPUS: Multi30k in OPUS-100's layout. TATOEBA: Tatoeba in that layout. OUT: everything is written there; the same
# command goes on where it was stopped. TEACHER_UPDATES, UPDATES, TUNING_UPDATES, SEED: of the trainings; TOKENS: of an
# update of a student and of its tuning (the teacher: 2,048). One thread each, two at a time.
set -euo pipefail
: "${CORPUS:?set CORPUS to Multi30k in the layout of OPUS-100}" "${TATOEBA:?set TATOEBA to Tatoeba in that layout}"
: "${OUT:?set OUT to a folder for data, runs and results}"
python=${PYTHON:-python}
seed=${SEED:-1} teacher_updates=${TEACHER_UPDATES:-3000} updates=${UPDATES:-2000} tuning=${TUNING_UPDATES:-300}
tokens=${TOKENS:-512}
here=$(dirname "$0")
export OMP_NUM_THREADS=1
. "$here/../side_by_side.sh"
same_as_before "$OUT" "TEACHER_UPDATES, UPDATES, TOKENS, TUNING_UPDATES or SEED" "$teacher_updates" "$updates" "$tokens" \
  "$tuning" "$seed"
. "$here/../joined_corpora.sh"
mkdir -p "$OUT/runs"
user_dir=$("$python" -m fairseq_plugins path)
text=("$OUT/data" --user-dir "$user_dir" --mono-data "$OUT/mono" --texts mono,pairs --lang-pairs "$OUT/corpus/pairs.txt"
  --sampling-alpha 1 --tokens-per-sample 128)
masked_lm=("${text[@]}" --task pseudo_masked_lm --objectives ae --block-probability 0 --criterion pseudo_masked_lm)
shape=(--arch transformer_mlm_base --residual deepnorm --encoder-embed-dim 128 --encoder-ffn-embed-dim 512
  --encoder-attention-heads 4 --dropout 0 --attention-dropout 0)
teacher=$OUT/runs/teacher/checkpoint_last.pt
relations=("${text[@]}" --task relation_distillation --criterion relation_distillation --teacher "$teacher")
v2=(--relations q-q,k-k,v-v --relation-heads 16) v1=(--relations q-k,v-v --relation-heads 0)
held_out=(--texts mono) # captions in four languages: two thousand lines that no training has seen
students=(v2_6 v1_6 scratch_6 v2_3 v1_3 scratch_3)

train() { # name, updates, layers, tokens of an update, then arguments of fairseq-train
  local run=$OUT/runs/$1
  # Not again where it is done: fairseq-train looks at --max-update only after a step.
  [ -e "$run.done" ] || "$python" -m fairseq_cli.train "${@:5}" "${shape[@]}" --encoder-layers "$3" \
    --optimizer fused_adam --adam-betas "(0.9, 0.98)" --lr 1e-3 --lr-scheduler inverse_sqrt --warmup-updates 300 \
    --max-tokens "$4" --required-batch-size-multiple 1 --cpu --num-workers 0 --seed "$seed" --max-update "$2" \
    --save-interval-updates 500 --keep-interval-updates 1 --no-epoch-checkpoints --disable-validation \
    --save-dir "$run" --log-format json --log-interval 100 --log-file "$run.log"
  touch "$run.done"
}
validate() { # what, name, then the task and what it measures
  "$python" -m fairseq_cli.validate "${@:3}" "${held_out[@]}" --path "$OUT/runs/$2/checkpoint_last.pt" --max-tokens 2048 \
    --log-format simple > "$OUT/runs/$2.$1.log" 2>&1
}
relation_loss() { # what, name, layers, then the relations: the loss of a model that learned something else
  # One update that changes nothing, and the validation after it: fairseq-validate takes a checkpoint's own task alone.
  [ -e "$OUT/runs/$2.$1.done" ] || "$python" -m fairseq_cli.train "${relations[@]}" "${@:4}" "${held_out[@]}" "${shape[@]}" \
    --encoder-layers "$3" --finetune-from-model "$OUT/runs/$2/checkpoint_last.pt" --optimizer sgd --lr 0 \
    --max-update 1 --max-tokens 2048 --required-batch-size-multiple 1 --cpu --num-workers 0 --seed "$seed" \
    --no-save --save-dir "$OUT/runs/$2.$1" --log-format json --log-file "$OUT/runs/$2.$1.log"
  touch "$OUT/runs/$2.$1.done"
}
measure() { # name, layers
  relation_loss minilmv2 "$1" "$2" "${v2[@]}"
  relation_loss minilm "$1" "$2" "${v1[@]}"
  local from=(--finetune-from-model "$OUT/runs/$1/checkpoint_last.pt")
  train "$1.tuned" "$tuning" "$2" "$tokens" "${masked_lm[@]}" "${from[@]}" --freeze-layers $(($2 - 1))
  validate perplexity "$1.tuned" "${masked_lm[@]}"
  classify "$1" "$2"
}
classify() { # name, layers
  CORPUS=$OUT/corpus DATA=$OUT/data INIT=$OUT/runs/$1/checkpoint_last.pt RUNS=$OUT/classify/$1 OUT=$OUT/classify \
    LEAVE_OUT=cs,de,fr PRESET=transformer_mlm_base LENGTH=128 BATCH=64 UPDATES=300 LR=5e-4 PROBE_UPDATES=0 \
    SEED=$seed bash "$here/../unilmv2/classify.sh" --cpu --validate-interval 2 "${shape[@]:2}" --encoder-layers "$2"
}
student() { # name: what it learns from, and its layers
  local layers=${1#*_}
  case $1 in
    v2_*) train "$1" "$updates" "$layers" "$tokens" "${relations[@]}" "${v2[@]}" ;;
    v1_*) train "$1" "$updates" "$layers" "$tokens" "${relations[@]}" "${v1[@]}" ;;
    scratch_*) train "$1" "$updates" "$layers" "$tokens" "${masked_lm[@]}" ;;
  esac
}

train teacher "$teacher_updates" 12 2048 "${masked_lm[@]}"
validate perplexity teacher "${masked_lm[@]}"
classify teacher 12 # it also makes the task, before two need it
some() { # names
  for name in "$@"; do
    student "$name"
    measure "$name" "${name#*_}"
  done
}
beside some v2_6 scratch_6 v2_3
beside some v1_6 v1_3 scratch_3
together
"$python" "$here/table.py" --runs "$OUT/runs" --classifiers "$OUT/classify" --output "$OUT/results" \
  --students "${students[@]}"
