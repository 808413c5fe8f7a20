"""The program of the network's tests: it runs in pods, on nodes, on workers' hosts and outside, with Python alone.

    network_probe.py serve NAME ADDRESS PORT    answer over TCP and UDP who asked, and under which address
    network_probe.py ask REQUESTS               make requests (JSON, a list), and print their results (JSON, a list)

A request has a ``kind``, and the result is a dictionary that has ``error`` if it failed: ``refused``, ``dropped`` (no
answer in time), ``too big``, or the error's own words.
"""

import contextlib
import hashlib
import json
import os
import select
import socket
import struct
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

BLOCK = 1 << 20
DONT_FRAGMENT = (socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER, IP_PMTUDISC_DO; the module lacks the names
PATH_MTU = (socket.IPPROTO_IP, 14)  # IP_MTU
SECONDS = 5.0


def data(size):
    """Blocks that differ from one another, and cost no time to make."""
    block = bytearray(hashlib.sha256(b"q8s").digest() * (BLOCK // 32))
    for number in range((size + BLOCK - 1) // BLOCK):
        block[:8] = struct.pack("!Q", number)
        yield memoryview(block)[: min(BLOCK, size - number * BLOCK)]


def exactly(stream, size):
    """Read so many bytes; return their digest."""
    digest = hashlib.sha256()
    while size:
        part = stream.recv(min(size, BLOCK))
        if not part:
            raise OSError(f"{size} bytes are missing")
        digest.update(part)
        size -= len(part)
    return digest.hexdigest()


def line(stream):
    found = b""
    while not found.endswith(b"\n"):
        part = stream.recv(1)
        if not part:
            raise OSError("the connection ended")
        found += part
    return found.decode().strip()


def sent(stream, size):
    """Send so many bytes; return their digest."""
    digest = hashlib.sha256()
    for block in data(size):
        digest.update(block)
        stream.sendall(block)
    return digest.hexdigest()


def answer(stream, client, name):
    with stream:
        try:
            words = line(stream).split()
            if words[0] == "hello":
                found = {"sees": client[0], "at": stream.getsockname()[0], "name": name}
                stream.sendall(json.dumps(found).encode() + b"\n")
            elif words[0] == "take":
                stream.sendall(exactly(stream, int(words[1])).encode() + b"\n")
            elif words[0] == "give":
                stream.sendall(sent(stream, int(words[1])).encode() + b"\n")
        except OSError as error:
            print(client, error, flush=True)


def serve(name, address, port):
    def datagrams():
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind((address, port))
        while True:
            message, client = server.recvfrom(2000)
            found = {"sees": client[0], "name": name, "message": message.decode()}
            with contextlib.suppress(OSError):  # a node that boots may have no way back yet
                server.sendto(json.dumps(found).encode(), client)

    threading.Thread(target=datagrams, daemon=True).start()
    server = socket.create_server((address, port), backlog=128)
    print(f"{name} serves {address}:{port}", flush=True)
    while True:
        stream, client = server.accept()
        threading.Thread(target=answer, args=(stream, client, name), daemon=True).start()


def connect(request, seconds=SECONDS):
    stream = socket.create_connection((request["address"], request["port"]), seconds)
    stream.settimeout(seconds)
    return stream


def tcp(request):
    with connect(request) as stream:
        stream.sendall(b"hello\n")
        return json.loads(line(stream))


def udp(request):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        link.settimeout(SECONDS)
        link.connect((request["address"], request["port"]))
        link.send(b"hello")
        return json.loads(link.recv(2000))


def banner(request):
    """What the server says first, as sshd does."""
    with connect(request) as stream:
        return {"says": stream.recv(4).decode()}


def opens(request):
    """Whether there is a listener."""
    with connect(request):
        return {"says": "open"}


def mtu(request):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        link.connect((request["address"], 9))
        return {"mtu": link.getsockopt(*PATH_MTU)}


def ping(request):
    """One packet of that size, IP header included, that may not be split."""
    body = bytes(request["size"] - 28)
    mark = int.from_bytes(os.urandom(2), "big")
    packet = struct.pack("!BBHHH", 8, 0, 0, mark, 1) + body
    total = sum(struct.unpack(f"!{len(packet) // 2}H", packet[: len(packet) // 2 * 2]))
    total = (total & 0xFFFF) + (total >> 16)
    packet = struct.pack("!BBHHH", 8, 0, ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF, mark, 1) + body
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as link:
        link.setsockopt(*DONT_FRAGMENT)
        link.connect((request["address"], 0))
        link.send(packet)
        end = time.monotonic() + SECONDS
        while select.select([link], [], [], max(0, end - time.monotonic()))[0]:
            found = link.recv(70000)
            found = found[(found[0] & 15) * 4 :]
            if found[0] == 0 and struct.unpack("!H", found[4:6])[0] == mark:
                return {"size": len(found) + 20}
        raise TimeoutError


def dns(request):
    """The address of a name, from the server of /etc/resolv.conf or the given one, over UDP or TCP."""
    name = b"".join(bytes([len(part)]) + part.encode() for part in request["name"].split("."))
    query = struct.pack("!6H", 4711, 0x100, 1, 0, 0, 0) + name + b"\0" + struct.pack("!2H", 1, 1)
    place = (request["address"], 53)
    if request["over"] == "udp":
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
            link.settimeout(SECONDS)
            link.connect(place)
            link.send(query)
            found = link.recv(2000)
    else:
        with socket.create_connection(place, SECONDS) as stream:
            stream.sendall(struct.pack("!H", len(query)) + query)
            size = struct.unpack("!H", stream.recv(2, socket.MSG_WAITALL))[0]
            found = stream.recv(size, socket.MSG_WAITALL)
    if found[3] & 15 or not struct.unpack("!H", found[6:8])[0]:
        raise OSError("no such name")
    return {"says": socket.inet_ntoa(found[-4:])}


def affinity(request):
    return {"names": sorted({tcp(request)["name"] for _ in range(request["times"])})}


def short(request):
    """Connections one after another: how many, and how long they took, in s."""
    times = []
    for _ in range(request["times"]):
        begin = time.monotonic()
        tcp(request)
        times.append(time.monotonic() - begin)
    times.sort()
    return {"number": len(times), "median": times[len(times) // 2], "longest": times[-5:]}


def transfer(request):
    """So many bytes to the server (``take``) or from it (``give``): their digests at both ends."""
    with connect(request, 600) as stream:
        begin = time.monotonic()
        stream.sendall(f"{request['way']} {request['size']}\n".encode())
        ours = (sent if request["way"] == "take" else exactly)(stream, request["size"])
        theirs = line(stream)
        return {"same": ours == theirs, "sha256": ours, "seconds": time.monotonic() - begin}


def flow(request):
    """Datagrams of one socket, for so many seconds: number of answers, longest gap, and the time of the last one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        link.setblocking(False)
        link.connect((request["address"], request["port"]))
        begin, answers = time.monotonic(), []
        while (now := time.monotonic() - begin) < request["seconds"]:
            with contextlib.suppress(OSError):  # an ICMP error of an earlier datagram
                link.send(f"{now:.3f}".encode())
            if select.select([link], [], [], 0.2)[0]:
                try:
                    sent_at = float(json.loads(link.recv(2000))["message"])
                except OSError:
                    time.sleep(0.2)
                    continue
                if sent_at > now - 5:
                    answers.append(round(now, 1))
                time.sleep(0.1)
    times = [0.0, *answers, float(request["seconds"])]
    gap, start = max((times[number] - before, before) for number, before in enumerate(times[:-1], 1))
    return {"answers": len(answers), "gap": round(gap, 1), "from": start, "last": times[-2]}


def arrivals(request):
    """Which of some senders' datagrams to a port arrive within so many seconds, whoever listens there."""
    found, end = set(), time.monotonic() + request["seconds"]
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800)) as link:
        while select.select([link], [], [], max(0, end - time.monotonic()))[0]:
            packet, (_, _, direction, *_) = link.recvfrom(70000)
            start = (packet[0] & 15) * 4
            port = int.from_bytes(packet[start + 2 : start + 4], "big")
            if direction == socket.PACKET_HOST and packet[9] == socket.IPPROTO_UDP and port == request["port"]:
                found.add(socket.inet_ntoa(packet[12:16]))
    return {"from": sorted(found.intersection(request["of"]))}


def send(request):
    """Send a datagram each half second for so many seconds."""
    end = time.monotonic() + request["seconds"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        while time.monotonic() < end:
            with contextlib.suppress(PermissionError):  # by this machine's own rules
                link.sendto(b"q8s", (request["address"], request["port"]))
            time.sleep(0.5)
    return {"sent": True}


KINDS = {
    one.__name__: one
    for one in (tcp, udp, banner, opens, mtu, ping, dns, affinity, short, transfer, flow, arrivals, send)
}


def attempt(request):
    """The result of a request; one without an answer is repeated, since an emulated machine may be slow."""
    for left in reversed(range(request.get("attempts", 1))):
        try:
            return KINDS[request["kind"]](request)
        except TimeoutError:
            found = {"error": "dropped"}
        except ConnectionRefusedError:
            return {"error": "refused"}
        except PermissionError:  # by this machine's own rules, as the lab's for what leaves it
            return {"error": "dropped"}
        except OSError as error:
            found = {"error": "too big" if error.errno == 90 else str(error)}  # EMSGSIZE
            if error.errno == 90:
                break
        except ValueError as error:
            found = {"error": str(error)}
        if left:
            time.sleep(1)
    return found


def ask(requests):
    with ThreadPoolExecutor(max_workers=4 * (os.cpu_count() or 1)) as pool:
        print(json.dumps(list(pool.map(attempt, requests))))


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        ask(json.loads(sys.argv[2]))
