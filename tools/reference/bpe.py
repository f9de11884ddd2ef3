"""A small byte-pair vocabulary in the layout of CLIP's, and reference tokenisations with it."""

import re
import tempfile
from collections import Counter
from pathlib import Path

from transformers import CLIPTokenizer

MERGES = 320
LENGTH = 24
START = "<|startoftext|>"
END = "<|endoftext|>"

#: How the reference tokenizer is set up, as in the published Karlo folder.
CONFIG = {
    "bos_token": START,
    "eos_token": END,
    "unk_token": END,
    "pad_token": "!",
    "model_max_length": LENGTH,
}

#: What the merges are learned from.
CORPUS = """
a photo of a cat! a photo of a dog. a drawing of a red circle and a blue square on a green table
the small yellow triangle is above the large purple star, left of the orange ring
a painting of two cats sitting on the moon, in the style of an old master
an astronaut riding a horse through the desert at sunset; digital art, highly detailed
a bowl of soup that looks like a monster, knitted out of wool
a corgi's head depicted as an explosion of a nebula... it's what they're waiting for
i've seen what we'll do and he'd say i'm sure you don't know what it's about
panda mad scientist mixing sparkling chemicals, artstation!! wow!!! 
three red circles below one white cross - 64x64 pixels, 1000 steps, 25 images in 2022
the quick brown fox jumps over the lazy dog while the other foxes are watching
photograph photography painting paintings circle circles square squares standing sitting
über straße café naïve façade café être déjà señor niño
кот и собака на крыше красный круг и синий квадрат кот
שלום עולם חתול אדום
猫 犬 赤い丸 青い四角 猫が好き 🐱 🐱 🐶 ❤️ ❤️
"""

#: Strings whose tokenisation is recorded.
TEXTS = [
    "",
    " ",
    "a photo of a cat",
    "A Photo Of A CAT",
    "a cat!",
    "!",
    "!!",
    "! a ! b !c! wow!!!",
    "a!cat",
    "?!",
    "  leading,   many \t\t spaces \n\n and \r\n lines  ",
    "no\u00a0break\u3000ideographic\u2003em\u200bzero\u0085next",
    "it's they're I'VE we'll he'd I'm don't",
    "'sup 'tis 'S 'LL cats' ''' o'clock rock'n'roll",
    "don\u2019t \u2018quote\u2019 \u201cdouble\u201d",
    "1000 steps, 25 images, 3.14 and 64x64",
    "\u00bd \u00b2 \u2167 \u0663\u0664 \uff11\uff12",
    "caf\u00e9 \u00fcber Stra\u00dfe \u1e9e",
    "cafe\u0301 u\u0308ber A\u030angstro\u0308m \u212b",
    "a\u0301\u0302\u0303 x\u0336y\u0336 \u0301alone",
    "\u041a\u043e\u0442 \u0438 \u0421\u041e\u0411\u0410\u041a\u0410",
    "\u039f\u0394\u039f\u03a3 \u03c2 \u0130stanbul I\u0131",
    "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd \u200f\u05d7\u05ea\u05d5\u05dc",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645 \u202eabc\u202c",
    "\u0939\u093f\u0928\u094d\u0926\u0940 \u0e44\u0e17\u0e22",
    "\u732b\u304c\u597d\u304d \ud55c\uae00 \u1112\u1161\u11ab",
    "\U0001f431\U0001f436 \u2764\ufe0f",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466",
    "\U0001f44d\U0001f3fd \U0001f1e9\U0001f1ea",
    "a\x00b",
    "\x07bell\x1b[0m \x7f",
    "\ufeffbom \ufffd \U0010ffff",
    "snake_case kebab-case dots... a/b\\c #tag @name 50% $5 &amp; <b>",
    "<|startoftext|>",
    "a <|endoftext|> b",
    "<|EndOfText|>x<|ENDOFTEXT|>",
    "</w> a</w>",
    "photographyphotograph circlescircle",
    "cat " * 40,
    "!" * 40,
    "a" * 100,
    "one two three four five six seven eight nine ten eleven twelve thirteen",
    "\U0001f431" * 30,
    "x y z a b c d e f g h i j k l m n o p q r s",
    "x y z a b c d e f g h i j k l m n o p q r s t",
    "of the \ud55c\u6f22\u0416 and a red circle, left of a blue square?",
]


def byte_characters():
    """The printable character that stands for each byte, in the order of CLIP's vocabulary."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    characters = {byte: chr(byte) for byte in printable}
    characters.update({byte: chr(256 + index) for index, byte in enumerate(others)})
    return characters


def train():
    """The vocabulary (symbol to id) and the list of merges.

    Ids follow CLIP: 256 byte characters, the same with the end-of-word suffix, one symbol per
    merge, start, end.
    """
    characters = byte_characters()
    pattern = r"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|[^\s\w]+"
    words = Counter()
    for word in re.findall(pattern, CORPUS.lower()):
        symbols = [characters[byte] for byte in word.encode()]
        symbols[-1] += "</w>"
        words[tuple(symbols)] += 1

    merges = []
    while len(merges) < MERGES:
        pairs = Counter()
        for symbols, count in words.items():
            for pair in zip(symbols, symbols[1:]):
                pairs[pair] += count
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        merged = Counter()
        for symbols, count in words.items():
            merged[merge(symbols, best)] += count
        words = merged

    symbols = list(characters.values())
    symbols += [symbol + "</w>" for symbol in characters.values()]
    symbols += [left + right for left, right in merges]
    symbols += [START, END]
    assert len(set(symbols)) == len(symbols)
    return {symbol: index for index, symbol in enumerate(symbols)}, merges


def merge(symbols, pair):
    """``symbols`` with every occurrence of ``pair`` joined, from left to right."""
    result = []
    index = 0
    while index < len(symbols):
        if symbols[index : index + 2] == pair:
            result.append(symbols[index] + symbols[index + 1])
            index += 2
        else:
            result.append(symbols[index])
            index += 1
    return tuple(result)


def table(vocab_json, merges_txt):
    """Ids and masks of every string, padded or truncated to ``LENGTH``.

    ``ids`` and ``mask`` are those of the reference, where "!" is the padding token: an
    exclamation mark in a text becomes id 0 too, with mask 1. ``plain_ids`` and ``plain_mask``
    treat "!" as any other character and still pad with 0.
    """
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "vocab.json").write_text(vocab_json, encoding="utf-8")
        Path(folder, "merges.txt").write_text(merges_txt, encoding="utf-8")
        reference = CLIPTokenizer.from_pretrained(folder, **CONFIG)
        plain = CLIPTokenizer.from_pretrained(folder, **{**CONFIG, "pad_token": END})
    cases = []
    for text in TEXTS:
        encoded = reference(text, padding="max_length", max_length=LENGTH, truncation=True)
        ids = plain(text, max_length=LENGTH, truncation=True)["input_ids"]
        padding = [0] * (LENGTH - len(ids))
        cases.append(
            {
                "text": text,
                "ids": encoded["input_ids"],
                "mask": encoded["attention_mask"],
                "plain_ids": ids + padding,
                "plain_mask": [1] * len(ids) + padding,
            }
        )
    return cases
