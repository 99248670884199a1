"""Makes the strings on which two tokenizers are compared: the same ones on every machine."""

import random
import unicodedata

SENTENCES = [
    "The quick brown fox jumps over the lazy dog.",
    "Portez ce vieux whisky au juge blond qui fume.",
    "Falsches Üben von Xylophonmusik quält jeden größeren Zwerg.",
    "Жил-был король, и было у него три сына.",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία.",
    "דג סקרן שט בים מאוכזב ולפתע מצא חברה",
    "نص حكيم له سر قاطع وذو شأن عظيم",
    "ऋषियों को सताने वाले दुष्ट राक्षसों के राजा",
    "เป็นมนุษย์สุดประเสริฐเลิศคุณค่า",
    "今天天气很好，我们去公园散步吧。",
    "いろはにほへと ちりぬるを カタカナ",
    "키스의 고유조건은 입술끼리 만나야 하고",
    "Tiếng Việt có nhiều dấu: ằ ẵ ặ ế ỗ ữ.",
    "ሰላም ለዓለም። ქართული ენა, հայերեն լեզու",
    "I'M SURE they'Ll say IT'S what we'Ve got, don'T they? y'all'd've",
    "rock ’n’ roll – “quoted” — it’s typographic…",
    "Visit https://example.org/a_b?q=1&x=%20y#frag or mail me@example.org!",
    "int main(void) { return printf(\"%d\\n\", 42) != 0; } // done",
    "def f(x: int) -> str:\n    return f\"{x!r:>10}\"\n\n\tif x:\n\t\tpass\n",
    "SELECT * FROM t WHERE a >= 3.14159 AND b <> 'it''s';",
    "<div class=\"a-b\"><!-- x --></div>&nbsp;<br/>",
    "x² + y³ = ½·√π ≈ 1e-9; ∑_{i=0}^{n} αᵢ ≠ ∞",
    "100,000.00 2024-02-30 12:34:56 +49-30-123456 0x1F 1234567890123",
    "٣٤٥ ४५६ Ⅷ ⅳ ① ⑳ ¾ 〇 一二三 ௧௨௩ 𝟘𝟙𝟚",
    "👩‍👩‍👧‍👦 👍🏽 🇩🇪🇫🇷 ☺️ 🏴󠁧󠁢󠁥󠁮󠁧󠁿 1️⃣ ❤️‍🔥 🤷🏿‍♀️",
    "ﬁ ﬂ ﬃ ſ K Å ℃ Ⅻ ㎏ ｆｕｌｌ ｗｉｄｔｈ",
    "'s 't 're 've 'm 'll 'd 'S 'RE 'ſ ’s",
    "zero\u200bwidth\u200cjoin\u200der\u2060s \ufeffbom \u00adsoft\u180ehyphen",
]

WHITE_SPACE = [" ", "  ", "   ", "\t", "\n", "\r\n", "\r", "\n\n", " \n", "\n ", "\u00a0", "\u3000",
               "\u2009", "\u2028", "\u0085", "\v", "\f", "\u1680", "\u180e", "\u200b", "\x1c",
               "\x1f"]

BLOCKS = [(0x00, 0x7F), (0x80, 0x24F), (0x300, 0x36F), (0x370, 0x52F), (0x590, 0x6FF),
          (0x900, 0xDFF), (0xE00, 0xEFF), (0x1100, 0x11FF), (0x1AB0, 0x1AFF), (0x1E00, 0x1FFF),
          (0x2000, 0x2BFF), (0x3000, 0x30FF), (0x4E00, 0x4FFF), (0xA640, 0xABFF), (0xAC00, 0xACFF),
          (0xFB00, 0xFFFF), (0x10000, 0x10FFF), (0x11000, 0x11FFF), (0x1D100, 0x1D7FF),
          (0x1E000, 0x1EFFF), (0x1F000, 0x1FAFF), (0xE0000, 0xE01FF)]

PIECES = ["foo", "bar", "Hello", " world", "ing", "tion", "'s", "'T", "'Re", "_", "--", "...", "==",
          "->", "::", "/*", "*/", "<", "|", ">", "\x1c\x1d", "\x00", "\x7f", "é", "e\u0301",
          "\u0301", "가", "\u1100\u1161", "Å", "ñ", "你", "好", "🙂", "1", "23", "456", "7890"]


def _character(rng, low, high):
    while True:
        code_point = rng.randint(low, high)
        if not 0xD800 <= code_point <= 0xDFFF:
            return chr(code_point)


def _any_characters(rng, _tokens):
    return "".join(_character(rng, 0, 0x10FFFF) for _ in range(rng.randint(1, 12)))


def _one_block(rng, _tokens):
    low, high = rng.choice(BLOCKS)
    return "".join(_character(rng, low, high) for _ in range(rng.randint(1, 30)))


