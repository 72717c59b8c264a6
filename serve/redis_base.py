"""What releases know of users, in a Redis server: loaded under keys of a new generation, which one step then makes the one that is read.

Whoever loads or forgets holds a lock, whose key expires soon after a process that was killed; so a process that stalled for as long finds
at the last step that it holds the lock no more, and changes nothing.
"""

import itertools
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import redis
from redis.lock import Lock

from data.schema import USERS, check_table
from serve import packing
from serve.histories import StoreError, read_histories, read_parquet
from serve.redis_scripts import FLIP

LOCK_SECONDS = 30
KEYS_AT_ONCE, BYTES_AT_ONCE = 1_000, 1 << 20


@contextmanager
def locked(client: redis.Redis) -> Iterator[Lock]:
    """Wait for the lock, and hold it for as long as this process lives and the block runs."""
    lock, done = client.lock("towers:lock", timeout=LOCK_SECONDS, sleep=0.05, thread_local=False), threading.Event()

    def renew() -> None:
        try:
            while not done.wait(LOCK_SECONDS / 3):
                lock.reacquire()
        except redis.RedisError:
            return  # lost: `flip` finds out

    lock.acquire()
    renewing = threading.Thread(target=renew, daemon=True)
    renewing.start()
    try:
        yield lock
    finally:
        done.set()
        renewing.join()
        with suppress(redis.exceptions.LockNotOwnedError):  # it expired, and is another's by now
            lock.release()


def load(client: redis.Redis, lock: Lock, histories: Path, users: Path, *, version: str, length: int) -> bool:
    """Put a release's histories and users in the place of what was loaded before. Whether there was anything to do.

    Raises:
        StoreError: as `serve.store.Store.load_histories`; or the lock was lost meanwhile. The old state stays.
        data.schema.SchemaError: a column of the user table is wrong; the old state stays.
        redis.RedisError: the server does not answer; the old state stays.
    """
    wanted = (version.encode(), str(length).encode())
    if tuple(client.hmget("towers:base", "version", "history_length")) == wanted:
        return False
    sweep(client)
    generation = client.incr("towers:generation")
    client.sadd("towers:generations", generation)
    try:
        gone = client.smembers("towers:forgotten")
        for batch in read_histories(histories, length=length):
            _put(client, generation, "history", packing.without(gone, batch), histories)
        table = check_table(read_parquet(users), USERS, table="users", source=str(users))
        rows = packing.without(gone, table.select(*USERS).iter_rows())
        _put(client, generation, "fields", ((user_id, packing.pack_fields(fields)) for user_id, *fields in rows), users)
        if not client.eval(FLIP, 0, lock.local.token, generation, version, length):
            raise StoreError(f"release {version} was not loaded: for over {LOCK_SECONDS} s this process was held up; load it again")
    finally:
        sweep(client)
    return True


def sweep(client: redis.Redis) -> None:
    """Delete every generation that is not read: the one before, and what a process that was killed left behind."""
    read = client.hget("towers:base", "generation")
    for generation in client.smembers("towers:generations") - {read}:
        base = b"towers:" + generation
        while user_ids := client.zrange(base + b":users", 0, KEYS_AT_ONCE - 1):
            with client.pipeline(transaction=False) as pipe:
                pipe.unlink(*(base + kind + user_id for user_id in user_ids for kind in (b":history:", b":fields:")))
                pipe.zrem(base + b":users", *user_ids)
                pipe.execute()
        client.srem("towers:generations", generation)


def _put(client: redis.Redis, generation: int, kind: str, rows: Iterable[tuple[str, bytes]], source: Path) -> None:
    for batch in _batches(rows):
        keys = {f"towers:{generation}:{kind}:{user_id}": packed for user_id, packed in batch}
        ids = [user_id for user_id, _ in batch]
        if None in ids:
            raise StoreError(f"{source}: a user without an id; export the release again")
        with client.pipeline(transaction=False) as pipe:
            pipe.zadd(f"towers:{generation}:users", dict.fromkeys(ids, 0))
            pipe.msetnx(keys)
            _, written = pipe.execute()
        if len(keys) < len(batch) or not written:
            raise StoreError(f"{source}: a user that stands twice, near {ids[0]!r}; export the release again")


def _batches(rows: Iterable[tuple[str, bytes]]) -> Iterator[list[tuple[str, bytes]]]:
    """Cut where a command would grow too large: the server does nothing else while it takes one in."""
    rows = iter(rows)
    for first in rows:
        batch, size = [first], len(first[1])
        for row in itertools.islice(rows, KEYS_AT_ONCE - 1):
            batch.append(row)
            size += len(row[1])
            if size >= BYTES_AT_ONCE:
                break
        yield batch
