"""A checkpoint in this process: a tiny Qwen2-VL with random weights, read as a real one is, without a network."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tests.vla.offline.labels.bright import bright_dataset
from vla.errors import ReflexError
from vla.offline.labels.audit import AuditLabelsConfig, audit_labels
from vla.offline.labels.backend import Decoding
from vla.offline.labels.command import label
from vla.offline.labels.local import LocalModel
from vla.offline.labels.settings import LabelConfig
from vla.run.jsonl import read_lines

SPECIAL = [f"<|{name}|>" for name in ("endoftext", "im_start", "im_end", "vision_start", "vision_end")]
SPECIAL += ["<|image_pad|>", "<|video_pad|>"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}{% if c['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_checkpoint(folder: Path, seed: int = 0) -> Path:
    """Model, tokenizer of bytes and picture processor, in the files that a published Qwen2-VL has."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2VLConfig, Qwen2VLForConditionalGeneration
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    bytes_only = Tokenizer(
        models.BPE(vocab={c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, merges=[])
    )
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_only.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bytes_only,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=SPECIAL,
        chat_template=TEMPLATE,
    )
    ids = {name.strip("<|>"): tokenizer.convert_tokens_to_ids(name) for name in SPECIAL}
    text = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": len(tokenizer),
        "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]},
        "bos_token_id": None,
        "eos_token_id": ids["im_end"],
        "pad_token_id": ids["endoftext"],
    }
    config = Qwen2VLConfig(
        text_config=text,
        vision_config={"depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2},
        image_token_id=ids["image_pad"],
        video_token_id=ids["video_pad"],
        vision_start_token_id=ids["vision_start"],
        vision_end_token_id=ids["vision_end"],
    )
    torch.manual_seed(seed)
    Qwen2VLForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=56 * 56).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield write_checkpoint(tmp_path_factory.mktemp("qwen") / "tiny-qwen")


def picture(folder: Path, name: str, value: int) -> Path:
    path = folder / f"{name}.png"
    cv2.imwrite(str(path), np.full((40, 48, 3), value, np.uint8))
    return path


def test_both_pictures_reach_the_model_and_replies_are_the_same_each_time(checkpoint: Path, tmp_path: Path) -> None:
    model = LocalModel(str(checkpoint), "cpu")
    dark, bright = picture(tmp_path, "dark", 20), picture(tmp_path, "bright", 230)
    decoding = Decoding(reply_tokens=12, log_probabilities=True)
    asked = ["Which?", dark, "or", bright]
    reply = model.call(asked, None, decoding)
    assert model.call(asked, None, decoding) == reply
    text_only = model.call(["Which?", "or"], None, decoding)
    # 40 x 48 becomes 28 x 56 or so: two squares of 28 px and more for each picture, with their marks
    assert reply.input_tokens is not None and text_only.input_tokens is not None
    assert reply.input_tokens - text_only.input_tokens >= 2 * (1 + 2)
    assert reply.output_tokens is not None and 0 < reply.output_tokens <= 12
    assert len(reply.tokens) == reply.output_tokens
    best = [max(alternatives.values()) for _, alternatives in reply.tokens]
    assert all(alternatives[token] == top for (token, alternatives), top in zip(reply.tokens, best, strict=True))
    assert all(sum(np.exp(list(alternatives.values()))) <= 1 + 1e-5 for _, alternatives in reply.tokens)
    swapped = model.call(["Which?", bright, "or", dark], None, decoding)
    assert swapped.tokens[0][1] != reply.tokens[0][1]


def test_a_name_is_of_the_weights(checkpoint: Path, tmp_path: Path) -> None:
    same = write_checkpoint(tmp_path / "tiny-qwen")
    other = write_checkpoint(tmp_path / "other" / "tiny-qwen", seed=1)
    names = [LocalModel(str(folder), "cpu").model for folder in (checkpoint, same, other)]
    assert names[0] == names[1] != names[2]
    assert names[0].startswith("tiny-qwen@")


def test_a_dataset_is_labelled_and_audited_by_it(checkpoint: Path, tmp_path: Path) -> None:
    dataset = bright_dataset(tmp_path / "data", episodes=4, length=6)
    config = LabelConfig(
        str(dataset),
        output=str(tmp_path / "labels"),
        backend="local",
        model=str(checkpoint),
        pairs=6,
        checks=1,
        device="cpu",
        decoding=Decoding(reply_tokens=8, log_probabilities=True),
        threads=1,
    )
    label(config)
    label(config)  # nothing is left to ask
    calls = read_lines(tmp_path / "labels/calls.jsonl")
    received = [line for line in calls if line["event"] == "received"]
    assert len(calls) == 2 * len(received) and len({line["key"] for line in received}) == len(received)
    rows = read_lines(tmp_path / "labels/labels.jsonl")
    assert len(rows) == 9
    # random weights say nothing that can be understood, and that is no tie
    assert {row["status"] for row in rows} == {"unparsable"} and {row["answer"] for row in rows} == {None}
    assert json.loads((tmp_path / "labels/summary.json").read_text())["labelled"] == 0
    with pytest.raises(ReflexError, match="has no pair with an answer"):
        audit_labels(AuditLabelsConfig(str(tmp_path / "labels")))


def test_other_weights_under_the_same_name_do_not_go_on_with_the_labels(tmp_path: Path) -> None:
    data = bright_dataset(tmp_path / "data", episodes=2, length=4)
    folder = write_checkpoint(tmp_path / "tiny-qwen")
    values = {"output": str(tmp_path / "labels"), "backend": "local", "model": str(folder), "device": "cpu"}
    config = LabelConfig(str(data), **values, pairs=1, checks=0, threads=1, decoding=Decoding(reply_tokens=8))
    label(config)
    write_checkpoint(folder, seed=3)
    with pytest.raises(ReflexError, match=r"begun with other settings: model_identity \(was 'tiny-qwen@\w+', now"):
        label(config)


def test_what_is_no_checkpoint_is_said(tmp_path: Path) -> None:
    with pytest.raises(ReflexError, match=r"a folder without config\.json"):
        LocalModel(str(tmp_path), "cpu")
    with pytest.raises(
        ReflexError, match="model is 'nobody/nothing', which is no folder and cannot be read from the hub"
    ):
        LocalModel("nobody/nothing", "cpu")
    (tmp_path / "config.json").write_text('{"model_type": "qwen2_vl"}')
    with pytest.raises(ReflexError, match=r"cannot be loaded"):
        LocalModel(str(tmp_path), "cpu").call(["hello"], None, Decoding())
