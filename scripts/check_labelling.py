"""Whether labelling survives a bad endpoint and being killed: every pair accounted for, none paid twice, caps kept.

`vla label` asks a server on this machine that delays, refuses, babbles, breaks, cuts connections and says that there
were too many requests. It is killed with SIGKILL several times, then stopped by a cap, then left to end.

    python -m scripts.check_labelling output=docs/results/labelling.json [pairs=2000] [kills=3] ...
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.vla.offline.labels.bright import bright_dataset
from tests.vla.offline.labels.chat_server import MODEL, ChatServer, chat_server
from vla.conf.compose import compose_config
from vla.errors import ReflexError
from vla.offline.labels.audit import AuditLabelsConfig, audit_labels
from vla.offline.labels.files import AUDIT, CALLS, SUMMARY
from vla.offline.labels.ledger import FINAL
from vla.run.files import read_json_object, write_json
from vla.run.jsonl import read_lines

FAULTS = {
    "delay": 0.05,
    "too_many": 0.08,
    "broken": 0.06,
    "junk": 0.04,
    "disconnect_before": 0.04,
    "disconnect_within": 0.04,
    "refuse": 0.02,
    "babble": 0.02,
}
"""What the server does (`tests/vla/offline/labels/chat_server.py`)."""
CAP_AFTER = 0.1
"""Share of the expected calls that a cap allows after the last kill."""
LONGEST_RUN = 1800.0
"""Seconds after which a run is held to hang."""


@dataclass(frozen=True)
class LabellingStudy:
    """How much is labelled, and how often it is killed."""

    output: str
    """JSON file to write."""
    pairs: int = 2000
    """Pairs to label."""
    kills: int = 3
    """Times that the command is killed."""
    episodes: int = 40
    """Episodes of the dataset that is made up."""
    length: int = 50
    """Frames of each."""
    concurrency: int = 8
    """Calls at a time."""


def start(
    study: LabellingStudy, server: ChatServer, dataset: Path, folder: Path, max_calls: int
) -> subprocess.Popen[str]:
    """`vla label` in a process of its own."""
    settings = {
        "dataset": dataset,
        "output": folder,
        "model": MODEL,
        "pairs": study.pairs,
        "checks": 20,
        "both_orders": 0.1,
        "endpoint.base_url": server.base_url,
        "endpoint.api_key_variable": "null",
        "endpoint.concurrency": study.concurrency,
        "endpoint.attempts": 10,
        "endpoint.first_wait": 0.05,
        "endpoint.timeout": 20,
        "budget.max_calls": max_calls,
        "budget.price_input": 0.5,
        "budget.price_output": 2.0,
    }
    command = [sys.executable, "-m", "vla", "label", *(f"{name}={value}" for name, value in settings.items())]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def kill_at(process: subprocess.Popen[str], server: ChatServer, answers: int) -> None:
    """Kill the process once the server has sent so many answers. Raises `ReflexError` when it ends before."""
    while server.seen.outcomes["answered"] < answers:
        if process.poll() is not None:
            raise ReflexError(f"vla label ended before it could be killed: {process.communicate()[0]}")
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


def finish(process: subprocess.Popen[str]) -> None:
    """Wait for its end. Raises `ReflexError` when it fails."""
    said = process.communicate(timeout=LONGEST_RUN)[0]
    if process.returncode != 0:
        raise ReflexError(f"vla label ended with {process.returncode}: {said}")


def run(study: LabellingStudy, folder: Path) -> dict[str, Any]:
    """The whole of it; what was found, JSON-ready."""
    dataset = bright_dataset(folder / "data", study.episodes, study.length)
    labels = folder / "labels"
    expected = round(2 * (1.1 * study.pairs + 120))  # two stages; a tenth of the pairs, and the checks, in both orders
    began = time.monotonic()
    with chat_server(keep_bodies=False, **FAULTS) as server:
        spent_at_kills = []
        for number in range(study.kills):
            process = start(study, server, dataset, labels, 10 * expected)
            kill_at(process, server, round(expected * (number + 1) / (study.kills + 2)))
            spent_at_kills.append(cost_of(labels))
        cap = spent_at_kills[-1] + round(CAP_AFTER * expected)
        finish(start(study, server, dataset, labels, cap))
        capped = read_json_object(labels / SUMMARY)
        finish(start(study, server, dataset, labels, 10 * expected))
        seconds = time.monotonic() - began
        audit_labels(AuditLabelsConfig(str(labels)))
        found, audit = judge(labels, server), read_json_object(labels / AUDIT)
    return {
        "settings": {name: value for name, value in asdict(study).items() if name != "output"},
        "faults": FAULTS,
        "seconds": seconds,
        "calls_at_kills": spent_at_kills,
        "cap": {"max_calls": cap, "calls": capped["spent"]["calls"], "not_asked": capped["not_asked"]},
        **found,
        "summary": read_json_object(labels / SUMMARY),
        "audit": {name: audit[name] for name in ("counts", "orders", "checks", "truth", "gate")},
    }


def cost_of(labels: Path) -> int:
    """Calls in the cache."""
    return sum(line["event"] == "sent" for line in read_lines(labels / CALLS))


def judge(labels: Path, server: ChatServer) -> dict[str, Any]:
    """The claims, from the cache's lines and from what the server counted for itself."""
    lines = read_lines(labels / CALLS)
    sent = {line["call"] for line in lines if line["event"] == "sent"}
    received = {line["call"]: line for line in lines if line["event"] == "received"}
    answers = Counter(line["key"] for line in received.values() if line["status"] in FINAL)
    answers_sent = sum(server.seen.answered.values())
    summary = read_json_object(labels / SUMMARY)
    money = sum(line["money"] for line in received.values())
    money += sum(line["money"] for line in lines if line["event"] == "sent" and line["call"] not in received)
    return {
        "server": dict(server.seen.outcomes),
        "most_requests_at_once": server.seen.most_at_once,
        "calls": len(sent),
        "calls_under_way_at_kills": len(sent - received.keys()),
        "answers_sent_by_the_server": answers_sent,
        "answers_received": sum(answers.values()),
        "answers_sent_but_lost_to_kills": answers_sent - sum(answers.values()),
        "answers_received_twice": sum(count - 1 for count in answers.values()),
        "pictures_answered_about_more_than_once": sum(
            server.seen.answered[one] > 1 for one in server.seen.with_pictures
        ),
        "money_in_the_cache": money,
        "money_in_the_summary": summary["spent"]["money"],
    }


