"""A vision-language model in this process: any image-text-to-text checkpoint of `transformers`, such as Qwen-VL's."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from vla.errors import ReflexError
from vla.offline.labels.answers import Alternatives
from vla.offline.labels.backend import CallFailedError, Decoding, Reply
from vla.offline.preferences import Status
from vla.run.files import file_sha256

ALTERNATIVES = 20
"""Tokens with their log-probabilities in each place of a reply, where they are asked for."""


class LocalModel:
    """Greedy replies of a checkpoint; its weights are loaded at the first call."""

    concurrency = 1

    def __init__(self, name: str, device: str) -> None:
        """`name` is a folder or a hub id. Raises `ReflexError` where there is no such checkpoint."""
        self._name, self._device = name, device
        self.model = _identity(name)
        self._lock = threading.Lock()
        self._loaded: tuple[Any, Any] | None = None

    def call(self, parts: Sequence[str | Path], schema: Mapping[str, Any] | None, decoding: Decoding) -> Reply:
        """Ask once; as `Backend.call`. The schema is not enforced. Raises `ReflexError` where it cannot be loaded."""
        with self._lock, torch.inference_mode():
            processor, model = self._load()
            content = [_content(part) for part in parts]
            inputs = processor.apply_chat_template(
                [{"role": "user", "content": content}],
                tokenize=True,
                add_generation_prompt=True,
                return_dict=True,
                return_tensors="pt",
            ).to(self._device, dtype=model.dtype)  # of real numbers only; not every model casts pictures itself
            length = inputs["input_ids"].shape[1]
            try:
                drawn = model.generate(
                    **inputs,
                    max_new_tokens=decoding.reply_tokens,
                    do_sample=False,
                    return_dict_in_generate=True,
                    output_logits=decoding.log_probabilities,
                )
            except torch.OutOfMemoryError as error:
                detail = f"out of memory on {self._device}; make picture_size smaller, or choose a smaller model"
                raise CallFailedError(Status.ERROR, detail, again=False, hopeless=True) from error
            reply = drawn.sequences[0, length:]
            text = processor.tokenizer.decode(reply, skip_special_tokens=True)
            tokens = _alternatives(processor.tokenizer, reply, drawn.logits) if decoding.log_probabilities else ()
            return Reply(text, self.model, length, len(reply), tokens=tokens)

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            from transformers import AutoModelForImageTextToText

            try:
                processor = load_processor(self._name)
                model = AutoModelForImageTextToText.from_pretrained(self._name, dtype="auto")
            except (OSError, ValueError) as error:
                raise ReflexError(f"model={self._name} cannot be loaded: {' '.join(str(error).split())}") from error
            torch.nn.Module.to(model, self._device)  # the checkpoint's own method says the same, without types
            self._loaded = processor, model.train(False)
        return self._loaded


def load_processor(name: str) -> Any:
    """The processor of a checkpoint; where torchvision is missing, without its part for videos, which needs it.

    Raises:
        OSError, ValueError: the checkpoint has none.
    """
    from transformers import AutoConfig, AutoImageProcessor, AutoProcessor, AutoTokenizer
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
    from transformers.utils.import_utils import is_torchvision_available

    whole: Any = PROCESSOR_MAPPING.get(type(AutoConfig.from_pretrained(name)), None)
    if is_torchvision_available() or whole is None or "video_processor" not in whole.get_attributes():
        return AutoProcessor.from_pretrained(name)  # type: ignore[no-untyped-call]

    class PictureProcessor(whole):  # type: ignore[misc]
        """The same for text and pictures only."""

        @classmethod
        def get_attributes(cls) -> list[str]:
            return [part for part in whole.get_attributes() if part != "video_processor"]

    tokenizer = AutoTokenizer.from_pretrained(name)
    template = tokenizer.chat_template or _processor_template(name)
    pictures = AutoImageProcessor.from_pretrained(name)  # type: ignore[no-untyped-call]
    return PictureProcessor(image_processor=pictures, tokenizer=tokenizer, chat_template=template)


def _processor_template(name: str) -> str | None:
    """The chat template, of checkpoints that keep it beside their processor instead of with their tokenizer."""
    from transformers.utils.hub import cached_file

    for file in ("chat_template.jinja", "chat_template.json"):
        path = cached_file(name, file, _raise_exceptions_for_missing_entries=False)
        if path is not None:
            text = Path(path).read_text(encoding="utf-8")
            return str(json.loads(text)["chat_template"]) if file.endswith("json") else text
    return None


def _content(part: str | Path) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    with Image.open(part) as picture:
        return {"type": "image", "image": picture.convert("RGB")}


def _alternatives(
    tokenizer: Any, reply: torch.Tensor, logits: Sequence[torch.Tensor]
) -> tuple[tuple[str, Alternatives], ...]:
    """Each token of a reply [n] with the likeliest in its place, from logits of n x [1, vocabulary]."""
    places = []
    for token, scores in zip(reply.tolist(), logits, strict=True):
        best = torch.log_softmax(scores[0].float(), dim=-1).topk(min(ALTERNATIVES, scores.shape[-1]))
        texts = [tokenizer.decode([number]) for number in best.indices.tolist()]
        found: dict[str, float] = {}
        for text, value in zip(texts, best.values.tolist(), strict=True):
            found.setdefault(text, value)  # several tokens may read alike: the likeliest is the first
        places.append((tokenizer.decode([token]), found))
    return tuple(places)


def _identity(name: str) -> str:
    """What a checkpoint's answers are filed under: its name, with the hash of a folder's files or a hub revision."""
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ReflexError(f"model is {name!r}, a folder without config.json; give the folder of a checkpoint")
        digest = hashlib.sha256()
        for path in sorted(folder.glob("*")):
            if path.suffix in (".json", ".jinja", ".safetensors"):
                digest.update(path.name.encode() + file_sha256(path))
        return f"{folder.resolve().name}@{digest.hexdigest()[:12]}"
    from transformers import AutoConfig

    try:
        revision = AutoConfig.from_pretrained(name)._commit_hash
    except (OSError, ValueError) as error:
        raise ReflexError(
            f"model is {name!r}, which is no folder and cannot be read from the hub: {' '.join(str(error).split())}"
        ) from error
    return f"{name}@{str(revision)[:12]}"
