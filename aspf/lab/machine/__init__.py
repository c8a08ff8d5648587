"""The machine under the protocols: wait queues, RCU, locks; every access is a `race.Cell`'s."""

from __future__ import annotations

from aspf.lab.machine._rcu import Cpu, Rcu
from aspf.lab.machine._rwsem import RwSemaphore, SpinLock
from aspf.lab.machine._wait_queue import Waiter, WaitQueue, wait_event

__all__ = ("Cpu", "Rcu", "RwSemaphore", "SpinLock", "WaitQueue", "Waiter", "wait_event")
