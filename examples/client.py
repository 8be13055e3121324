#!/usr/bin/env python3
"""Attaches to a forkptyrouter in raw mode, without uWSGI.

    python3 examples/client.py /tmp/fpty.socket

Standard library only. The window size is not told: raw mode cannot.
"""

import os
import selectors
import socket
import sys
import termios
import tty

KEYBOARD, SCREEN = 0, 1


def write_all(descriptor, data):
    while data:
        data = data[os.write(descriptor, data):]


def relay(server):
    with selectors.DefaultSelector() as selector:
        selector.register(server, selectors.EVENT_READ)
        selector.register(KEYBOARD, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is server:
                    output = server.recv(65536)
                    if not output:
                        return
                    write_all(SCREEN, output)
                else:
                    typed = os.read(KEYBOARD, 65536)
                    if typed:
                        server.sendall(typed)
                    else:
                        # A pipe that ends: the rest of the output still comes.
                        selector.unregister(KEYBOARD)
                        server.shutdown(socket.SHUT_WR)


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: client.py SOCKET")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        try:
            server.connect(sys.argv[1])
        except OSError as error:
            sys.exit(f"cannot connect to {sys.argv[1]}: {error}")
        if not os.isatty(KEYBOARD):
            relay(server)
            return
        before = termios.tcgetattr(KEYBOARD)
        try:
            # Every key goes to the other terminal, Ctrl-C too.
            tty.setraw(KEYBOARD)
            relay(server)
        finally:
            termios.tcsetattr(KEYBOARD, termios.TCSADRAIN, before)


main()