def _mixed_blocks(rng, _tokens):
    return "".join(_one_block(rng, None)[:rng.randint(1, 6)] + rng.choice(["", " ", "\n", "'s"])
                   for _ in range(rng.randint(2, 8)))


def _control_characters(rng, _tokens):
    return "".join(rng.choice([chr(rng.randint(0, 31)), chr(rng.randint(127, 159)), "a", " "])
                   for _ in range(rng.randint(1, 20)))


def _sentence(rng, _tokens):
    words = " ".join(rng.choice(SENTENCES) for _ in range(rng.randint(1, 3))).split(" ")
    begin = rng.randrange(len(words))
    text = " ".join(words[begin:begin + rng.randint(1, 25)])
    form = rng.choice(["NFC", "NFD", "NFKD", None, None])
    return unicodedata.normalize(form, text) if form else text


def _changed_case(rng, _tokens):
    return "".join(rng.choice([c, c.upper(), c.lower(), c.title()]) for c in _sentence(rng, None))


def _white_space(rng, _tokens):
    parts = []
    for _ in range(rng.randint(1, 8)):
        parts.append(rng.choice(WHITE_SPACE) * rng.choice([1, 1, 2, 3, 17]))
        parts.append(rng.choice(["", "", "a", "word", "1", "!", "你"]))
    return "".join(parts)


def _pieces(rng, _tokens):
    return "".join(rng.choice(PIECES) for _ in range(rng.randint(1, 20)))


def _digits(rng, _tokens):
    digits = "0123456789٠१²½Ⅷ①"
    return "".join(rng.choice(digits) if rng.random() < 0.8 else rng.choice(" .,-a\n")
                   for _ in range(rng.randint(1, 25)))


def _code(rng, _tokens):
    indent = rng.choice(["  ", "    ", "\t"])
    lines = [indent * rng.randint(0, 6) + rng.choice(SENTENCES[15:22]) for _ in range(5)]
    return rng.choice(["\n", "\r\n", "\n\n"]).join(lines[:rng.randint(1, 5)])


def _reordered_marks(rng, _tokens):
    marks = "\u0301\u0323\u0327\u0308\u0338\u0345\u05b0\u0651\u093c\u3099\u0f71\u1161\u11a8"
    return "".join(rng.choice("aeioucnsAEOU가ᄀकかཀ ") +
                   "".join(rng.choice(marks) for _ in range(rng.randint(0, 4)))
                   for _ in range(rng.randint(1, 10)))


def _tokens_in_text(rng, tokens):
    parts = []
    for _ in range(rng.randint(1, 6)):
        parts.append(rng.choice(["", "", " ", "  ", "\n\t ", "\u3000", "\u200d"]))
        parts.append(rng.choice(tokens))
        parts.append(rng.choice(["", "", " ", "   ", "\n", "x", "_", "9", "é", "\u0301", "Ⓐ", "."]))
        parts.append(rng.choice(["", "", rng.choice(PIECES), _sentence(rng, None)]))
    return "".join(parts)


def _broken_tokens(rng, tokens):
    parts = []
    for _ in range(rng.randint(1, 6)):
        token = rng.choice(tokens)
        parts.append(token[rng.randrange(len(token)):])
        parts.append(token[:rng.randint(1, len(token))])
    return "".join(parts)


def _long_run(rng, _tokens):
    return (rng.choice(["", "x", " "]) + rng.choice(PIECES + WHITE_SPACE) * rng.randint(50, 400) +
            rng.choice(["", "x", " ", "1"]))


def _long_word(rng, _tokens):
    return "".join(rng.choice("etaoinshrdlué") for _ in range(rng.randint(200, 1000)))


# How often each kind is made.
KINDS = {_any_characters: 1500, _one_block: 3500, _mixed_blocks: 1500, _control_characters: 700,
         _sentence: 2500, _changed_case: 1500, _white_space: 2000, _pieces: 2000, _digits: 1200,
         _code: 800, _reordered_marks: 1500, _tokens_in_text: 2500, _broken_tokens: 800,
         _long_run: 400, _long_word: 100}


def make_corpus(tokens, seed=20240607):
    """Distinct strings of every kind, with `tokens` (added and special ones) inside some of them."""
    rng = random.Random(seed)
    strings = [""] + SENTENCES + WHITE_SPACE + PIECES + list(tokens)
    strings += [chr(c) for c in range(0x250)]
    strings += ["a" * 30000, "ab" * 15000, "1" * 20000, "é" * 10000]
    strings += [" " * 5000, "\n" * 3000 + "x"]
    for kind, count in KINDS.items():
        strings += [kind(rng, tokens) for _ in range(count)]
    return list(dict.fromkeys(strings))
