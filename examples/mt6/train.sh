#!/usr/bin/env bash
# mT6: pre-train on monolingual text and translation pairs, then fine-tune for translation in every direction.
# DATA: folder of `opus100 prepare`. MONO: folder of `opus100 mono`. RUN: folder for checkpoints. GPUS: how many.
# UPDATES, FINE_TUNING_UPDATES: of the two trainings. Arguments of `opus100 train` may follow.
set -euo pipefail
: "${DATA:?set DATA to the folder that opus100 prepare wrote}" "${MONO:?set MONO to the folder that opus100 mono wrote}"
: "${RUN:?set RUN to a folder for checkpoints}"
python=${PYTHON:-python}
gpus=${GPUS:-1} updates=${UPDATES:-500000}

# The batch of the paper: 256 sequences of 512 tokens, half of them monolingual. Not again where it is done: fairseq-train
# looks at --max-update only after a step.
[ -e "$RUN/pretraining/done.$updates" ] || "$python" -m fairseq_cli.train "$DATA" --user-dir "$("$python" -m fairseq_plugins path)" --task mt6_pretraining --mono-data "$MONO" \
  --objectives sc,tsc --pnat-groups 3 --language-tags --criterion mt6_pretraining --arch "${PRESET:-mt6_small}" \
  --optimizer fused_adam --adam-betas "(0.9, 0.999)" --adam-eps 1e-6 --clip-norm 1.0 --lr 1e-4 --lr-scheduler polynomial_decay \
  --warmup-updates 10000 --total-num-update "$updates" --max-update "$updates" --tokens-per-sample 512 \
  --max-tokens 8192 --update-freq $(((16 + gpus - 1) / gpus)) --save-dir "$RUN/pretraining" --save-interval-updates 10000 \
  --keep-interval-updates 2 --log-format json --log-file "$RUN/pretraining.log"
mkdir -p "$RUN/pretraining" && touch "$RUN/pretraining/done.$updates"

"$python" -m fairseq_plugins.opus100 train --data "$DATA" --run "$RUN/translation" --arch "${PRESET:-mt6_small}" \
  --init-from "$RUN/pretraining/checkpoint_last.pt" --max-update "${FINE_TUNING_UPDATES:-100000}" "$@"
