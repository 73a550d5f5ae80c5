#!/usr/bin/env bash
# Pseudo-labels of a teacher with softer attention (PLATE): one direction of a corpus with the teacher's translations in the place of its own.
# CORPUS: in OPUS-100's layout. DATA: folder that `opus100 prepare` made of it. TEACHER: a checkpoint. PAIR: the direction. OUT: folder for the
# new corpus, to be prepared with `--vocabulary DATA`. TEMPERATURE: T, 1.5 or 2 head widths in the paper; 0 is ordinary attention.
# The same command finds what it has written: by the contents of TEACHER and DATA, PAIR, T, BEAM and the arguments of fairseq-generate that may follow.
set -euo pipefail
: "${CORPUS:?set CORPUS to a corpus in the layout of OPUS-100}" "${DATA:?set DATA to the folder that opus100 prepare made of it}"
: "${TEACHER:?set TEACHER to a checkpoint}" "${OUT:?set OUT to a folder for the new corpus}"
python=${PYTHON:-python} pair=${PAIR:-de-en} temperature=${TEMPERATURE:-128} beam=${BEAM:-5}
IFS=: read -ra files <<< "$TEACHER:$DATA/manifest.json" # several checkpoints are an ensemble
told=$({ printf '%s\0' "$pair" "$beam" "$@"; cat "${files[@]}" 2> /dev/null || true; } | sha256sum) # a missing one is the engine's to refuse
generated=$OUT/generated.$temperature.${told:0:16}.txt

mkdir -p "$OUT"
[ -e "$generated" ] || "$python" -m fairseq_cli.generate "$DATA" --user-dir "$("$python" -m fairseq_plugins path)" \
  --task translation_multi_simple_epoch --lang-dict "$DATA/languages.txt" --fixed-dictionary "$DATA/dict.txt" --lang-pairs "$pair" \
  --encoder-langtok tgt -s "${pair%-*}" -t "${pair#*-}" --gen-subset train --path "$TEACHER" \
  --model-overrides "{'attention_temperature': $temperature}" --beam "$beam" --max-len-b 200 --max-tokens "${MAX_TOKENS:-4000}" \
  --remove-bpe sentencepiece "$@" > "$generated.part"
[ -e "$generated" ] || mv "$generated.part" "$generated"
"$python" "$(dirname "$0")/label_corpus.py" --corpus "$CORPUS" --direction "$pair" --generated "$generated" --out "$OUT"