def problems(found: dict[str, Any]) -> list[str]:
    """Which claims do not hold; none, it is hoped."""
    summary = found["summary"]
    under_way = found["calls_under_way_at_kills"]
    claims = {
        "every pair is labelled or accounted for": summary["not_asked"] == 0
        and sum(summary["counts"].values()) == summary["pairs"],
        "no answer that was received was asked for again": found["answers_received_twice"] == 0,
        "only calls under way at a kill can have been answered unheard": 0
        <= found["answers_sent_but_lost_to_kills"]
        <= under_way,
        "no more than the calls at a time were under way at each kill": under_way
        <= found["settings"]["concurrency"] * found["settings"]["kills"],
        "pictures were answered about twice only where a kill lost the answer": found[
            "pictures_answered_about_more_than_once"
        ]
        <= found["answers_sent_but_lost_to_kills"],
        "the cap was kept": found["cap"]["calls"] <= found["cap"]["max_calls"] and found["cap"]["not_asked"] > 0,
        "the summary adds up": abs(found["money_in_the_cache"] - found["money_in_the_summary"]) < 1e-9,
        "no more calls at a time than were allowed": found["most_requests_at_once"]
        <= 2 * found["settings"]["concurrency"],
    }
    return [claim for claim, holds in claims.items() if not holds]


def main(arguments: list[str]) -> int:
    """Run it and write the file; the exit status is 1 where a claim does not hold."""
    study: LabellingStudy = compose_config("check_labelling", LabellingStudy, arguments).build()
    with tempfile.TemporaryDirectory() as folder:
        found = run(study, Path(folder))
    found["problems"] = problems(found)
    write_json(Path(study.output), found)
    print("\n".join(found["problems"]) or "all claims hold")
    return 1 if found["problems"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
