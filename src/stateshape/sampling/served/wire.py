"""HTTP to one server: a question, its answer, and a bounded number of tries. Knows no path and no meaning of an answer.

Tried again: no connection, a connection that breaks, status 408, 429 and 500 to 599. What takes too long is tried once more
only: the server may be working on the first question still. A key that is refused ends it at once. All other refusals are the
caller's.

The key is read from the environment, by the name that vLLM itself reads it by, and goes into one header: never into a message,
a file or a log.
"""

from __future__ import annotations

import os
import threading
from typing import Any, NamedTuple

import httpx

from stateshape.core.files import BadInput
from stateshape.core.wording import shown

KEY = "VLLM_API_KEY"
BUSY = (408, 429)
NO_ENTRY = (401, 403)
SHOWN = 160  # characters of a server's own words


class Patience(NamedTuple):
    """answer_s: for one answer, of thousands of tokens perhaps. waits_s: before each further try; a restart takes a minute."""

    answer_s: float = 600.0
    connect_s: float = 10.0
    waits_s: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)


class Refused(Exception):
    """The server understood the question and answers with an error."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text}")
        self.status, self.text = status, text


class Server:
    """One server. Its methods may be called from several threads."""

    def __init__(self, url: str, patience: Patience) -> None:
        self.url, self.patience = url, patience
        self._is_closed = threading.Event()
        self._client = httpx.Client(
            base_url=url,
            timeout=httpx.Timeout(patience.answer_s, connect=patience.connect_s, pool=None),
            limits=httpx.Limits(
                max_connections=None, max_keepalive_connections=None
            ),  # how many questions are open is the sampler's to say
            trust_env=False,  # a proxy of the environment is for the world outside
            headers=key_header(),
        )

    def get(self, path: str) -> Any:
        """The JSON at a path. Raises Refused, and BadInput when all tries failed."""
        return self._json(path, self._asked("GET", path, None))

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """The JSON that answers a JSON body. Raises Refused, and BadInput when all tries failed."""
        return self._json(path, self._asked("POST", path, body))

    def tell(self, path: str, body: dict[str, Any]) -> None:
        """As `post`, where the answer says no more than that it is done."""
        self._asked("POST", path, body)

    def wait(self, seconds: float) -> None:
        """Or until the server is closed."""
        self._is_closed.wait(seconds)

    def close(self) -> None:
        """Ends waiting tries, and open questions with an error."""
        self._is_closed.set()
        self._client.close()

    def _json(self, path: str, answer: httpx.Response) -> Any:
        try:
            return answer.json()
        except ValueError:
            raise BadInput(
                f"servers: {self.url}{path} answered {shown(answer.text)}; expected JSON, from a vLLM server; check the address"
            ) from None

    def _no_entry(self, status: int) -> str:
        got = f"another key than the server's in {KEY}" if os.environ.get(KEY) else f"no key in {KEY}"
        return (
            f"servers: {self.url} asks for its key (status {status}); got {got}; expected the one it was started with; set it "
            "in the environment, then run the same command again"
        )

    def _asked(self, method: str, path: str, body: dict[str, Any] | None) -> httpx.Response:
        waits, num_slow, tries = [*self.patience.waits_s], 0, 0
        while True:
            tries += 1
            try:
                answer = self._client.request(method, path, json=body)
            except httpx.TimeoutException as error:
                num_slow += not isinstance(error, httpx.ConnectTimeout)
                why = f"no answer within {self.patience.answer_s:g} s" if num_slow else "no connection in time"
            except (httpx.TransportError, RuntimeError) as error:  # RuntimeError: the client was closed meanwhile
                why = f"no connection ({shown(str(error), limit=SHOWN)})"
            else:
                if answer.is_success:
                    return answer
                if answer.status_code in NO_ENTRY:
                    raise BadInput(self._no_entry(answer.status_code))
                text = words_of(answer)
                if answer.status_code < 500 and answer.status_code not in BUSY:
                    raise Refused(answer.status_code, text)
                why = f"status {answer.status_code} ({shown(text, limit=SHOWN)})"
            if not waits or num_slow > 1 or self._is_closed.is_set():
                raise BadInput(
                    f"servers: {self.url}{path}: {why}, {tries} {'try' if tries == 1 else 'tries'}; expected a running vLLM "
                    "server (stateshape serve MODEL prints its command); once it runs, the same command resumes"
                ) from None
            self.wait(waits.pop(0))


def key_header() -> dict[str, str]:
    """The key of the environment as a bearer token; empty without one. Raises BadInput where no header can hold it."""
    key = os.environ.get(KEY, "")
    if not key:
        return {}
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise BadInput(
            f"{KEY}: got a key with blanks, line ends or letters beyond ASCII; expected one that an HTTP header can hold; was "
            "it read from a file with its line end?"
        )
    return {"Authorization": f"Bearer {key}"}


def words_of(answer: httpx.Response) -> str:
    """The message in an error of vLLM, or the text as it is."""
    try:
        error = answer.json()["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError):
        return answer.text[:1000]
