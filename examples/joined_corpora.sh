# Sourced by scripts that pre-train small models on Multi30k and Tatoeba together.
#
# Reads CORPUS, TATOEBA, OUT and python. Makes, where they are not there yet:
#   OUT/corpus   both corpora in OPUS-100's layout, their text by language, and pairs.txt (the pairs of Tatoeba)
#   OUT/data     the same binarised, with 8,000 pieces
#   OUT/mono     captions in four languages, binarised
# verb WORDS ...   runs a verb of opus100

verb() { "$python" -m fairseq_plugins.opus100 "$@"; }

"$python" "$(dirname "${BASH_SOURCE[0]}")/unilmv2/join_corpora.py" --corpus "$CORPUS" --corpus "$TATOEBA" --rename eng=en --out "$OUT/corpus"
verb prepare --corpus "$OUT/corpus" --data "$OUT/data" --vocab-size 8000 --character-coverage 0.9995 --temperature 1.5 \
  --keep-untested
text=$OUT/corpus/text
verb mono --data "$OUT/data" --out "$OUT/mono" --valid-lines 500 --text "cs=$text/cs" --text "de=$text/de" \
  --text "en=$text/en" --text "fr=$text/fr"
