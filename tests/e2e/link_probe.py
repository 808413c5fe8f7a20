"""The program of the tests of links: it runs in pods, with Python alone.

    link_probe.py serve PORT                         echo datagrams, or count them, and take TCP streams
    link_probe.py echo ADDRESS PORT PACKETS SECONDS  send small datagrams, one each so many seconds; print the times of
                                                     the replies to each, in ms (JSON, a list of lists)
    link_probe.py flood ADDRESS PORT MBIT SECONDS    send datagrams at a rate; print at which they arrive, in Mbit/s
    link_probe.py stream ADDRESS PORT SECONDS        send over TCP; print at which rate it arrives, in Mbit/s

Rates are those of the data, the medians of windows of half a second.
"""

import json
import socket
import struct
import sys
import threading
import time

SIZE = 1200  # bytes of data in a datagram of a flood
WINDOW = 0.5  # seconds
LATE = 2.0  # seconds after the last datagram within which replies count
ECHO, COUNT, RESULT = b"e", b"c", b"r"


class Counter:
    """How many bytes arrive in each window."""

    def __init__(self):
        self.begin, self.windows = 0.0, []

    def add(self, size):
        now = time.monotonic()
        self.begin = self.begin or now
        number = int((now - self.begin) / WINDOW)
        self.windows += [0] * (number + 1 - len(self.windows))
        self.windows[number] += size

    def mbit(self):
        """The median in Mbit/s, without the first window, which has what queues let pass at once, and the last one."""
        whole = sorted(self.windows[1:-1])
        return whole[len(whole) // 2] * 8 / WINDOW / 1e6 if whole else 0.0


def serve(port):
    def streams():
        with socket.create_server(("0.0.0.0", port)) as server:
            while True:
                stream, _ = server.accept()
                with stream:
                    counter = Counter()
                    while part := stream.recv(1 << 16):
                        counter.add(len(part))
                    stream.sendall(json.dumps(counter.mbit()).encode())

    threading.Thread(target=streams, daemon=True).start()
    counter = Counter()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("0.0.0.0", port))
        while True:
            message, client = server.recvfrom(2000)
            if message[:1] == ECHO:
                server.sendto(message, client)
            elif message[:1] == COUNT:
                counter.add(len(message))
            else:
                server.sendto(json.dumps(counter.mbit()).encode(), client)
                counter = Counter()


def connected(address, port):
    link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    link.connect((address, port))
    return link


def echo(address, port, packets, interval):
    link = connected(address, port)
    sent, replies = [0.0] * packets, [[] for _ in range(packets)]

    def read():
        while True:
            message = link.recv(2000)
            number = struct.unpack("!I", message[1:5])[0]
            replies[number].append(round((time.monotonic() - sent[number]) * 1000, 2))

    threading.Thread(target=read, daemon=True).start()
    begin = time.monotonic()
    for number in range(packets):
        time.sleep(max(0, begin + number * interval - time.monotonic()))
        sent[number] = time.monotonic()
        link.send(ECHO + struct.pack("!I", number))
    time.sleep(LATE)
    return replies


def flood(address, port, mbit, seconds):
    link = connected(address, port)
    link.settimeout(1)
    begin, number, message = time.monotonic(), 0, COUNT + bytes(SIZE - 1)
    while (now := time.monotonic() - begin) < seconds:
        while number * SIZE * 8 < mbit * 1e6 * now:
            link.send(message)
            number += 1
        time.sleep(0.005)
    time.sleep(LATE)
    for _ in range(20):  # a request or its reply may be lost
        link.send(RESULT)
        try:
            return json.loads(link.recv(2000))
        except TimeoutError:
            pass
    raise TimeoutError


def stream(address, port, seconds):
    with socket.create_connection((address, port), 60) as link:
        end, block = time.monotonic() + seconds, bytes(1 << 14)
        while time.monotonic() < end:
            link.sendall(block)
        link.shutdown(socket.SHUT_WR)
        return json.loads(link.recv(2000))


if __name__ == "__main__":
    words = sys.argv[2:]
    if sys.argv[1] == "serve":
        serve(int(words[0]))
    elif sys.argv[1] == "echo":
        print(json.dumps(echo(words[0], int(words[1]), int(words[2]), float(words[3]))))
    elif sys.argv[1] == "flood":
        print(json.dumps(flood(words[0], int(words[1]), float(words[2]), float(words[3]))))
    else:
        print(json.dumps(stream(words[0], int(words[1]), float(words[2]))))
