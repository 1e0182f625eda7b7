"""Which credentials are used, when they end, and how a guard gets them.

botocore finds them, and renews those that need no person.  The others are read once and *held*:
session keys that needed an MFA code, and keys in the environment with a stated end.  A guard gets
held keys through a pipe, so they are in no file, argument or environment.
"""

import getpass
import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache, lru_cache
from typing import Any

import boto3
import botocore.session
from botocore.configprovider import BOTOCORE_DEFAUT_SESSION_VARIABLES
from botocore.credentials import CredentialResolver, Credentials
from botocore.exceptions import NoCredentialsError, ProfileNotFound
from botocore.utils import JSONFileCache, SSOTokenLoader, parse_timestamp

from spotlib.ec2.places import home_of_arn
from spotlib.ec2.refusals import NoTerminal, login_refusal

# Whatever else is configured is configured for other programs.
_SERVICES = ("ec2", "events", "iam", "pricing", "service_quotas", "sqs", "ssm", "sts")
_LOGIN_SERVICES = ("signin", "sso", "sso_oidc")
# How botocore finds credentials in a profile; its other ways (keys in the environment, the role of
# a machine) ask no profile.
_OF_A_PROFILE = frozenset(
    {
        *("shared-credentials-file", "config-file", "custom-process", "sso", "login"),
        *("assume-role", "assume-role-with-web-identity"),
    }
)


@dataclass(frozen=True)
class SessionKeys:
    """Temporary credentials that nobody renews, and when they end."""

    access_key: str
    secret_key: str = field(repr=False)
    token: str | None = field(repr=False)
    end_at: datetime

    def to_line(self) -> bytes:
        """Return them as one line, for a pipe."""
        return json.dumps(vars(self), default=datetime.isoformat).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> "SessionKeys | None":
        """Return those of a line; None if it has none, or was cut off."""
        try:
            given = json.loads(line)
            return cls(**{**given, "end_at": datetime.fromisoformat(given["end_at"])})
        except ValueError:
            return None


class Login:
    """Opens sessions with the credentials of one profile, and asks a person once at most.

    Parameters
    ----------
    profile
        The AWS profile; None is that of the environment, or the default one.
    keys
        Session keys to use instead of the profile's credentials.

    ``used`` is the profile by which another program finds the same credentials: the one given, or
    the one that the environment chose, if they came from it.  Otherwise it is None: naming a
    profile would disable keys in the environment.
    """

    def __init__(self, profile: str | None = None, keys: SessionKeys | None = None) -> None:
        names = (profile, os.environ.get("AWS_DEFAULT_PROFILE"), os.environ.get("AWS_PROFILE"))
        self.given = self.used = profile
        self.profile = next(filter(None, names), "default")
        self.keys = keys

    def redirections(self) -> list[str]:
        """Return what sends calls for AWS to other addresses: each variable and setting by name."""
        with self._explaining():
            return _redirections(botocore.session.Session(profile=self.given))

    def open(self) -> Any:
        """Return a new boto3 Session; its credentials are newly read, unless they are held.

        Raises
        ------
        ValueError
            If there is no such profile.
        Refusal
            If no credentials can be had.
        """
        with self._explaining():
            core = self._new_core()
            prompts: list[str] = []
            if self.keys is None:
                credentials = _find(core, prompts)
                if _is_of_profile(credentials):
                    self.used = core.profile
                if prompts or (credentials.method == "env" and _expiry_of(credentials)):
                    self.keys = _keys_of(credentials)
            if self.keys is not None:
                resolver = CredentialResolver([_HeldKeys(self.keys)])
                core = self._new_core()
                core.register_component("credential_provider", resolver)
            return boto3.Session(botocore_session=core)

    def renew(self, session: Any) -> None:
        """Renew the credentials of a session if it is time: what fails then was never sent.

        Raises
        ------
        Refusal
            If they cannot be renewed.
        """
        with self._explaining():
            session.get_credentials().get_frozen_credentials()

    def end_at(self, session: Any) -> datetime | None:
        """When the credentials end for good; None if they are renewed or do not say."""
        if self.keys is not None:
            return self.keys.end_at
        credentials = session.get_credentials()
        if credentials.method not in ("sso", "assume-role"):
            return None
        with self._explaining():
            token_end_at = _sso_end_at(self.profile)
        if token_end_at is None:
            return None
        return max(token_end_at, _expiry_of(credentials) or token_end_at)

    def _new_core(self) -> Any:
        """Return a session of botocore with a region, which STS must be asked in."""
        core = botocore.session.Session(profile=self.given)
        if core.get_config_variable("region") is None:
            role = core.get_scoped_config().get("role_arn", "")
            core.set_config_variable("region", home_of_arn(role))
        return core

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        """Turn any error, also one in a program or file of the user, into one sentence."""
        try:
            yield
        except ProfileNotFound as error:
            known = ", ".join(botocore.session.Session().available_profiles) or "none"
            words = f"profile {self.profile!r} is not configured; there are: {known}"
            raise ValueError(words) from error
        except Exception as error:
            raise login_refusal(error, profile=self.profile) from error


