"""From the name of a protein, as antibody panels write it, to the genes that code for it."""

from __future__ import annotations

import re
from importlib.resources import files

_BEFORE = re.compile(r"^(adt|prot|protein|anti|ab|hu|ms|humsrt|humsr|hums)[-_. ]+", re.IGNORECASE)
_AFTER = re.compile(
    r"[-_. ]+(totalseq[-_ ]?[abcd]?|ts[abcd]|adt|prot|protein|ab|[abcd]\d{4})$", re.IGNORECASE
)
_REPEAT = re.compile(r"^(.+)[-_.]\d$")
_CONTROL = re.compile(r"isotype|control|ctrl", re.IGNORECASE)
_CD = re.compile(r"^cd\d+[a-z]*\d?$", re.IGNORECASE)

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
    """
    plain = name.strip()
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
    # 1. the whole name is known, with or without what stands in brackets
    plain = plain_name(name)
    outside = re.sub(r"\(.*?\)?$", "", plain)
    for form in (plain, outside):
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
    forms = [alias_key(outside), *words[:1], *inside]
    return tuple(dict.fromkeys(gene for form in forms for gene in _as_symbol(form)))


def _known(name: str) -> tuple[str, ...]:
    return ALIASES.get(alias_key(name), ())


def _words(name: str) -> list[str]:
    """The first word of a name, and those after it that are CD numbers."""
    words = [word for word in re.split(r"[-_. /]+", name) if word]
    return words[:1] + [word for word in words[1:] if _CD.match(word)]


def _as_symbol(name: str) -> tuple[str, ...]:
    """A part of a name that may be a gene symbol."""
    return (name,) if re.fullmatch(r"[A-Za-z][A-Za-z0-9-]*\d?", name) and len(name) > 1 else ()
