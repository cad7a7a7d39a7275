"""The words by which answers are stated, denied and given reasons for, in the languages that are read.

English, German, French, Spanish, Italian, Portuguese, Dutch, Russian, Chinese, Japanese, Korean. Alternatives of
regular expressions, to be read without regard to letter case in text that `normalise.fold` has folded.
"""

from __future__ import annotations

import re


def _any(*alternatives: str) -> str:
    return "|".join(alternatives)


def words(*alternatives: str) -> str:
    """Alternatives as whole words; scripts without spaces need no border."""
    return rf"(?<![a-zA-Z\u00c0-\u024f])(?:{'|'.join(alternatives)})(?![a-zA-Z\u00c0-\u024f])"


NAME = _any(
    words("answers?", "ans", "antwort(?:en)?", "lösung", "réponses?", "respuestas?", "rispost[ae]", "respostas?", "antwoord"),
    words("svar(?:et)?", "odpowiedź", "odpověď", "cevap", "jawaban", "đáp án", "câu trả lời", "gabarito"),
    "ответ(?:ом)?", "відповідь", "答案", "答え", "正解", "解答", "回答", "정답", "답변", "답", "الإجابة", "الجواب", "उत्तर",
)  # fmt: skip
"""What an answer, and nothing else, is called."""

ANSWER = _any(
    NAME,
    words("solution", "response", "choice", "option", "selection", "pick", "verdict", "conclusion"),
    words("final", "correct(?: one)?", "selected", "chosen", "result"),
    words("wahl(?:en)?", "antwortmöglichkeit", "richtig(?: ist)?", "option", "ergebnis", "auswahl"),
    words("solution", "choix", "option", "proposition", "résultat"),
    words("soluci[oó]n", "opci[oó]n", "elecci[oó]n", "alternativa", "resultado", "inciso", "correcta"),
    words("soluzione", "scelta", "opzione", "alternativa", "solução", "escolha", "opção"),
    words("oplossing", "keuze", "optie"),
    "вариант", "решение", "выбор",
    "答", "正确选项", "正確選項", "选项", "選項", "選択肢", "结论", "結論", "結果", "选择", "選擇", "선택지", "보기",
)  # fmt: skip
"""What an answer may be called where an option or a number follows."""

IS = _any(
    r"[:=]|[-=]+>|→|⇒|(?<=\s)-(?=\s)",
    words("is", "are", "was", "would be", "should be", "must be", "has to be", "will be", "could only be", "being"),
    words("seems to be", "appears to be", "remains", "becomes", "comes out as", "corresponds to", "lies in", "'s"),
    words("ist", "wäre", "lautet", "bleibt", "sein", "muss", "dürfte"),
    words("est", "serait", "sera", "doit être", "semble être", "reste", "c'est", "correspond [aà]"),
    words("es", "sería", "será", "ser[ií]a", "debe ser", "parece ser", "corresponde [aá]"),
    words("è", "sarebbe", "é", "seria", "deve ser", "deve essere", "luidt", "zou", "är", "er"),
    "является", "это", "будет", "是", "为", "為", "選", "选", "は", "が", "은", "는",
)  # fmt: skip
"""What stands between the name of the answer and the answer."""

CHOOSE = _any(
    words(
        "choos(?:e|ing)", "chose", "pick(?:ed|ing)?", "select(?:ed|ing)?", "go(?:ing|ne)? (?:ahead )?(?:with|for)",
        "went (?:with|for)", "opt(?:ed|ing)? for", "vote(?:d)? for", "settl(?:e|ed|ing) (?:on|for)", "stick(?:ing)? with",
        "lean(?:ing)? (?:towards?|to)", "favou?r", "(?:answer|reply|respond) with", "bet(?:ting)? on", "mark", "endorse",
    ),
    words("wähle", "nehme", "tippe auf", "entscheide mich für", "entscheide ich mich für", "stimme für", "plädiere für"),
    words("choisi[st]?", "choisirais", "opte(?:rais)? pour", "prends?", "retiens", "penche pour", "sélectionne", "coche"),
    words("elijo", "elegir[ií]a", "escojo", "escoger[ií]a", "me quedo con", "opto por", "optar[ií]a por", "selecciono"),
    words("scelgo", "sceglierei", "opto per", "escolho", "escolheria", "fico com", "marco", "kies", "ga voor"),
    "выбираю", "выберу", "выбрал[аи]?", "я за", "选择?", "選擇?", "我选", "我選",
)  # fmt: skip
"""To choose."""

