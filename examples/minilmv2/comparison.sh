#!/usr/bin/env bash
# What a student learns from its teacher's relations, small: MiniLMv2 and MiniLM against masked language modelling from
# scratch, students of 6 and of 3 layers, one teacher of 12.
# Every student is measured in both losses on held-out text, predicts masked tokens after a short tuning (of its last
# layer and head, and of all of it), and tells languages apart.
# CORPUS: Multi30k in OPUS-100's layout. TATOEBA: Tatoeba in that layout. OUT: everything is written there; the same
# command goes on where it was stopped. TEACHER_UPDATES, UPDATES, TUNING_UPDATES, SEED: of the trainings. One thread
# each, two at a time.
set -euo pipefail
: "${CORPUS:?set CORPUS to Multi30k in the layout of OPUS-100}" "${TATOEBA:?set TATOEBA to Tatoeba in that layout}"
: "${OUT:?set OUT to a folder for data, runs and results}"
python=${PYTHON:-python}
seed=${SEED:-1} teacher_updates=${TEACHER_UPDATES:-3000} updates=${UPDATES:-2000} tuning=${TUNING_UPDATES:-300}
here=$(dirname "$0")
export OMP_NUM_THREADS=1
. "$here/../side_by_side.sh"
same_as_before "$OUT" "TEACHER_UPDATES, UPDATES, TUNING_UPDATES or SEED" "$teacher_updates" "$updates" "$tuning" "$seed"
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

train() { # name, updates, layers, then arguments of fairseq-train
  local run=$OUT/runs/$1
  # Not again where it is done: fairseq-train looks at --max-update only after a step.
  [ -e "$run.done" ] || "$python" -m fairseq_cli.train "${@:4}" "${shape[@]}" --encoder-layers "$3" \
    --optimizer fused_adam --adam-betas "(0.9, 0.98)" --lr 1e-3 --lr-scheduler inverse_sqrt --warmup-updates 300 \
    --max-tokens 2048 --required-batch-size-multiple 1 --cpu --num-workers 0 --seed "$seed" --max-update "$2" \
    --save-interval-updates 500 --keep-interval-updates 1 --no-epoch-checkpoints --validate-interval-updates 1000 \
    --save-dir "$run" --log-format json --log-interval 100 --log-file "$run.log"
  touch "$run.done"
}
