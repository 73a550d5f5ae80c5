#!/usr/bin/env bash
# What the losses of one pass are worth (the paper's ablation, small): AE + PAR, AE, PAR, and AR (PAR without blocks).
# Each arm is pre-trained, measured in both losses, then translates German and English, and tells languages apart.
# CORPUS: Multi30k in OPUS-100's layout. TATOEBA: Tatoeba in that layout. OUT: everything is written there; the same
# command goes on where it was stopped. UPDATES, FINE_TUNING_UPDATES, SEED: of every arm. One thread each, two at a time.
set -euo pipefail
: "${CORPUS:?set CORPUS to Multi30k in the layout of OPUS-100}" "${TATOEBA:?set TATOEBA to Tatoeba in that layout}"
: "${OUT:?set OUT to a folder for data, runs and results}"
python=${PYTHON:-python}
seed=${SEED:-1} updates=${UPDATES:-3000}
here=$(dirname "$0")
export OMP_NUM_THREADS=1
. "$here/../side_by_side.sh"
same_as_before "$OUT" "UPDATES or SEED" "$updates" "$seed"

. "$here/../joined_corpora.sh"
verb prepare --corpus "$OUT/corpus" --pairs de-en --data "$OUT/fine_tune" --vocabulary "$OUT/data"
mkdir -p "$OUT/pretraining"
user_dir=$("$python" -m fairseq_plugins path)
task=(--user-dir "$user_dir" --task pseudo_masked_lm --mono-data "$OUT/mono" --texts mono,pairs --lang-pairs "$OUT/corpus/pairs.txt"
  --sampling-alpha 1 --tokens-per-sample 128 --criterion pseudo_masked_lm)

pretrain() { # name, then arguments of fairseq-train
  local run=$OUT/pretraining/$1
  [ -e "$run.done" ] || "$python" -m fairseq_cli.train "$OUT/data" "${task[@]}" --arch unilmv2_tiny --residual deepnorm \
    --optimizer fused_adam --adam-betas "(0.9, 0.98)" --lr 1e-3 --lr-scheduler inverse_sqrt --warmup-updates 300 \
    --max-tokens 2048 --required-batch-size-multiple 1 --cpu --num-workers 0 --seed "$seed" --max-update "$updates" \
    --save-interval-updates 500 --keep-interval-updates 1 --no-epoch-checkpoints --validate-interval-updates 3000 \
    --save-dir "$run" --log-format json --log-interval 100 --log-file "$run.log" "${@:2}"
  touch "$run.done"
  # The masks of every arm are the same: those of the paper, not those that AR learned from.
  "$python" -m fairseq_cli.validate "$OUT/data" "${task[@]}" --objectives ae,par --block-probability 0.4 --path "$run/checkpoint_last.pt" \
    --max-tokens 2048 --log-format simple > "$run.valid.log" 2>&1
}
fine_tune() { # name, then arguments of fairseq-train
  verb train --data "$OUT/fine_tune" --run "$OUT/runs/$1" --arch unilmv2_seq2seq_tiny --dropout 0.1 --max-tokens 768 \
    --max-positions 63 --sampling concat --lr 1e-3 --warmup-updates 300 --max-update "${FINE_TUNING_UPDATES:-1500}" \
    --threads 1 --seed "$seed" --save-interval-updates 250 --keep-checkpoints 1 \
    -- --residual deepnorm --required-batch-size-multiple 1 --position-table 128 "${@:2}"
  verb evaluate --data "$OUT/fine_tune" --run "$OUT/runs/$1" --output "$OUT/results/$1"
}
classify() { # name; the text of the task is made by the first
  CORPUS=$OUT/corpus DATA=$OUT/data INIT=$OUT/pretraining/$1/checkpoint_last.pt OUT=$OUT/classify RUNS=$OUT/classify/$1 \
    LEAVE_OUT=cs,de,fr PRESET=unilmv2_tiny LENGTH=128 BATCH=64 UPDATES=300 LR=5e-4 PROBE_UPDATES=100 PROBE_LR=1e-2 \
    SEED=$seed bash "$here/classify.sh" --cpu --residual deepnorm
}
arm() { # name, then arguments of the pre-training
  pretrain "$@"
  fine_tune "$1" --pretrained-checkpoint "$OUT/pretraining/$1/checkpoint_last.pt"
}
beside arm ae_par
beside arm par --objectives par
together
beside arm ae --objectives ae
beside arm ar --objectives par --block-probability 0
together

fine_tune scratch
for name in ae_par ae par ar; do classify "$name"; done
verb compare --data "$OUT/fine_tune" --results "$OUT/results/"{scratch,ae_par,ae,par,ar} --output "$OUT/comparison"