WEAK = _any(
    words("so", "therefore", "thus", "hence", "consequently", "accordingly", "ergo", "also", "leaves(?: us with)?"),
    words("leaving(?: us with)?", "left with", "only", "must be", "should be", "has to be", "it is", "it's", "that is"),
    words("that's", "would be", "it(?: would|'d) be", "this is", "think", "believe", "guess", "say", "suspect", "suppose"),
    words("(?:most |more |very )?(?:likely|probably)", "definitely", "clearly", "try"),
    words("also", "daher", "deshalb", "somit", "folglich", "demnach", "es ist", "ist", "bleibt(?: nur)?", "denke", "glaube"),
    words("vermute", "meine", "würde sagen", "wahrscheinlich", "vermutlich", "wohl", "eher", "das ist"),
    words("donc", "alors", "c'est", "ce serait", "pense", "crois", "dirais", "reste", "probablement", "plutôt", "ce doit être"),
    words("por (?:lo )?tanto", "entonces", "as[ií] que", "luego", "es", "creo que", "dir[ií]a", "queda", "probablemente"),
    words("quindi", "dunque", "perciò", "è", "penso", "credo", "direi", "portanto", "logo", "então", "acho que", "é", "fica"),
    words("dus", "het is", "denk"),
    "поэтому", "значит", "следовательно", "это", "думаю", "считаю", "скорее всего", "остается", "остаётся", "итак",
    "所以", "因此", "故", "应该是", "應該是", "应为", "是", "认为", "認為", "觉得", "即", "就是",
    "なので", "よって", "したがって", "従って", "だから", "つまり", "따라서", "그러므로", "그래서",
    r"→|⇒|[-=]+>|∴",
)  # fmt: skip
"""What leads to an answer without naming it one."""

MAYBE = _any(
    words("could", "might", "may", "can be", "possibly", "könnte[n]?", "pourrait", "podría", "puede", "potrebbe", "poderia"),
    "может быть", "возможно", "可能", "かもしれ", "수도",
)  # fmt: skip
"""A clause with one of these leads to no answer."""

NOT = _any(
    words(
        "not", r"\w+n't", r"\w+nt(?= be)", "cannot", "never", "neither", "nor", "without", "excludes?", "excluding",
        "eliminat(?:e|es|ed|ing)", "rul(?:e|es|ed|ing) out", "reject(?:s|ed|ing)?", "discard(?:ed|ing)?", "except",
        "none of", "rather than", "instead of", "other than", "unlike", "than", "dismiss(?:ed|ing)?", "against", "over",
    ),
    words("nicht", "kein\\w*", "weder", "noch", "niemals", "statt", "anstatt", "anstelle von", "außer", "als", "keine[rs]? (?:von|der)"),
    words("n'est", "pas", "aucune? d\\w+", "ni", "jamais", "sauf", "plutôt que", "au lieu de", "ce n'est", "exclu[ste]?", "élimine"),
    words("no", "nunca", "tampoco", "ningun[ao] de", "en (?:vez|lugar) de", "salvo", "descart\\w+", "que no"),
    words("non", "né", "mai", "invece di", "não", "nem", "nunca", "em vez de", "niet", "geen", "inte", "ikke", "nie"),
    "не(?![а-я])", "ни(?![а-я])", "нельзя", "кроме", "вместо", "исключа\\w+",
    "不是", "不能", "不会是", "不選", "不选", "并非", "並非", "而非", "排除", "非",
)  # fmt: skip
"""Before an option: it is not the one."""

BUT = _any(
    words("but", "rather", "instead", "sondern", "aber", "vielmehr", "mais", "plutôt", "sino", "pero", "ma", "bensì"),
    words("mas", "e sim", "sim", "maar", "it(?:'s| is)"), "а(?![а-я])", "но(?![а-я])", "而是", "而", "但", "ではなく", "じゃなく",
    "아니라",
)  # fmt: skip
"""Between an option that is not the one and the one that is."""

