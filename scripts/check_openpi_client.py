"""The two halves of `check_openpi_client.sh`: what the policy decides in process, and what openpi's client is told.

check_openpi_client.py expected POLICY FILE     # with this project
check_openpi_client.py ask ADDRESS FOLDER       # with openpi-client, and without this project
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

EPISODE_STEPS = 24
PROMPT = "pick up the red cube and place it on the green pad"


def requests() -> list[dict[str, Any]]:
    """Observations under the keys of openpi's LIBERO example, as `examples/libero/main.py` makes them."""
    generator = np.random.default_rng(0)
    return [
        {
            "observation/image": generator.integers(0, 255, (224, 224, 3), dtype=np.uint8),
            "observation/wrist_image": generator.integers(0, 255, (224, 224, 3), dtype=np.uint8),
            "observation/state": generator.normal(size=8) * 0.1,
            "prompt": PROMPT,
        }
        for _ in range(EPISODE_STEPS)
    ]


def expected(policy: str, file: Path) -> None:
    """Write the policy's own decisions."""
    import torch

    from vla.policies import load_policy

    torch.set_num_threads(1)
    loaded = load_policy(policy)
    chunks = [
        loaded.select_action(
            {
                "images": {"image": request["observation/image"], "wrist_image": request["observation/wrist_image"]},
                "state": request["observation/state"].astype(np.float32),
                "instruction": request["prompt"],
            }
        )
        for request in requests()
    ]
    np.savez(file, chunks=np.stack(chunks), execute_steps=loaded.spec.execute_steps)


def ask(address: str, folder: Path) -> None:
    """Ask with openpi's client, directly and through its broker of chunks; print the result."""
    from openpi_client import action_chunk_broker, websocket_client_policy

    known = np.load(folder / "expected.npz", allow_pickle=False)
    host, port = address.rsplit(":", 1)
    token = (folder / "token").read_text().strip()
    client = websocket_client_policy.WebsocketClientPolicy(host, int(port), api_key=token)
    answers = [client.infer(request) for request in requests()]
    chunks = np.stack([answer["actions"] for answer in answers])
    error = ""
    try:
        client.infer({"prompt": PROMPT})
    except RuntimeError as refused:
        error = str(refused)
    usable = bool(np.array_equal(client.infer(requests()[0])["actions"], known["chunks"][0]))
    broker = action_chunk_broker.ActionChunkBroker(client, int(known["execute_steps"]))
    steps = [broker.infer(requests()[0])["actions"] for _ in range(int(known["execute_steps"]))]
    result = {
        "openpi_client": version("openpi-client"),
        "websockets": version("websockets"),
        "numpy": version("numpy"),
        "metadata": {key: value for key, value in client.get_server_metadata().items() if key != "embodiment"},
        "requests": len(answers),
        "keys_of_an_answer": sorted(answers[0]),
        "actions_equal_to_in_process": bool(np.array_equal(chunks, known["chunks"])),
        "through_the_chunk_broker_equal": bool(np.array_equal(np.stack(steps), known["chunks"][0][: len(steps)])),
        "error_of_a_wrong_request": error,
        "connection_usable_after_it": usable,
    }
    print(json.dumps(result, indent=2))
    good = result["actions_equal_to_in_process"] and result["through_the_chunk_broker_equal"] and error and usable
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    part, what, where = sys.argv[1:4]
    {"expected": expected, "ask": ask}[part](what, Path(where))
