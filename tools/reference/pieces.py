"""The tokenizer of Kandinsky 2.1's text tower: XLM-RoBERTa's, in small.

sentencepiece learns the pieces and compiles the table of replacements; the marks are those of
XLM-RoBERTa, in its order.
"""

import io
import tempfile
from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from karlo_files import write_json

#: What the pieces are learnt from.
SENTENCES = """
a painting of two cats on the moon, highly detailed digital art
a large red circle above a small blue square
a photograph of an astronaut riding a horse, oil on canvas, trending
une peinture de deux chats sur la lune, très détaillée
ein großes Gemälde von zwei Katzen auf dem Mond
красный кот сидит на большом синем квадрате, фотография
картина с двумя котами на луне, высокая детализация
月の上の二匹の猫の絵
un cuadro de dos gatos en la luna, ¡qué bonito!
""".strip().splitlines()

#: Replacements of the small table: characters and what they become, as code points.
RULES = [("Ａ", "A"), ("ａ", "a"), ("ﬁ", "fi"), ("™", "TM"), ("e\u0301", "\u00e9"), ("\u00a0", " "), ("\u200b", ""), ("…", "...")]

MARKS = ["<s>", "<pad>", "</s>", "<unk>"]


def train(size, rules):
    """sentencepiece's model of so many pieces, with the small table or one of its own by name."""
    with tempfile.TemporaryDirectory() as folder:
        options = {"normalization_rule_name": rules}
        if rules == "small":
            table = Path(folder) / "rules.tsv"
            points = lambda text: " ".join(f"{ord(c):X}" for c in text)  # noqa: E731
            table.write_text("".join(f"{points(a)}\t{points(b)}\n" for a, b in RULES), encoding="utf-8")
            options = {"normalization_rule_tsv": str(table)}
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(SENTENCES),
            model_writer=model,
            vocab_size=size,
            character_coverage=1.0,
            num_threads=1,
            hard_vocab_limit=False,
            minloglevel=2,
            **options,
        )
    return sentencepiece_model_pb2.ModelProto.FromString(model.getvalue())


def write_tokenizer(folder, pieces, vocabulary=None, rules="small", older=False):
    """`tokenizer.json` and what says how it is used. Up to `vocabulary` it is filled with pieces that
    no text reaches. With `older`, the steps are those that versions of transformers wrote when
    Kandinsky 2.1 was published. Gives the number of tokens."""
    proto = train(pieces, rules)
    # sentencepiece's first three are marks; scores have the digits of f32
    learned = [(piece.piece, float(piece.score)) for piece in proto.pieces[3:]]
    words = [*((mark, 0.0) for mark in MARKS), *learned]
    vocabulary = vocabulary or len(words) + 1
    words += [(f"\u2581unused{index}\u2581", -30.0) for index in range(vocabulary - 1 - len(words))]
    words.append(("<mask>", 0.0))
    tokenizer = Tokenizer(models.Unigram(words, unk_id=3, byte_fallback=False))
    table = normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap)
    metaspace = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="always")
    if older:
        tokenizer.normalizer = normalizers.Sequence([table, normalizers.Replace(Regex(" {2,}"), " ")])
        tokenizer.pre_tokenizer = metaspace
    else:
        tokenizer.normalizer = table
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), metaspace])
    marks = [AddedToken(mark, special=True, normalized=False) for mark in MARKS]
    tokenizer.add_special_tokens([*marks, AddedToken("<mask>", lstrip=True, special=True, normalized=False)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    named = {
        "bos_token": "<s>",
        "cls_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "sep_token": "</s>",
        "unk_token": "<unk>",
    }
    write_json(folder / "special_tokens_map.json", named)
    write_json(
        folder / "tokenizer_config.json",
        {**named, "model_max_length": 512, "tokenizer_class": "XLMRobertaTokenizer"},
    )
    return vocabulary