RIGHT = _any(
    words(
        "correct(?:ly)?", "right", "true", "yes", "best", "better", "accurate", "valid", "the answer", "(?:my|our|final) answer",
        "my (?:choice|pick)", "the one", "the only", "(?:fits|matches) (?:best|perfectly|well)", "fits", "wins?", "works", "holds",
        "the (?:final )?(?:choice|option|solution)", "it is",
    ),
    words("richtig\\w*", "korrekt\\w*", "zutreffend\\w*", "zutrifft", "trifft zu", "stimmt", "ja", "wahr", "die antwort",
          "die lösung", "passt", "meine (?:antwort|wahl)", "nehmen", "wählen"),
    words("correcte?", "juste", "vraie?", "bonne", "exacte?", "oui", "la réponse", "ma réponse", "convient"),
    words("correct[ao]", "ciert[ao]", "verdader[ao]", "sí", "si", "la respuesta", "acertad[ao]", "mi respuesta"),
    words("giust[ao]", "corrett[ao]", "esatt[ao]", "ver[ao]", "cert[ao]", "sim", "la risposta", "a resposta", "juist", "goed"),
    "(?<!не)(?:верн|правильн)\\w+", "подходит", "да(?![а-я])", "正确", "正確", "(?<!不)[对對]", "正しい", "正解", "答え", "选择", "選",
    "맞", "정답", "답(?:이|입)", "옳", "✓|✔|✅|☑|👍",
)  # fmt: skip
"""After an option: it is the one."""

WRONG = _any(
    words(
        "wrong", "incorrect(?:ly)?", "false", "no", "untrue", "invalid", "inaccurate", "distractors?", "fails?", "trap", "out",
        "(?:is|are|be|been|was) (?:eliminated|ruled out|excluded|rejected)", "worse", "tempting", "misleading", "irrelevant",
        "impossible", "unlikely", "mistaken", "too \\w+", "neither",
    ),
    words("falsch\\w*", "unzutreffend\\w*", "inkorrekt\\w*", "nein", "scheide[nt]\\w*", "ausgeschlossen", "unsinn", "fällt weg"),
    words("fau(?:x|sses?)", "incorrectes?", "erronée?", "non", "exclue?s?", "inexacte?s?", "éliminée?s?"),
    words("incorrect[ao]s?", "fals[ao]s?", "err[oó]ne[ao]s?", "equivocad[ao]s?", "descartad[ao]s?", "mal"),
    words("sbagliat[aeio]", "errat[aeio]", "scorrett[aeio]", "fals[aeio]", "errad[ao]s?", "fout", "onjuist", "verkeerd"),
    "неверн\\w+", "неправильн\\w+", "ошибочн\\w+", "нет(?![а-я])", "错", "錯", "不对", "不對", "不正确", "不正確", "误", "誤", "間違", "違",
    "틀", "아니", "아닙", "ではな|じゃな|でない|ではあり", "✗|✘|❌|×|👎",
)  # fmt: skip
"""After an option: it is not the one."""

CLOSE_RIGHT = _any(
    r"です|だ(?![a-z])|である|となります|になります|を(?:選|えら)|が(?:正|適|答)|입니다|이다|를 선택|을 선택|를 고|을 고|번"
)
"""After an option and touching it: a statement of Japanese or Korean, where the verb comes last."""

REASON = _any(
    words("because", "since", "as", "due to", "given that", "for", "where", "while", "whereas", "although", "though", "even though"),
    words("weil", "da", "denn", "während", "obwohl", "parce que", "car", "puisque", "tandis que", "bien que", "alors que"),
    words("porque", "ya que", "pues", "puesto que", "mientras que", "aunque", "perché", "poiché", "mentre", "pois", "enquanto"),
    words("omdat", "want"), "потому", "так как", "поскольку", "хотя", "因为", "因為", "由于", "虽然", "なぜなら", "왜냐하면",
)  # fmt: skip
"""What begins a reason: an option after it is not stated."""

IF = words("if", "unless", "whether", "wenn", "falls", "ob", "si", "se", "als", "when") + "|если|如果|若|もし"

CONCEDED = (
    words("although", "though", "obwohl", "obgleich", "bien que", "aunque", "sebbene", "embora") + "|хотя|虽然|雖然"
)
"""What grants something that does not decide."""

