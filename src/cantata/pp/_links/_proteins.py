"""From the name of a protein, as antibody panels write it, to the genes that code for it."""

from __future__ import annotations

import re
from importlib.resources import files

_SPECIES = r"(?:human|mouse|rat)(?:/(?:human|mouse|rat))*|hu|ms|humsrt|humsr|hums"
_MAKERS = r"totalseq[-_ ]?[abcd]?|cite(?:[-_ ]?seq)?|abseq|adt|prot|protein|ab|[abcd]\d{4}"
_METALS = r"Y|Rh|Pd|In|Sn|I|La|Ce|Pr|Nd|Sm|Eu|Gd|Tb|Dy|Ho|Er|Tm|Yb|Lu|Ir|Pt|Bi"
_ISOTOPES = rf"\d{{2,3}}(?:{_METALS}|Cd)|(?:{_METALS})\d{{2,3}}(?:D[id])?"

_BEFORE = re.compile(
    rf"^(?:(?i:{_MAKERS}|{_SPECIES}|anti|surface)[-_.: ]+|(?:{_ISOTOPES})[-_. ]+|[hm](?=CD\d))"
)
_AFTER = re.compile(
    rf"(?:[-_. ]+(?:(?i:{_MAKERS}|ts[abcd]|ahs\d{{4}}|pabo)|{_ISOTOPES})"
    rf"|\((?:{_ISOTOPES})\)(?:D[id])?)$"
)
_ABSEQ = re.compile(r"^([^:|]+)(?::[^|]*)?\|([^|]*)\|")
"""BD AbSeq: ``protein:clone|gene|identifier|pAbO``."""
_REPEAT = re.compile(r"^(.+)[-_.]\d$")
_CONTROL = re.compile(r"isotype|control|ctrl", re.IGNORECASE)
_CD = re.compile(r"^cd\d+[a-z]*\d?$", re.IGNORECASE)

MAX_WORDS = 3
"""A known marker is looked for in up to so many words of a name that stand side by side."""

_GREEK = str.maketrans("αβγδεζκλμ", "ABGDEZKLM")


def alias_key(name: str) -> str:
    """A protein's name without case, Greek letters and punctuation: ``"PD-L1"`` -> ``"PDL1"``."""
    return re.sub(r"[^A-Z0-9]", "", name.translate(_GREEK).upper())


def _read_table() -> list[tuple[list[str], tuple[str, ...]]]:
    """Names of a protein and symbols of its genes, one entry per line of the file."""
    text = files(__package__).joinpath("protein_genes.txt").read_text(encoding="utf-8")
    rows = (line.split("|") for line in text.splitlines() if not line.startswith("#"))
    return [(proteins.split(","), tuple(genes.split())) for proteins, genes in rows]


ALIASES = {alias_key(name): genes for names, genes in _read_table() for name in names}
"""Key of a protein (:func:`alias_key`) to gene symbols; mouse ones where they differ in more than
case."""


def plain_name(name: str) -> str:
    """A feature's name without what a panel's maker put around it.

    Examples
    --------
    >>> plain_name("ADT_CD117(c-Kit)_A0012"), plain_name("CD3_TotalSeqB"), plain_name("CD3-1")
    ('CD117(c-Kit)', 'CD3', 'CD3')
    >>> plain_name("145Nd_CD4"), plain_name("CD4:SK3|CD4|AHS0032|pAbO")
    ('CD4', 'CD4')
    """
    plain = name.strip()
    abseq = _ABSEQ.match(plain)
    if abseq:
        plain = abseq[1]
    while True:
        shorter = _AFTER.sub("", _BEFORE.sub("", plain))
        if shorter == plain or not shorter:
            break
        plain = shorter
    repeat = _REPEAT.match(plain)
    return repeat[1] if repeat and _CD.match(repeat[1]) else plain


def genes_of(name: str) -> tuple[str, ...]:
    """Symbols of the genes that code for a protein, by its name; none if it is not known.

    A heterodimer written ``A/B`` gives the genes of both. Names in brackets and clones behind the
    name are understood. Genes that a name says itself, as ``CD4``, are among them.

    Examples
    --------
    >>> genes_of("PD-1"), genes_of("CD11a/CD18"), genes_of("ADT_CD274(B7-H1_PD-L1)_A0190")
    (('PDCD1',), ('ITGAL', 'ITGB2'), ('CD274',))
    >>> genes_of("isotype control 3")
    ()
    """
    if _CONTROL.search(name):
        return ()
    # 1. the whole name is known, without what stands in brackets, or the number of a repeat
    plain = plain_name(name)
    outside = re.sub(r"\(.*?\)?$", "", plain)
    for form in (plain, outside, _REPEAT.sub(r"\1", plain)):
        if alias_key(form) in ALIASES:
            return ALIASES[alias_key(form)]
    # 2. a heterodimer: both halves, known or as they are
    inside = re.findall(r"\(([^)]*)\)?", plain)
    if "/" in outside:
        genes = [gene for part in outside.split("/") for gene in _known(part) or _as_symbol(part)]
        return tuple(dict.fromkeys(genes))
    # 3. words of the name are known (a clone may follow), or what stands in brackets
    words = _words(outside)
    for forms in (words, inside):
        genes = [gene for form in forms for gene in _known(form)]
        if genes:
            return tuple(dict.fromkeys(genes))
    # 4. nothing is known: the name may be that of a gene
    abseq = _ABSEQ.match(name)
    forms = [alias_key(outside), *words, *inside, *([abseq[2]] if abseq else [])]
    return tuple(dict.fromkeys(gene for form in forms for gene in _as_symbol(form)))


def genes_in(name: str) -> tuple[str, ...]:
    """Genes of known markers that occur anywhere in a name, as for ``"x.HLA-DR.v2"``.

    A guess for a warning: :func:`genes_of` says what is linked.

    Examples
    --------
    >>> genes_in("lot7-HLA-DR-x"), genes_in("tagCD20v2"), genes_in("lot7")
    (('HLA-DRA', 'HLA-DRB1'), ('MS4A1', 'CD20'), ())
    """
    if _CONTROL.search(name):
        return ()
    words = [word for word in re.split(r"[^A-Za-z0-9]+", name) if word]
    joined = (
        "".join(words[i:j])
        for i in range(len(words))
        for j in range(i + 2, min(i + MAX_WORDS, len(words)) + 1)
    )
    numbers = re.findall(r"cd\d+", name, re.IGNORECASE)
    # "CD4-1" is no CD41
    forms = [*words, *(form for form in joined if not _CD.match(form)), *numbers]
    genes = [gene for form in forms for gene in _known(form)]
    return tuple(dict.fromkeys([*genes, *(number.upper() for number in numbers)]))


def _known(name: str) -> tuple[str, ...]:
    return ALIASES.get(alias_key(name), ())


def _words(name: str) -> list[str]:
    """The first word of a name, and those after it that are CD numbers."""
    words = [word for word in re.split(r"[-_.:| /]+", name) if word]
    return words[:1] + [word for word in words[1:] if _CD.match(word)]


def _as_symbol(name: str) -> tuple[str, ...]:
    """A part of a name that may be a gene symbol."""
    return (name,) if re.fullmatch(r"[A-Za-z][A-Za-z0-9-]*\d?", name) and len(name) > 1 else ()
