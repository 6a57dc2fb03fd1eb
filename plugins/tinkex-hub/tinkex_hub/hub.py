"""Access to repositories on the Hugging Face Hub, with the exceptions of tinkex."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tinkex.exceptions import (
    APIError,
    ConnectionFailed,
    Forbidden,
    InvalidResponse,
    LocalError,
    NotFound,
    PluginError,
    ServerError,
    SettingsError,
    TimedOut,
    TinkexError,
    Unauthorized,
    UsageError,
)
from tinkex_hub import __version__, card

#: How to install the client of the Hub.
INSTALL = "Install huggingface_hub: pip install 'huggingface_hub>=1.0'"
_MAIN = "main"
_LOGIN = "Specify a valid token with --hf-token or HF_TOKEN, or log in with 'hf auth login'."
#: HTTP libraries of the supported versions of huggingface_hub.
_HTTP_LIBRARIES = ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3")

#: Exceptions of huggingface_hub for a response that is not JSON or has an unexpected form.
_UNEXPECTED = (
    *(json.JSONDecodeError, UnicodeDecodeError, RecursionError),
    *(LookupError, TypeError, AttributeError),
)


@dataclass(frozen=True)
class Pushed:
    """A finished upload.

    :ivar url: address of the pull request or the branch.
    :ivar commit: hash of the commit, or of the latest commit if nothing has changed.
    """

    url: str
    commit: str


class Hub:
    """A client of a hub with a token.

    :param token: by default from ``HF_TOKEN`` or ``hf auth login``.
    :param timeout: maximum seconds without data from the hub.
    :param visible: whether huggingface_hub may show the progress of an upload.
    :raises SettingsError: there is no token.
    :raises PluginError: huggingface_hub does not load.
    """

    def __init__(self, token: str | None, timeout: float, *, visible: bool) -> None:
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        try:
            import huggingface_hub
            from huggingface_hub.utils import get_session, logging
        except ImportError as error:
            raise PluginError(
                f"cannot import huggingface_hub: {error}",
                hint=INSTALL,
            ) from error
        self.endpoint = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
        logging.set_verbosity_error()
        huggingface_hub.utils.disable_progress_bars()
        self._visible = visible
        with self._errors():
            token = token or huggingface_hub.get_token()
        if not token:
            raise SettingsError("no Hugging Face token found", hint=_LOGIN)
        get_session().timeout = timeout  # there is no timeout by default
        self._api = huggingface_hub.HfApi(
            endpoint=self.endpoint,
            token=token,
            library_name="tinkex-hub",
            library_version=__version__,
        )

    def owners(self) -> list[str]:
        """Return the names of the token's account and of its organizations.

        :raises Unauthorized: the hub does not accept the token.
        """
        with self._errors():
            account = self._api.whoami()
            organizations = account.get("orgs") or []
            return [str(account["name"]), *(str(one["name"]) for one in organizations)]

    def is_private(self, repo: str) -> bool | None:
        """Return whether the repository *repo* is private; ``None`` if it does not exist."""
        try:
            with self._errors():
                return bool(self._api.model_info(repo).private)
        except NotFound:
            return None

    def card_of(self, repo: str, revision: str | None, scratch: Path) -> str | None:
        """Return the model card on branch *revision* of *repo*, or ``None``.

        :param scratch: temporary directory for the file.
        """
        try:
            with self._errors():
                file = self._api.hf_hub_download(
                    repo, card.NAME, revision=revision, cache_dir=scratch, force_download=True
                )
        except NotFound:
            return None
        return Path(file).read_text(encoding="utf-8", errors="replace")

    def prepare(self, repo: str, revision: str | None, *, private: bool, exists: bool) -> None:
        """Create the repository unless it *exists*, and the branch if missing."""
        with self._errors(repo):
            if not exists:
                self._api.create_repo(repo, private=private)
            if revision not in (None, _MAIN):
                self._api.create_branch(repo, branch=str(revision), exist_ok=True)

    def push(
        self,
        repo: str,
        revision: str | None,
        files: Sequence[tuple[str, Path]],
        message: str,
        *,
        pull_request: bool,
    ) -> Pushed:
        """Upload *files* in one commit.

        :param files: names in the repository, and the file of each.
        """
        from huggingface_hub import CommitOperationAdd, utils

        if self._visible:
            utils.enable_progress_bars()
        with self._errors(repo):
            operations = [CommitOperationAdd(name, file) for name, file in files]
            done = self._api.create_commit(
                repo,
                operations,
                commit_message=message,
                revision=revision,
                create_pr=pull_request,
            )
        url = done.pr_url or f"{self.endpoint}/{repo}" + (
            f"/tree/{revision}" if revision not in (None, _MAIN) else ""
        )
        return Pushed(url, done.oid)

    @contextmanager
    def _errors(self, repo: str | None = None) -> Iterator[None]:
        """Convert exceptions of huggingface_hub to exceptions of tinkex."""
        try:
            yield
        except TinkexError:
            raise
        except Exception as error:
            ours = translate(error, self._host, repo)
            if ours is None:
                raise
            raise ours from error

    @property
    def _host(self) -> str:
        return urlsplit(self.endpoint).netloc or self.endpoint


def translate(error: BaseException, host: str, repo: str | None) -> TinkexError | None:
    """Return the exception of tinkex for *error*, or ``None`` if it is a bug."""
    from huggingface_hub import errors

    if isinstance(error, RuntimeError):  # the storage of large files, which has other addresses
        hint = "Try again; files that were already uploaded are skipped."
        return ConnectionFailed(f"the upload to {host} failed: {_words(error)}", hint=hint)
    for cause in _chain(error):
        if isinstance(cause, errors.OfflineModeIsEnabled):
            return SettingsError(
                "HF_HUB_OFFLINE is set", hint="Unset HF_HUB_OFFLINE to access the Hub."
            )
        if isinstance(cause, errors.HFValidationError):
            first = str(cause).splitlines()[0].rstrip(".")
            return UsageError(f"invalid repository name: {first}")
        if isinstance(cause, errors.LocalTokenNotFoundError):
            return SettingsError("no Hugging Face token found", hint=_LOGIN)
        if isinstance(cause, errors.HfHubHTTPError):
            return _refused(cause, host, repo)
        if isinstance(cause, errors.EntryNotFoundError):
            what = f"a file in {repo}" if repo else "the file"
            return NotFound(f"{what} was not found on {host}", status=404)
        if type(cause).__module__.partition(".")[0] in _HTTP_LIBRARIES:
            if "Timeout" in type(cause).__name__:
                return TimedOut(f"Timed out while awaiting a response from {host}")
            hint = "Check HF_ENDPOINT and the network connection."
            return ConnectionFailed(f"the request to {host} failed: {_words(cause)}", hint=hint)
    if isinstance(error, _UNEXPECTED):
        return InvalidResponse(
            f"unexpected response from {host}",
            hint="Check that HF_ENDPOINT is the URL of a Hugging Face Hub.",
        )
    if isinstance(error, OSError):
        return LocalError(f"cannot read or write a file: {_words(error)}")
    if isinstance(error, ValueError):
        return UsageError(
            f"the request to {host} failed: {_words(error)}", hint="Add --debug for details."
        )
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and not any(cause is known for known in seen):
        seen.append(cause)
        yield cause
        cause = cause.__cause__ or cause.__context__


def _refused(error: Any, host: str, repo: str | None) -> APIError:
    from huggingface_hub.errors import RepositoryNotFoundError

    status = int(error.response.status_code)
    more = {"status": status, "request_id": error.request_id}
    detail = " ".join(str(error.server_message or "").split())[:200]
    said = f": {detail}" if detail else ""
    if status == 401 and isinstance(error, RepositoryNotFoundError):  # also without a token
        what = repo or "the repository"
        return NotFound(
            f"{what} does not exist on {host}, or requires a token", hint=_LOGIN, **more
        )
    if status == 401:
        return Unauthorized(f"{host} rejected the Hugging Face token", hint=_LOGIN, **more)
    if status == 403:
        where = f" to {repo}" if repo else ""
        owned = f"the repositories of {repo.partition('/')[0]}" if repo else "repositories"
        hint = f"Use a token with write access to {owned}."
        return Forbidden(f"the token does not have access{where}{said}", hint=hint, **more)
    if status == 404:
        hint = "Check --repo and --revision."
        what = repo or "the resource"
        return NotFound(f"{what} was not found on {host}{said}", hint=hint, **more)
    if status >= 500 or status == 429:
        hint = "Try again later."
        return ServerError(
            f"the request to {host} failed{said}", hint=hint, category="server", **more
        )
    return APIError(
        f"{host} rejected the request{said}", hint="Check --repo and --revision.", **more
    )


def _words(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
