"""What is in an address: whether it is Amazon's, and secrets that must not be in it.

An address is recorded, shown, and given to other processes, and so would be a password in it.
"""

import re
import unicodedata
from urllib.parse import urlsplit

# Each with a dot before it.  Money depends on these, so they depend on no library's data.
AMAZON_DOMAINS = (
    *(".amazonaws.com", ".amazonaws.com.cn", ".amazonaws.eu"),
    *(".api.aws", ".amazonwebservices.com.cn", ".amazonwebservices.eu"),
)

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


def is_foreign(endpoint: str) -> bool:
    """Whether a recorded endpoint is another program's that answers for EC2: no result of AWS.

    Old logs may name Amazon by its URL.  ``simulated`` says whether a URL is a sandbox.
    """
    return "://" in endpoint and not f".{host_of(endpoint)}".endswith(AMAZON_DOMAINS)


def host_of(endpoint: str) -> str:
    """The host of an address, with or without a scheme; "" if there is none."""
    try:
        host = urlsplit(endpoint if "//" in endpoint else f"//{endpoint}").hostname or ""
    except ValueError:  # it cannot be an address at all
        return ""
    return host.rstrip(".")
