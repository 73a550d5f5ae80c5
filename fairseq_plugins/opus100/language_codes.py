"""Three-letter language codes (ISO 639-3) as the two-letter ones (ISO 639-1) of OPUS-100, py3langid and sacreBLEU."""

# a language, then codes of it or of its standard variety
_CODES = """
af afr, am amh, an arg, ar ara arb, as asm, az aze azj, be bel, bg bul, bn ben, br bre, bs bos, ca cat, cs ces, cy cym,
da dan, de deu, dz dzo, el ell, en eng, eo epo, es spa, et est ekk, eu eus, fa fas pes, fi fin, fo fao, fr fra, fy fry,
ga gle, gd gla, gl glg, gu guj, ha hau, he heb, hi hin, hr hrv, hu hun, hy hye, id ind, ig ibo, is isl, it ita, ja jpn,
jv jav, ka kat, kk kaz, km khm, kn kan, ko kor, ku kur kmr, ky kir, la lat, lb ltz, li lim, lo lao, lt lit, lv lav lvs,
mg mlg plt, mk mkd, ml mal, mn mon khk, mr mar, ms msa zsm, mt mlt, my mya, nb nob, ne nep npi, nl nld, nn nno, no nor,
oc oci, or ori ory, pa pan, pl pol, ps pus pbt, pt por, ro ron, ru rus, rw kin, se sme, sh hbs, si sin, sk slk, sl slv,
so som, sq sqi als, sr srp, sv swe, sw swa swh, ta tam, te tel, tg tgk, th tha, tk tuk, tl tgl, tr tur, tt tat, ug uig,
uk ukr, ur urd, uz uzb uzn, vi vie, wa wln, xh xho, yi yid ydd, yo yor, zh zho cmn, zu zul, bo bod
"""
_SHORT = {code: words[0] for words in map(str.split, _CODES.split(",")) for code in words[1:]}


def short_code(language: str) -> str:
    """``deu`` and ``de_AT`` -> ``de``; codes without a two-letter one stay as they are."""
    language = language.partition("_")[0]
    return _SHORT.get(language, language)
