"""Programs that do what no schedule can repeat, for the doctor; another process imports them."""

from __future__ import annotations

import datetime as dt
import logging
import os
import random
import socket
import subprocess
import sys
import threading
import time
import uuid
from contextlib import suppress

import trio

runs = 0


async def clean() -> str:
    await trio.sleep(1)
    return "done"


async def reads() -> None:
    """Everything that is read and not used."""

    async def reader() -> None:
        time.monotonic()
        for _ in range(3):
            time.time()
        dt.datetime.now(tz=dt.UTC)
        random.random()
        os.urandom(4)
        random.Random(1).random()  # repeats itself
        await trio.lowlevel.checkpoint()
        uuid.uuid4()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader)


async def logs() -> None:
    logging.getLogger(__name__).debug("nothing is read for this one")
    logging.LogRecord("name", logging.INFO, "file", 1, "text", None, None)


async def sleeps_at_random() -> None:
    await trio.sleep(random.random())


async def iterates_over_a_set(words: int = 8) -> list[str]:
    order: list[str] = []

    async def one(word: str) -> None:
        order.append(word)

    async with trio.open_nursery() as nursery:
        for word in {f"word {number}" for number in range(words)}:
            nursery.start_soon(one, word)
    return order


async def counts_its_runs() -> int:
    global runs
    runs += 1
    return runs


async def starts_a_thread() -> None:
    threading.Thread(target=print).start()


async def connects() -> None:
    with socket.socket() as sock:
        sock.connect(("127.0.0.1", 9))


async def looks_up() -> None:
    socket.getaddrinfo("localhost", 80)


async def runs_a_process() -> None:
    subprocess.run([sys.executable, "-c", ""], check=True)  # noqa: ASYNC221


async def swallows_the_refusal() -> None:
    with suppress(Exception):
        await starts_a_thread()
    await trio.lowlevel.checkpoint()


async def ends_elsewhere() -> None:
    if os.environ.get("PYTHONHASHSEED") in {"0", "1"}:
        os._exit(3)


async def starts_a_thread_elsewhere() -> None:
    if os.environ.get("PYTHONHASHSEED") in {"0", "1"}:
        await starts_a_thread()
