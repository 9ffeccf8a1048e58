"""An S3 server on this machine, for tests: moto in a process of its own, and a toy job to fill it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console

from worldsim.datasets import objects
from worldsim.datasets.generate import plan_dataset
from worldsim.datasets.job import run_job
from worldsim.datasets.storage import place

QUIET = Console(quiet=True)
DICE = {"_target_": "toy_sources.Dice"}
PAGE = 20
SERVER = """
import sys, time
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


@contextmanager
def serving() -> Iterator[str]:
    """Run a server that lists ``PAGE`` objects at a time; give its address."""
    told = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "MOTO_S3_DEFAULT_MAX_KEYS": str(PAGE)}
    pipe, none = subprocess.PIPE, subprocess.DEVNULL
    command = [sys.executable, "-c", SERVER]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=none, text=True, env={**os.environ, **told}) as server:
        assert server.stdout is not None
        yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        server.kill()


def make_bucket(endpoint: str, name: str) -> None:
    with urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{name}", method="PUT")):
        pass


def reading_key(endpoint: str) -> dict[str, str]:
    """Make a user who may read but not write."""
    import boto3

    iam = boto3.client("iam", endpoint_url=endpoint, region_name="us-east-1")
    iam.create_user(UserName="reader")
    policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": ["s3:Get*", "s3:List*"], "Resource": "*"}]}
    iam.put_user_policy(UserName="reader", PolicyName="read", PolicyDocument=json.dumps(policy))
    key: dict[str, str] = iam.create_access_key(UserName="reader")["AccessKey"]
    iam.close()
    return key


@contextmanager
def refusing(endpoint: str) -> Iterator[None]:
    """Have the server look at who asks."""
    reset(endpoint, "0")
    try:
        yield
    finally:
        reset(endpoint, "inf")


def reset(endpoint: str, count: str) -> None:
    """Have the server look away ``count`` times."""
    asked = urllib.request.Request(f"{endpoint}/moto-api/reset-auth", count.encode(), {"Content-Type": "text/plain"})
    with urllib.request.urlopen(asked):
        objects.forget()


# ---------------------------------------------------------------- the toy's dataset, in a folder or a store


def settings(path: Any, **changes: Any) -> dict[str, Any]:
    return {
        "env": "toy_jobs:FailingWorld-v0",
        "world": "toy",
        "scenario": {"free": {"policy": DICE}, "held": {"policy": {**DICE, "scale": 0.5}, "horizon": 9}},
        "horizon": 20,
        "count": 4,
        "seed": 5,
        "batch": 3,
        "out": str(path),
        **changes,
    }


def planned(path: Any, **changes: Any) -> Any:
    plan_dataset(settings(path, **changes), console=QUIET)
    return place(path)


def run(path: Any, **changes: Any) -> int:
    return run_job({"out": str(path), "launcher": "here", "workers": 1, "attempts": 1, "finalize": False, **changes}, console=QUIET)
