"""httpcore 1.0.9: a cancelled request keeps the only connection for ever.

The pool makes a connection, assigns it to a request that waits in its queue, and wakes that. If the
request is cancelled before it has begun to use it, nobody opens the connection and nobody closes it,
but the pool counts it: with `max_connections=1` every later request waits for ever
(encode/httpcore#1093).
"""

from __future__ import annotations

import httpcore
import trio

from aspf.race import explore, may_cancel

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


class Stream(httpcore.AsyncNetworkStream):
    """A server that has one answer, and closes the connection after it."""

    def __init__(self) -> None:
        self.answers = [ANSWER]

    async def write(self, *_: object, **__: object) -> None:
        await trio.lowlevel.checkpoint()

    async def read(self, *_: object, **__: object) -> bytes:
        await trio.lowlevel.checkpoint()
        return self.answers.pop() if self.answers else b""

    async def aclose(self) -> None:
        pass

    def get_extra_info(self, _: str) -> None:
        return None


class Network(httpcore.AsyncNetworkBackend):
    """A network of such servers."""

    async def connect_tcp(self, *_: object, **__: object) -> Stream:
        await trio.lowlevel.checkpoint()
        return Stream()


async def serves_who_is_left() -> None:
    """A request waits behind another and may be cancelled; the third must get its answer."""
    pool = httpcore.AsyncConnectionPool(max_connections=1, network_backend=Network())

    async def get() -> None:
        await pool.request("GET", "http://example.org/")

    async def gives_up() -> None:
        with may_cancel():
            await get()

    async with pool, trio.open_nursery() as nursery:
        nursery.start_soon(get, name="first")
        nursery.start_soon(gives_up)
        nursery.start_soon(get, name="third")


if __name__ == "__main__":
    print(explore(serves_who_is_left, minimise=True))
