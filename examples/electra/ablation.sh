#!/usr/bin/env bash
# What focal loss and hardness prediction do to ELECTRA, small: plain, focal loss alone, HP_Loss and HP_Dist with the focal
# loss that comes with them, and both with cross-entropy (_ce).
# Each arm is trained with every seed, measured on held-out text, and its discriminator tells languages apart.
# CORPUS: Multi30k in OPUS-100's layout. TATOEBA: Tatoeba in that layout. OUT: everything is written there; the same
# command goes on where it was stopped. UPDATES: of every arm. SEEDS: numbers. One thread each, two at a time.
set -euo pipefail
: "${CORPUS:?set CORPUS to Multi30k in the layout of OPUS-100}" "${TATOEBA:?set TATOEBA to Tatoeba in that layout}"
: "${OUT:?set OUT to a folder for data, runs and results}"
python=${PYTHON:-python}
seeds=${SEEDS:-1 2 3} updates=${UPDATES:-3000}
here=$(dirname "$0")
export OMP_NUM_THREADS=1
. "$here/../side_by_side.sh"
same_as_before "$OUT" UPDATES "$updates"
. "$here/../joined_corpora.sh"
mkdir -p "$OUT/runs"
user_dir=$("$python" -m fairseq_plugins path)

train() { # name, seed, then arguments of fairseq-train
  local run=$OUT/runs/$1.$2
  local task=("$OUT/data" --user-dir "$user_dir" --task electra --mono-data "$OUT/mono" --texts mono,pairs
    --lang-pairs "$OUT/corpus/pairs.txt" --sampling-alpha 1 --tokens-per-sample 128 --criterion electra_hardness)
  [ -e "$run.done" ] || "$python" -m fairseq_cli.train "${task[@]}" --arch electra_tiny --residual pre \
    --optimizer fused_adam --adam-betas "(0.9, 0.98)" --lr 1e-3 --lr-scheduler inverse_sqrt --warmup-updates 300 \
    --max-tokens 2048 --required-batch-size-multiple 1 --cpu --num-workers 0 --seed "$2" --max-update "$updates" \
    --save-interval-updates 500 --no-epoch-checkpoints --disable-validation \
    --save-dir "$run" --log-format json --log-interval 10 --log-file "$run.log" "${@:3}"
  touch "$run.done"
  "$python" -m fairseq_cli.validate "${task[@]}" --path "$run/checkpoint_last.pt" --max-tokens 2048 --log-format simple \
    > "$run.valid.log" 2>&1
}
classify() { # name, seed
  CORPUS=$OUT/corpus DATA=$OUT/data INIT=$OUT/runs/$1.$2/checkpoint_last.pt OUT=$OUT/classify RUNS=$OUT/classify/$1.$2 \
    LEAVE_OUT=cs,de,fr LENGTH=128 BATCH=64 UPDATES=300 LR=5e-4 PROBE_UPDATES=100 PROBE_LR=1e-2 \
    bash "$here/classify.sh" --cpu
}
arm() { # name, then arguments of fairseq-train
  for seed in $seeds; do train "$1" "$seed" "${@:2}"; done
}
beside arm electra --hardness none
beside arm hp_loss --hardness loss
together
beside arm focal --hardness none --focal-gamma 1
beside arm hp_dist --hardness dist
together
beside arm hp_loss_ce --hardness loss --focal-gamma 0
beside arm hp_dist_ce --hardness dist --focal-gamma 0
together

arms=(electra focal hp_loss hp_dist hp_loss_ce hp_dist_ce)
for name in "${arms[@]}"; do
  for seed in $seeds; do classify "$name" "$seed"; done
done
logs=()
for name in "${arms[@]}"; do
  for seed in $seeds; do logs+=("$OUT/runs/$name.$seed.log"); done
done
"$python" "$here/sampled_originals.py" "${logs[@]}" --output "$OUT/results"
