#!/usr/bin/env bash
# ELECTRA: pre-train a discriminator that finds the tokens a small generator has replaced, on text and, with
# TEXTS=mono,pairs, on translation pairs. HARDNESS=loss or dist: the generator learns which replacements are hard.
# DATA: folder of `opus100 prepare`. MONO: folder of `opus100 mono`. RUN: folder for checkpoints. GPUS: how many.
# PRESET: --arch. UPDATES: of the training. Arguments of fairseq-train may follow. Then: `export`, classify.sh.
set -euo pipefail
: "${DATA:?set DATA to the folder that opus100 prepare wrote}" "${MONO:?set MONO to the folder that opus100 mono wrote}"
: "${RUN:?set RUN to a folder for checkpoints}"
python=${PYTHON:-python}
gpus=${GPUS:-1} updates=${UPDATES:-766000}

# The recipe of electra_base: 256 texts of 512 tokens in a batch, warm-up of 10,000 updates, linear decay.
[ -e "$RUN/done.$updates" ] || "$python" -m fairseq_cli.train "$DATA" --user-dir "$("$python" -m fairseq_plugins path)" --task electra \
  --mono-data "$MONO" --texts "${TEXTS:-mono}" --mask-prob 0.15 --leave-unmasked-prob 0.15 \
  --arch "${PRESET:-electra_base}" --hardness "${HARDNESS:-none}" --criterion electra_hardness --discriminator-weight 50 \
  --optimizer fused_adam --adam-betas "(0.9, 0.999)" --adam-eps 1e-6 --weight-decay 0.01 --clip-norm 1.0 --lr 2e-4 \
  --lr-scheduler polynomial_decay --warmup-updates $((updates > 100000 ? 10000 : updates / 10)) --total-num-update "$updates" \
  --max-update "$updates" --tokens-per-sample 512 --max-tokens 16384 --update-freq $(((8 + gpus - 1) / gpus)) \
  --save-dir "$RUN" --save-interval-updates 10000 --keep-interval-updates 2 --log-format json --log-file "$RUN.log" "$@"
mkdir -p "$RUN" && touch "$RUN/done.$updates"
