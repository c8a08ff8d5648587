"""Sequential models of what tasks share."""

from __future__ import annotations

from collections import deque

from aspf.race import Blocked


class Register:
    """A variable."""

    def __init__(self) -> None:
        self.value = 0

    def write(self, value: int) -> None:
        self.value = value

    def read(self) -> int:
        return self.value


class Queue:
    """What is put in comes out in order; there is room for two."""

    def __init__(self) -> None:
        self.items: deque[int] = deque()

    def put(self, item: int) -> None:
        if len(self.items) == 2:
            raise Blocked
        self.items.append(item)

    def get(self) -> int:
        if not self.items:
            raise Blocked
        return self.items.popleft()

    def get_nowait(self) -> int:
        if not self.items:
            raise LookupError
        return self.items.popleft()


class Lock:
    """Held by one task at a time, and given back by that one."""

    task: str | None = None

    def __init__(self, would_block: type[Exception] = BlockingIOError) -> None:
        self.holder: str | None = None
        self.would_block = would_block

    def acquire(self) -> None:
        if self.holder is not None:
            raise Blocked
        self.holder = self.task

    def acquire_nowait(self) -> None:
        if self.holder is not None:
            raise self.would_block
        self.holder = self.task

    def release(self) -> None:
        if self.holder != self.task:
            raise RuntimeError
        self.holder = None


class Semaphore:
    """One token, and whoever has it may give it back."""

    def __init__(self, would_block: type[Exception] = BlockingIOError) -> None:
        self.tokens = 1
        self.would_block = would_block

    def acquire(self) -> None:
        if not self.tokens:
            raise Blocked
        self.tokens -= 1

    def acquire_nowait(self) -> None:
        if not self.tokens:
            raise self.would_block
        self.tokens -= 1

    def release(self) -> None:
        self.tokens += 1


class Event:
    """Happens once; who waits goes on afterwards."""

    def __init__(self) -> None:
        self.happened = False

    def set(self) -> None:
        self.happened = True

    def is_set(self) -> bool:
        return self.happened

    def wait(self) -> None:
        if not self.happened:
            raise Blocked


class Channel:
    """A queue with room for one item, both of its ends."""

    def __init__(self) -> None:
        self.items: tuple[int, ...] = ()

    def send(self, item: int) -> None:
        if self.items:
            raise Blocked
        self.items = (item,)

    def receive(self) -> int:
        if not self.items:
            raise Blocked
        item, *rest = self.items
        self.items = tuple(rest)
        return item


class ReadWriteLock:
    """Many readers or one writer, who may become a reader."""

    def __init__(self) -> None:
        self.readers = 0
        self.writer = False

    def acquire_read(self) -> None:
        if self.writer:
            raise Blocked
        self.readers += 1

    def acquire_write(self) -> None:
        if self.writer or self.readers:
            raise Blocked
        self.writer = True

    def release_read(self) -> None:
        self.readers -= 1

    def release_write(self) -> None:
        self.writer = False

    def downgrade(self) -> None:
        self.writer = False
        self.readers += 1


class Table:
    """Keys to values; `fetch` puts a value where there is none."""

    def __init__(self) -> None:
        self.values: dict[int, str] = {}

    def put(self, key: int, value: str) -> None:
        self.values[key] = value

    def remove(self, key: int) -> None:
        self.values.pop(key, None)

    def look_up(self, key: int) -> str | None:
        return self.values.get(key)

    def fetch(self, key: int, value: str) -> str:
        return self.values.setdefault(key, value)
