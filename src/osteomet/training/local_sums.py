"""Sums of a few numbers over the processes of one machine, through sockets of its own.

A step waits for four of them. Gloo passes each on by threads of its own, which first must find a
core: that took 7 ms of a step of 300, one and a half of them are left here.
"""

import errno
import os
import socket
from contextlib import suppress
from secrets import token_bytes

import numpy as np
import torch
from torch import Tensor, distributed

TOKEN = 32
"""Bytes that tell a process of this training from any other."""


class LocalSums:
    """Adds up numbers of all processes, in the order of their ranks: all get the same bits.

    Args:
        peers: connections of the first process to all others by rank, or of another to the first.
    """

    def __init__(self, peers: list[socket.socket]) -> None:
        self._peers, self._is_first = peers, distributed.get_rank() == 0

    def add_up(self, numbers: Tensor) -> None:
        """Replace numbers by their sums; all processes must ask for as many at once.

        Raises:
            ConnectionError: another process has ended.
        """
        own = numbers.numpy()
        if self._is_first:
            for peer in self._peers:
                own += _receive(peer, own)
            for peer in self._peers:
                peer.sendall(own.data)
        else:
            self._peers[0].sendall(own.data)
            own[...] = _receive(self._peers[0], own)


def open_local_sums() -> LocalSums | None:
    """Connect all processes, which must call it at once; None, in all of them, if they cannot."""
    rank, processes = distributed.get_rank(), distributed.get_world_size()
    token = token_bytes(TOKEN)
    listener = _listen(f"\0osteomet-{token.hex()}", processes) if rank == 0 else None
    told: list[bytes | None] = [token if listener is not None else None]
    distributed.broadcast_object_list(told)
    token = told[0] or b""
    peers = [] if rank == 0 or not token else _connect(token)
    connected = torch.tensor(float(bool(token) and (rank == 0 or bool(peers))))
    distributed.all_reduce(connected, distributed.ReduceOp.MIN)
    if listener is not None:
        with listener:
            peers = _accept(listener, token, processes - 1) if connected else []
    return LocalSums(peers) if connected else None


def _listen(name: str, processes: int) -> socket.socket | None:
    """Listen at a name without a file, which goes with the process."""
    if not hasattr(socket, "AF_UNIX"):
        return None
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(name)
        listener.listen(2 * processes)
    except OSError:  # names without a file are Linux's
        listener.close()
        return None
    return listener


def _connect(token: bytes) -> list[socket.socket]:
    peer = socket.socket(socket.AF_UNIX)
    try:
        peer.connect(f"\0osteomet-{token.hex()}")
        peer.sendall(token + distributed.get_rank().to_bytes(4, "little"))
    except OSError:  # another machine, or one that looks like it
        peer.close()
        return []
    return [peer]


def _accept(listener: socket.socket, token: bytes, count: int) -> list[socket.socket]:
    """Return the connections of so many processes by rank."""
    by_rank: dict[int, socket.socket] = {}
    while len(by_rank) < count:
        peer, _ = listener.accept()
        said = b""
        with suppress(OSError):
            said = peer.recv(TOKEN + 4, socket.MSG_WAITALL)
        if said[:TOKEN] == token:
            by_rank[int.from_bytes(said[TOKEN:], "little")] = peer
        else:
            peer.close()
    return [by_rank[rank] for rank in sorted(by_rank)]


def _receive(peer: socket.socket, like: np.ndarray) -> np.ndarray:
    """Return as many numbers as ``like`` has."""
    numbers = np.empty_like(like)
    view, got = numbers.data.cast("B"), 0
    while got < numbers.nbytes:
        received = peer.recv_into(view[got:])
        if not received:
            raise ConnectionResetError(os.strerror(errno.ECONNRESET))
        got += received
    return numbers
