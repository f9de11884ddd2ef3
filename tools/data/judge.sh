#!/usr/bin/env bash
# Draws 200 emoji that a model was trained on and 200 that were held out, and says what the pictures show, beside what
# the same check says of the true pictures:
#     tools/data/judge.sh PACKAGES [MODEL] [WORK]
set -euo pipefail
packages=${1:?the folder of the unpacked packages}
model=${2:-out/emoji-run/bundle}
work=${3:-out/emoji-judged}
emoji() { cargo run --release --quiet --manifest-path tools/data/Cargo.toml -- "$@"; }
check() { emoji check --packages "$packages" --pictures "$1" --train out/emoji/train; }
for part in train held_out; do
    for kind in true drawn; do
        folder=$work/$part-$kind
        copy=()
        if [ $kind = true ]; then copy=(--copy); fi
        emoji ask --data "out/emoji/$part" --out "$folder" "${copy[@]}"
        if [ $kind = drawn ]; then
            "${UNCLIP_BIN:-target/release/examples}/text_to_image" --prompts "$folder/captions.txt" --model "$model" \
                --out "$folder/"
        fi
        printf '\n%s, %s:\n\n' "$part" "$kind"
        check "$folder"
    done
done
