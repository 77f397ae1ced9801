"""Recognisers of keys and tokens. Shapes are those that the issuers publish."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator

from lir_agents.ingest.redact_base import Match, Recogniser
from lir_agents.ingest.redact_pattern import Pattern

__all__ = ["SECRETS"]


class PrivateKeys:
    """PEM and PGP private keys, from BEGIN to the next END; without an END, as far as base64 goes."""

    kinds = ("PRIVATE_KEY",)
    _begin = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
    _end = re.compile(r"-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
    # The last line of a key is short, alone on its line, and of whole groups of four.
    _body = re.compile(
        r"(?:(?:\s|\\[nr]){0,4}[A-Za-z0-9+/=]{16,}+)*+"
        r"(?:(?:\r?\n|(?:\\r)?\\n)(?:[A-Za-z0-9+/=]{4}){1,3}+(?=[ \t]*+(?:[\r\n]|\\[nr]|\Z)))?+"
    )

    def find(self, shadow: str) -> Iterator[Match]:
        """See `Recogniser.find`."""
        ends = [found.end() for found in self._end.finditer(shadow)]
        begin = self._begin.search(shadow)
        while begin:
            place = bisect_left(ends, begin.end())
            body = self._body.match(shadow, begin.end())
            end = ends[place] if place < len(ends) else body.end() if body else begin.end()
            mask = shadow.find("\x00", begin.end(), end)
            end = end if mask < 0 else mask
            yield Match("PRIVATE_KEY", begin.start(), end, shadow[begin.start() : end])
            begin = self._begin.search(shadow, end)


def _mixed(text: str) -> bool:
    return any(char.isdigit() for char in text) and any(char.isalpha() for char in text)


def _token(kind: str, shape: str, *hints: str) -> Pattern:
    return Pattern(kind, re.compile(rf"(?<![A-Za-z0-9])(?:{shape})(?![A-Za-z0-9])"), hints=hints, bounded=False)


SECRETS: tuple[Recogniser, ...] = (
    PrivateKeys(),
    _token("JWT", r"eyJ[\w-]{8,}+\.eyJ[\w-]{4,}+\.[\w-]*+", "eyJ"),
    _token("AWS_KEY", r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}", "AKIA", "ASIA", "ABIA", "ACCA"),
    Pattern(
        "AWS_KEY",
        re.compile(r"(?i:aws.{0,20}?secret.{0,24}?[=:]\s{0,4})[\"']?(?P<it>[A-Za-z0-9/+]{40})(?![A-Za-z0-9/+=])"),
        check=_mixed,
    ),
    _token("GCP_KEY", r"AIza[\w-]{35}|GOCSPX-[\w-]{28}|ya29\.[\w-]{20,}+", "AIza", "GOCSPX-", "ya29."),
    Pattern("AZURE_KEY", re.compile(r"(?i:Key\s{0,2}=\s{0,2})(?P<it>[A-Za-z0-9+/]{86}==|[A-Za-z0-9+/]{43}=)(?!=)")),
    _token("AZURE_KEY", r"[A-Za-z0-9_~.\-]{3}[78]Q~[\w~.\-]{31,34}", "Q~"),
    _token(
        "GITHUB_TOKEN",
        r"gh[pousr]_[A-Za-z0-9]{36,}+|github_pat_\w{22,}+",
        "ghp_",
        "gho_",
        "ghu_",
        "ghs_",
        "ghr_",
        "github_pat_",
    ),
    _token("GITLAB_TOKEN", r"gl(?:pat|dt|rt|ptt|ft)-[\w-]{20,}+", "glpat-", "gldt-", "glrt-", "glptt-", "glft-"),
    _token("SLACK_TOKEN", r"xox[abeoprs]-[A-Za-z0-9-]{10,}+|xapp-\d-[A-Za-z0-9-]{10,}+", "xox", "xapp-"),
    Pattern("SLACK_TOKEN", re.compile(r"hooks\.slack\.com/services/(?P<it>T\w{6,12}/B\w{6,12}/\w{16,32})(?!\w)")),
    _token(
        "STRIPE_KEY",
        r"(?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]{16,}+|whsec_[A-Za-z0-9+/=]{24,}+",
        "_live_",
        "_test_",
        "whsec_",
    ),
    Pattern(
        "API_KEY",
        re.compile(r"(?<![A-Za-z0-9])(?:sk-[\w-]{20,}+|hf_[A-Za-z0-9]{30,}+|npm_[A-Za-z0-9]{36}|pypi-[\w-]{40,}+)"),
        check=lambda text: _mixed(text[3:]) or text.startswith("hf_"),
        hints=("sk-", "hf_", "npm_", "pypi-"),
        bounded=False,
    ),
    Pattern(
        "BEARER_TOKEN",
        re.compile(
            r"(?i:(?<!\w)(?:bearer|authorization:\s{0,4}(?:basic|token))\s{1,4})(?P<it>[\w.~+/-]{16,}+={0,2})"
        ),
        check=_mixed,
        bounded=False,
    ),
    # Up to the last at sign before the host. With a slash in it, which should have been encoded, it is one, too;
    # but a number before a slash is a port.
    Pattern(
        "URL_PASSWORD",
        re.compile(r"://[^\s:/@\x00]{1,64}+:(?P<it>[^\s/@\x00]{1,128}+(?:@[^\s/@\x00]{0,64}+){0,4})@"),
    ),
    Pattern(
        "URL_PASSWORD",
        re.compile(r"://[^\s:/@\x00]{1,64}+:(?P<it>(?!\d{1,5}/)[^\s@\x00]{1,128}+)@(?=[\w\[${<%])"),
    ),
)
"""Most specific first."""
