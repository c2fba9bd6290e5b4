"""A model behind any OpenAI-compatible chat endpoint: a vendor's, vLLM's or SGLang's, through the `openai` client."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from vla.errors import ReflexError, require_module
from vla.offline.labels.backend import CallFailedError, Decoding, Reply
from vla.offline.labels.pacing import retry_after
from vla.offline.preferences import Status
from vla.run.settings import Checks

ALTERNATIVES = 10
"""Tokens with their log-probabilities in each place of a reply, where they are asked for."""
PASSING = (408, 409, 429)
"""Statuses below 500 after which another attempt may succeed."""
HOPELESS = (401, 402, 403, 404)
"""Statuses that every other call would have too: wrong key, no money, no such model."""


@dataclass(frozen=True)
class EndpointSettings:
    """How an endpoint is reached and spared."""

    base_url: str | None = None
    """Address of the endpoint, such as http://localhost:8000/v1; null for OpenAI's."""
    api_key_variable: str | None = "OPENAI_API_KEY"
    """Environment variable that holds the key; null for a server that wants none. The key is never written anywhere."""
    concurrency: int = 8
    """Calls at a time."""
    requests_per_minute: float | None = None
    """Most calls a minute; null for no bound but the server's."""
    timeout: float = 120.0
    """Seconds without a byte after which a call has failed."""
    attempts: int = 6
    """Calls for one answer, where those before failed for a reason that may pass."""
    first_wait: float = 1.0
    """Seconds before the second attempt; each further one waits twice as long, up to a minute."""
    longest_wait: float = 300.0
    """Seconds that a server may ask to wait; where it wants more, labelling ends, to be continued later."""

    def __post_init__(self) -> None:
        check = Checks(self, "endpoint.")
        check.at_least(1, "concurrency", "attempts")
        check.positive("requests_per_minute", "timeout", "first_wait", "longest_wait")
        if self.base_url is not None:
            address = urlsplit(self.base_url)
            if address.scheme not in ("http", "https") or not address.hostname:
                raise ReflexError(f"endpoint.base_url is {self.base_url!r}; it must read like http://localhost:8000/v1")
            if address.password:
                raise ReflexError("endpoint.base_url holds a password; give it as a key (endpoint.api_key_variable)")


class Endpoint:
    """Calls to one model of an endpoint."""

    def __init__(self, model: str, settings: EndpointSettings) -> None:
        """Raises `ReflexError` without the `openai` package, or where the variable with the key is not set."""
        self.model, self.concurrency = model, settings.concurrency
        self._openai = require_module("openai", "backend=endpoint", "pip install 'reflex-vla[label]'")
        self._client = self._openai.OpenAI(
            base_url=settings.base_url,
            api_key=_key(settings.api_key_variable),
            timeout=settings.timeout,
            max_retries=0,  # each attempt is written down before it is made, so the attempts are ours
        )

    def call(self, parts: Sequence[str | Path], schema: Mapping[str, Any] | None, decoding: Decoding) -> Reply:
        """Ask once; as `Backend.call`."""
        openai = self._openai
        try:
            raw = self._client.chat.completions.with_raw_response.create(**self._request(parts, schema, decoding))
            completion = raw.parse()
        except openai.APITimeoutError as error:
            raise CallFailedError(Status.TIMEOUT, "no reply in time", again=True, perhaps_paid=True) from error
        except openai.APIStatusError as error:
            raise _failure(
                error.status_code, error.response.headers.get("retry-after"), error.code, str(error)
            ) from error
        except (openai.APIError, ValueError) as error:  # the connection broke, or what came is not JSON
            cause = f"{error} ({error.__cause__})" if error.__cause__ else str(error)
            raise CallFailedError(Status.ERROR, cause, again=True, perhaps_paid=True) from error
        return _reply(completion)

    def _request(
        self, parts: Sequence[str | Path], schema: Mapping[str, Any] | None, decoding: Decoding
    ) -> dict[str, Any]:
        request: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": [_content(part) for part in parts]}],
            "max_completion_tokens": decoding.reply_tokens,
        }
        if decoding.temperature is not None:
            request["temperature"] = decoding.temperature
        if schema is not None and decoding.structured:
            named = {"name": "comparison", "strict": True, "schema": dict(schema)}
            request["response_format"] = {"type": "json_schema", "json_schema": named}
        if decoding.log_probabilities:
            request |= {"logprobs": True, "top_logprobs": ALTERNATIVES}
        if decoding.extra_body:
            request["extra_body"] = decoding.extra_body
        return request


def _key(variable: str | None) -> str:
    if variable is None:
        return "none"
    key = os.environ.get(variable)
    if not key:
        raise ReflexError(
            f"endpoint.api_key_variable is {variable!r}, and that environment variable is not set; set it to your key, "
            "or give endpoint.api_key_variable=null for a server that wants none"
        )
    return key


def _content(part: str | Path) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    encoded = base64.b64encode(part.read_bytes()).decode("ascii")
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded}"}}


def _failure(status: int, wanted_wait: str | None, code: str | None, message: str) -> CallFailedError:
    """What a response with an error status means."""
    detail = f"HTTP {status}: {' '.join(message.split())[:300]}"
    if code == "content_filter":
        return CallFailedError(Status.REFUSED, detail, again=False)
    hopeless = status in HOPELESS or code == "insufficient_quota"
    again = (status >= 500 or status in PASSING) and not hopeless
    # Both say that there were too many calls, so that nobody should call for so long.
    wait = retry_after(wanted_wait) if status in (429, 503) else None
    return CallFailedError(Status.ERROR, detail, again=again, wait=wait, hopeless=hopeless)


def _reply(completion: Any) -> Reply:
    """A completion as a reply. Raises `CallFailedError` where it is none: the SDK checks no types."""
    try:
        choice = completion.choices[0]
        text, model = choice.message.content or "", str(completion.model or "")
        refusal = getattr(choice.message, "refusal", None)
        usage = completion.usage
        counted = (None, None) if usage is None else (int(usage.prompt_tokens), int(usage.completion_tokens))
        scored = choice.logprobs.content or () if choice.logprobs is not None else ()
        tokens = tuple((place.token, {other.token: other.logprob for other in place.top_logprobs}) for place in scored)
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        shown = " ".join(str(completion).split())[:200]
        raise CallFailedError(
            Status.ERROR, f"what came is no chat completion: {shown}", again=True, perhaps_paid=True
        ) from error
    refused = bool(refusal) or choice.finish_reason == "content_filter"
    return Reply(str(refusal or text), model, counted[0], counted[1], refused, tokens)
