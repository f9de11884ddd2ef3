#!/usr/bin/env bash
# Makes the pictures of docs/gallery.md anew, with the bundled model.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --release --features autodiff --examples
programs=${CARGO_TARGET_DIR:-$PWD/target}/release/examples
mkdir -p docs/gallery && cd docs/gallery
run() { name=$1; shift; "$programs/$name" "$@"; }
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT

run text_to_image "a large red circle above a small blue square" --n 4 --grid --out captions.jpg
run text_to_image "a large red circle above a small blue square" --prior ar --n 4 --grid --out ar_prior.jpg
run text_to_image "a large red circle in the middle" --out "$work/red.png"
run text_to_image "a small green star in the top left on a black background" --out "$work/star.png"
run text_to_image "a large red circle above a small blue square" --out "$work/pair.png"
run image_variation "$work/pair.png" --n 4 --grid --seed 1 --out variations.jpg
run image_variation "$work/pair.png" --through-prior --n 4 --grid --out through_prior.jpg
run interpolate "$work/red.png" "$work/star.png" --frames 7 --out interpolation.jpg
run interpolate --captions "a large red circle" "a small blue star" --frames 7 --out captions_between.jpg
run text_diff "$work/red.png" --from "a red circle" --to "a blue circle" --frames 6 --out text_diff.jpg
run mix "$work/red.png:0.5" "a blue star:0.5" --out mix.jpg
run probe "$work/pair.png" --components 1,4,8,12,16,24,32 --out probe.jpg
# a mask that is white around the blue square, as an uncompressed BMP, whose rows go upward
python3 - "$work/mask.bmp" <<'PY'
import struct, sys
side, hole = 512, (range(160, 352), range(290, 482))
rows = (bytes(255 * (x in hole[0] and side - 1 - y in hole[1]) for x in range(side) for _ in "rgb")
        for y in range(side))
head = struct.pack("<2sIHHI", b"BM", 54 + 3 * side * side, 0, 0, 54)
info = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 24, 0, 3 * side * side, 2835, 2835, 0, 0)
open(sys.argv[1], "wb").write(head + info + b"".join(rows))
PY
run inpaint "$work/pair.png" "$work/mask.bmp" "a large red circle above a small green star" --out inpainting.jpg
run outpaint "$work/pair.png" --left 128 --right 128 --out outpainting.jpg
run image_to_image "$work/red.png" "a large red square in the middle" --strength 0.7 --out image_to_image.jpg
run text_to_image "a ring" --n 24 --out "$work/rings/" >/dev/null
run text_to_image "a star on a black background" --n 24 --out "$work/stars/" >/dev/null
mkdir "$work/all" && mv "$work/rings" "$work/stars" "$work/all/"
run embed "$work/all" --out "$work/embeddings.safetensors" >/dev/null
run map "$work/embeddings.safetensors" --method tsne --size 512 --thumbnail 36 --out map.jpg
run rank "$work/red.png" "a red circle" "a red square" "a blue star"