MEANWHILE = words("while", "whereas", "während", "mientras que", "tandis que", "alors que", "mentre", "enquanto")
"""The same where it begins a sentence; within one it sets the right option against others."""

ALSO = _any(
    r"[,;/&+、,]",
    words("and", "or", "und", "oder", "sowie", "et", "ou", "y", "e", "o", "u", "ed", "od", "en", "of", "vs\\.?", "versus", "nor"),
    words("and/or", "as well as", "both", "either", "the", "option", "options", "choice", "die", "der", "das", "la", "le", "el", "also"),
    words("possibly", "maybe", "perhaps", "noch", "ni", "então"), "и(?![а-я])", "или", "和", "或者?", "与", "與", "及", "跟", "还是", "還是",
    "と", "か", "または", "や", "및", "또는", "와", "과",
)  # fmt: skip
"""Between options that are named together."""

PREDICATES = words(
    "is", "was", "are", "isn't", "and", "or", "because", "since", "would", "seems?", "looks?", "must", "cannot", "can't", "can",
    "could", "should", "does", "doesn't", "has", "but", "gives", "fits", "then", "as", "over", "not", "works", "wins", "appears",
    "ist", "und", "oder", "weil", "wäre", "est", "et", "ou", "car", "es", "y", "o", "porque", "è", "é", "perché",
)  # fmt: skip
"""After a capital that begins a sentence: it is a label there, and no article."""

ORDINALS: tuple[str, ...] = (
    r"first|1st|erste|premi[eè]re|primera|prima|第一|1番目|1つ目|перв\w+|첫 ?번째",
    r"second|2nd|zweite|deuxième|seconde|segunda|第二|2番目|2つ目|втор\w+|두 ?번째",
    r"third|3rd|dritte|troisième|tercera|terza|terceira|第三|3番目|3つ目|трет\w+|세 ?번째",
    r"fourth|4th|vierte|quatrième|cuarta|quarta|第四|4番目|4つ目|четв[её]рт\w+|네 ?번째",
    r"fifth|5th|fünfte|cinquième|quinta|第五|5番目|5つ目|пят\w+|다섯 ?번째",
)
"""The first to the fifth."""
OPTION = r"option|choice|answer|one|antwort|möglichkeit|réponse|proposition|opci[oó]n|respuesta|alternativa|risposta|opzione|opção|resposta|вариант|ответ|个|個|の?選択肢|보기|선택지"  # fmt: skip

OTHERS = words(
    "students?", "people", "many", "most", "some", "others", "they", "you", "one", "might", "could", "may", "beginners?",
    "(?:test[- ]?)?takers?", "learners", "viele", "manche", "leute", "man", "beaucoup", "certains", "on", "muchos", "algunos",
    "molti", "muitos",
) + "|многие|很多|许多|許多"  # fmt: skip
"""Before a verb of choosing: somebody else chooses."""

UNKNOWN = _any(
    words(
        "(?:not|isn't|without) enough information", "insufficient information", "cannot (?:be )?(?:determined?|answer|tell|know|compute)",
        "can't (?:be )?(?:determined?|answer|tell|know|compute|help)", "unable to", "don't know", "do not know", "not given", "isn't given",
        "impossible to (?:say|tell|know|determine)", "not possible to", "nicht genug", "kann (?:\\w+ )?nicht", "weiß (?:\\w+ )?nicht",
        "lässt sich nicht", "pas assez d'", "ne (?:peux|peut|sais) pas", "impossible de", "no (?:puedo|sé|se puede|hay suficiente\\w*)",
        "non (?:posso|so|si può)", "não (?:posso|sei|é possível)",
    ),
    "не могу", "не знаю", "недостаточно", "无法", "無法", "不知道", "不能确定", "わかりません", "分かりません", "できません", "알 수 없",
)  # fmt: skip
"""It is said that there is no answer."""

BARE_NOUNS = re.compile(
    r"(?:vitamin|hepatitis|influenza|figure|fig\.|table|appendix|question|problem|part|section|chapter|exhibit|theorem|lemma"
    r"|blood type|point|vertex|matrix|event|set|frage|teil|punkt|pregunta|problème|问题)\s*$",
    re.IGNORECASE,
)
"""Before a capital that names something else than an option."""
