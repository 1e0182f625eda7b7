"""Secrets in addresses: refused where a user names an address, cut out of what others wrote.

An address is recorded, shown, and given to other processes.  A password in it would go with it.
"""

import re
import unicodedata

_USER = re.compile(r"//\S*@")  # a password may hold any other sign, also another @
_QUERY = re.compile(r"(//[^\s\"'?#]*)[?#][^\s\"']*")


def require_no_secret(name: str, address: str) -> None:
    """Refuse an address that can hold a password, a key or a token; never show it.

    Raises
    ------
    ValueError
        If there is an ``@``, ``?``, ``#`` or ``%`` in it.
    """
    plain = unicodedata.normalize("NFKC", address)  # as URLs are read: a full-width @ is an @
    signs = [sign for sign in "@?#%" if sign in plain]
    if signs:
        raise ValueError(
            f"{name} holds {' and '.join(signs)}, so it may hold a password or a token, which "
            "would be recorded: give the plain address, and the keys by a profile; if it was a "
            "secret, change it, because papermill has written it into the executed notebook"
        )


def without_secrets(text: str) -> str:
    """Return a text without the user, the password and the query of each URL in it.

    Examples
    --------
    >>> without_secrets("cannot reach https://me:pass@host:8443/ec2?token=1 now")
    'cannot reach https://host:8443/ec2 now'
    """
    return _QUERY.sub(r"\1", _USER.sub("//", text))
