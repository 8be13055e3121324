#!/usr/bin/env python3
"""Attaches to a gateway as the simplest client would, and sees a shell work.

    tools/check-attach.py raw|uwsgi SOCKET
"""

import socket
import struct
import sys
import time


def packet(modifier2, value, payload=b""):
    return struct.pack("<BHB", 0, value, modifier2) + payload


def main(mode, path):
    deadline = time.monotonic() + 15
    while True:
        client = socket.socket(socket.AF_UNIX)
        try:
            client.connect(path)
            break
        except OSError as error:
            if time.monotonic() > deadline:
                sys.exit(f"cannot connect to {path}: {error}")
            time.sleep(0.05)
    line = b"stty size; echo $((6*7))-$((5*5)); exit\n"
    if mode == "uwsgi":
        client.sendall(packet(100, 33) + packet(101, 99) + packet(0, len(line), line))
        size = b"33 99"
    else:
        client.sendall(line)
        size = b"24 80"
    client.settimeout(15)
    output = b""
    try:
        while chunk := client.recv(65536):
            output += chunk
    except OSError as error:
        sys.exit(f"{error}; until then: {output!r}")
    if b"42-25" not in output or size not in output:
        sys.exit(f"not what a shell would say: {output!r}")


main(*sys.argv[1:])
