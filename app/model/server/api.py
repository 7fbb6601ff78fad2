"""One request to a server with OpenAI's embeddings API."""

from __future__ import annotations

import time
from collections.abc import Sequence

import aiohttp
import orjson
from yarl import URL

from app.model.server.answer import Failure, Rows, read_failure, read_rows
from app.settings import Settings
from schemas.errors import SettingsError

_SECRET_CHARS = 8  # a shorter parameter of the URL, such as a version, is none
_CONNECT_S = 5.0  # a host that drops packets is known sooner than an answer that takes its time


class EmbeddingsApi:
    """Asks for vectors, once. Make and use it in one event loop; `close` it there.

    shown: the URL asked, without user, password and query, for messages. encoding: what to ask vectors as: "base64",
    "float", or None to say nothing. Failures never hold the key, nor any other secret of the URL.
    """

    def __init__(self, settings: Settings) -> None:
        """Connects nowhere. Raises SettingsError when the key cannot be sent."""
        self._url = _endpoint(settings)
        self.shown = str(self._url.with_user(None).with_query(None))
        self.model = settings.model
        self.encoding: str | None = "base64"
        self._dimensions = settings.embeddings_dimensions
        key = _key(settings, self._url)
        parameters = [value for value in self._url.query.values() if len(value) >= _SECRET_CHARS]
        self._secrets = [secret for secret in (key, self._url.password, *parameters) if secret]
        self._timeout_ms = settings.embeddings_timeout_ms
        timeout_s = self._timeout_ms / 1000
        self._session = aiohttp.ClientSession(
            headers={"Content-Type": "application/json", "User-Agent": "headrace"}
            | ({"Authorization": f"Bearer {key}"} if key else {}),
            timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=min(_CONNECT_S, timeout_s)),
            connector=aiohttp.TCPConnector(limit=settings.embeddings_concurrency),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=True,  # HTTPS_PROXY and NO_PROXY
        )

    async def ask(self, texts: Sequence[str]) -> Rows | Failure:
        """Unit vectors of the texts, shape (len(texts), dim), or why there are none."""
        body = {"model": self.model, "input": list(texts)}
        options = {"encoding_format": self.encoding, "dimensions": self._dimensions}
        data = orjson.dumps(body | {name: value for name, value in options.items() if value is not None})
        try:
            async with self._session.post(self._url, data=data, allow_redirects=False) as response:
                if response.status == 200:
                    return read_rows(await response.read(), len(texts))
                said = await response.read()
                return read_failure(response.status, response.headers, said, time.time(), self._clean)
        except aiohttp.ConnectionTimeoutError:
            return Failure("later", "it cannot be reached in time")
        except TimeoutError:
            return Failure("later", f"no answer within {self._timeout_ms} ms")
        except aiohttp.ClientError as error:  # not raised on: some hold the request's headers, and so the key
            return Failure("later", self._clean(str(error) or type(error).__name__).rstrip("."))

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    def _clean(self, text: str) -> str:
        text = text.replace(str(self._url), self.shown)
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


def _endpoint(settings: Settings) -> URL:
    given = URL((settings.embeddings_url or "").strip())
    path = given.raw_path.rstrip("/")
    path = path if path.endswith("/embeddings") else f"{path}/embeddings"
    return given.with_path(path, encoded=True).with_query(given.query)


def _key(settings: Settings, url: URL) -> str:
    key = settings.embeddings_api_key.get_secret_value().strip() if settings.embeddings_api_key else ""
    if not (key.isascii() and key.isprintable()):
        raise SettingsError("HEADRACE_EMBEDDINGS_API_KEY has characters that no HTTP header can hold")
    if key and url.user:
        raise SettingsError("HEADRACE_EMBEDDINGS_URL holds a user, and HEADRACE_EMBEDDINGS_API_KEY is set: use one")
    return key
