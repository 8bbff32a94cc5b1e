"""Word pools from which the tasks draw their content."""

# ruff: noqa: SIM905  (a pool reads better as running words than as a column of quotes)

NAMES = (
    "Anna Ben Clara David Emma Felix Grace Hugo Iris Jack Karin Leo Maria Noah Olga Paul Quinn Rosa Sam Tina Uwe Vera "
    "Walter Xenia Yusuf Zoe Adam Bella Carl Diana Erik Fiona Georg Helen Ivan Julia Kurt Laura Mark Nina Oscar Petra "
    "Ralf Sara Tom Ursula Victor Wanda Amir Bruno Celia Dario Elena Frank Greta Hanna Igor Jonas Kim Lena Max Nora "
    "Otto Pia Rita Simon Theo Ute Viola Will Yara"
).split()

NOUNS = (
    "apple bread chair door eagle fish garden house island jacket kettle lemon mirror needle ocean paper queen river "
    "stone table uncle village window yard zebra anchor bridge candle desk engine flower glass hammer ink jar king "
    "lamp moon night orange pencil quilt rabbit ship train umbrella valley water arrow boat cloud dust earth fire "
    "gold hill iron jewel knife leaf"
).split()

COLOURS = "red blue green yellow black white purple brown pink grey".split()
CITIES = "Paris Rome Berlin Madrid Oslo Vienna Prague Dublin Lisbon Athens Tokyo Cairo Lima Delhi Seoul Quito".split()

MONTHS = ("January February March April May June July August September October November December").split()

# Content for copying that is rare enough to be spelled byte by byte.
ACCENTED = "café naïve Zürich señor façade über Málaga crème Łódź Škoda fjørd Ærø jalapeño Dvořák château".split()
CJK = "日本語中国文字学校東京山川水火木金土月天人大小上下左右春夏秋冬花鳥風雨雪"
EMOJI = "😀😂🎉🚀🌍🍕🐱🐶🌈🔥🎵📚"