@dataclass(frozen=True)
class _HeldKeys:
    """Provides session keys, in place of all sources that botocore would search."""

    keys: SessionKeys
    METHOD = "held"

    def load(self) -> Credentials:
        keys = self.keys
        return Credentials(keys.access_key, keys.secret_key, keys.token, method=self.METHOD)


def _is_of_profile(credentials: Any) -> bool:
    by_token = credentials.method == "assume-role-with-web-identity"
    from_environment = by_token and "AWS_WEB_IDENTITY_TOKEN_FILE" in os.environ
    return credentials.method in _OF_A_PROFILE and not from_environment


def _find(core: Any, prompts: list[str]) -> Any:
    """Return the credentials that botocore finds; ``prompts`` gets what a person was asked."""

    def ask(prompt: str) -> str:
        prompts.append(prompt)
        return ask_person(prompt)

    resolver = core.get_component("credential_provider")
    # Its default is the getpass of when botocore was imported; a kernel has one for each cell.
    resolver.get_provider("assume-role")._prompter = ask
    credentials = core.get_credentials()
    if credentials is None:
        raise NoCredentialsError
    credentials.get_frozen_credentials()
    return credentials


def ask_person(prompt: str) -> str:
    """Ask at the terminal, or in the notebook; the code is not shown.

    Raises
    ------
    NoTerminal
        If there is neither.
    """
    try:
        with warnings.catch_warnings():
            # Without a terminal it warns, and would then wait for standard input.
            warnings.simplefilter("error", getpass.GetPassWarning)
            return getpass.getpass(prompt).strip()
    except (getpass.GetPassWarning, EOFError, NotImplementedError) as error:
        raise NoTerminal(prompt) from error


def _keys_of(credentials: Any) -> SessionKeys:
    frozen, end_at = credentials.get_frozen_credentials(), _expiry_of(credentials)
    assert end_at is not None
    return SessionKeys(frozen.access_key, frozen.secret_key, frozen.token, end_at)


def _expiry_of(credentials: Any) -> datetime | None:
    """When these keys end; botocore has no public name for it."""
    end_at = getattr(credentials, "_expiry_time", None)
    return None if end_at is None else end_at.astimezone(UTC)


def _sso_end_at(profile: str) -> datetime | None:
    """When an SSO login ends that only a person can renew; also one behind an assumed role."""
    full = botocore.session.Session().full_config
    section, seen = full.get("profiles", {}).get(profile, {}), {profile}
    while section.get("source_profile", profile) not in seen:
        seen.add(section["source_profile"])
        section = full["profiles"].get(section["source_profile"], {})
    names = (section.get("sso_start_url"), section.get("sso_session"))
    if not any(names):
        return None
    folder = os.path.expanduser("~/.aws/sso/cache")
    token = SSOTokenLoader(JSONFileCache(folder))(names[0], session_name=names[1])
    return None if "refreshToken" in token else parse_timestamp(token["expiresAt"])


def _redirections(core: Any) -> list[str]:
    if core.get_config_variable("ignore_configured_endpoint_urls"):
        return []
    services = (*_SERVICES, *_LOGIN_SERVICES)
    names = ["AWS_ENDPOINT_URL", *(f"AWS_ENDPOINT_URL_{each.upper()}" for each in services)]
    found = [f"{name}={os.environ[name]}" for name in names if os.environ.get(name)]
    section = core.get_scoped_config()
    of_services = core.full_config.get("services", {}).get(section.get("services"), {})
    settings = {"": section.get("endpoint_url")}
    settings |= {f" of {each}": of_services.get(each, {}).get("endpoint_url") for each in services}
    found += [f"endpoint_url = {url}{name} in the profile" for name, url in settings.items() if url]
    return found


@cache
def sandbox_session() -> Any:
    """Return a session with made-up keys, which knows neither ``AWS_*`` nor ``~/.aws``.

    Real keys are never sent to a pretend endpoint, and no setting for AWS can stop it.  Parsed
    dates are cached, because each poll repeats those of the last: a third of its work.
    """
    variables = {
        name: (None, None, default, conversion)
        for name, (_, _, default, conversion) in BOTOCORE_DEFAUT_SESSION_VARIABLES.items()
    }
    for name in ("config_file", "credentials_file"):
        variables[name] = (None, None, os.devnull, None)
    core = botocore.session.Session({**variables, "profile": (None, None, None, None)})
    parsers = core.get_component("response_parser_factory")
    parsers.set_parser_defaults(timestamp_parser=lru_cache(maxsize=65536)(parse_timestamp))
    return boto3.Session(
        aws_access_key_id="sandbox", aws_secret_access_key="sandbox", botocore_session=core
    )
