"""Map a real file, touch it page by page, and write to it without changing it.

Mapping reads nothing: a page is read from the file when somebody first touches it. A private mapping
shares the file's pages until it writes. Then it gets a copy of that page, and the file and everybody
else still see the old bytes.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import anyio

from aspf.mm import (
    MAP_PRIVATE,
    MAP_SHARED,
    PAGE_SIZE,
    PROT_READ,
    PROT_WRITE,
    AddressSpace,
    MappedFile,
    SegmentationFault,
)

PAGES = 4


def report(what: str, space: AddressSpace) -> None:
    """Print what the address space has done so far."""
    done = space.statistics()
    print(
        f"{what}: {done.pages} pages mapped, "
        f"{done.major_faults} faults waited for the file, {done.minor_faults} did not"
    )


async def experiment(path: Path) -> None:
    """Map the file twice, shared and private."""
    length = PAGES * PAGE_SIZE
    async with await MappedFile.open(path) as file, AddressSpace() as space:
        shared = await space.mmap(0, length, PROT_READ, MAP_SHARED, file)
        private = await space.mmap(0, length, PROT_READ | PROT_WRITE, MAP_PRIVATE, file)
        report("two mappings", space)

        async with anyio.create_task_group() as readers:
            for _ in range(8):
                readers.start_soon(space.read, shared, 2 * PAGE_SIZE)
        report("8 tasks read 2 pages", space)

        await space.write(private + PAGE_SIZE, b"mine!")
        print(f"private: {await space.read(private + PAGE_SIZE, 6)!r}")
        print(f"shared:  {await space.read(shared + PAGE_SIZE, 6)!r}")
        report("one page written privately", space)

        try:
            await space.write(shared, b"no")
        except SegmentationFault as fault:
            print(f"writing to the read-only mapping: {type(fault).__name__}, {fault.code}")

        await space.munmap(private, length)
        try:
            await space.read(private, 1)
        except SegmentationFault as fault:
            print(f"reading after munmap: {type(fault).__name__}, {fault.code}")


def main() -> None:
    """Run the experiment on a file of four pages: A, B, C, D."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "alphabet"
        path.write_bytes(b"".join(letter * PAGE_SIZE for letter in (b"A", b"B", b"C", b"D")))
        before = path.read_bytes()
        anyio.run(experiment, path)
        print(f"the file is as it was: {path.read_bytes() == before}")


if __name__ == "__main__":
    main()
