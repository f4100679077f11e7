"""Clients of vonic's own service that mean no good. Run in a guest; prints one JSON object."""
import json, os, socket, sys, threading, time

SERVICE = ("169.254.169.254", 80)


def connect():
    s = socket.socket()
    s.settimeout(3)
    s.connect(SERVICE)
    return s


def end(s, limit):
    """How a connection ends for one that only reads: its bytes, and the seconds until the end."""
    begin, got = time.time(), b""
    try:
        while time.time() - begin < limit:
            s.settimeout(limit)
            piece = s.recv(65536)
            if not piece:
                break
            got += piece
    except OSError as e:
        got += b"" if isinstance(e, ConnectionResetError) else repr(e).encode()
    return got, time.time() - begin


def garbage():
    for size in (1, 100, 5000, 100000):
        s = connect()
        try:
            s.sendall(os.urandom(size))
            s.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        end(s, 15)
    return {}


def head():
    """A head of 1 MiB."""
    s = connect()
    try:
        s.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"y" * (1 << 20))
    except OSError:
        pass
    return {"status": end(s, 15)[0][9:12].decode()}


def many():
    """A hundred connections that say nothing, until the service ends them."""
    held, refused = [], 0
    for _ in range(100):
        try:
            held.append(connect())
        except ConnectionRefusedError:
            refused += 1
    ends = [end(s, 20)[1] for s in held]
    return {"held": len(held), "refused": refused, "longest": max(ends)}


def reports():
    """Messages of the agent's form that no agent sends; the statuses of the answers. The first two are within the format."""
    most = (1 << 64) - 1
    counters = dict(packets=most, bytes=most, errors=most, dropped=most)
    card = dict(name="eth0", mac="52:54:00:00:00:02", received=counters, sent=counters)
    device = dict(driver="virtio_net", offloads={"x" * 32: True}, statistics={str(n): most for n in range(64)})
    stall = dict(avg10_basis_points=most, avg60_basis_points=most, total_us=most)
    whole = dict(
        version=4294967295,
        uptime_seconds=most,
        interfaces=[dict(card, device=device)],
        tcp=dict(established=most, segments_sent=most, retransmitted=most,
                 sockets=dict(count=most, more=True, rtt_median_us=most, rtt_p99_us=most, retransmitting=most)),
        cpu=dict(softirq_ms=most, busy_ms=most, idle_ms=most, net_rx=most),
        memory=dict(total=most, available=most, swap_total=most, pressure=dict(some=stall, full=stall)),
        conntrack=dict(count=most, most=most),
        listening=dict(tcp=["[::]:65535"] * 64, udp=[]),
    )
    bad = [
        dict(version=0),
        dict(version=2, hostname="\x1b]0;x\x07"),
        dict(version=2, interfaces=[dict(card, device=dict(driver="\x9b2J"))]),
        dict(version=2, interfaces=[dict(card, device=dict(statistics={"\x1b[2J": 1}))]),
        dict(version=2, interfaces=[dict(card, name="x" * 16)]),
        dict(version=2, interfaces=[card] * 65),
        dict(version=2, listening=dict(tcp=["\x1b[2J"])),
        dict(version=2, listening=dict(tcp=["0.0.0.0:1"] * 65)),
        dict(version=2, conntrack=dict(count=most + 1)),
        dict(version=2, conntrack=dict(count=-1)),
        dict(version=2, hostname="x" * 70000),
    ]
    texts = [json.dumps(message) for message in [dict(version=2), whole] + bad]
    texts += ['{"version":2,"x":%s' % ("[" * 60000), '{"version":2,"version":2}']
    s, statuses = connect(), []
    for text in texts:
        head = "POST /v1/stats HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(text)
        try:
            s.sendall((head + text).encode())
            got = b""
            while b"\r\n\r\n" not in got:
                piece = s.recv(65536)
                if not piece:
                    break
                got += piece
        except OSError:
            pass
        statuses.append(int(got[9:12] or 0))
        # Whatever the rest of the answer is, and whether the server goes on.
        s.close()
        s = connect()
    return {"statuses": statuses}


def pipeline():
    """Six hundred requests, each in a segment of its own, far faster than they are answered; and every answer in small reads."""
    s = connect()
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    s.settimeout(30)

    def ask():
        for number in range(600):
            last = b"connection: close\r\n" if number == 599 else b"x: " + b"y" * 80 + b"\r\n"
            s.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n" + last + b"\r\n")

    asking = threading.Thread(target=ask)
    asking.start()
    got = b""
    while True:
        piece = s.recv(77)
        if not piece:
            break
        got += piece
    asking.join()
    return {"answers": got.count(b"This is vonic"), "whole": got.count(b"HTTP/1.1 200 OK")}


def never():
    """Requests without end in small segments, and nothing is ever read."""
    s = connect()
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    begin, sent, s_end = time.time(), 0, ""
    s.settimeout(40)
    try:
        while time.time() - begin < 60:
            sent += s.send(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    except OSError as e:
        s_end = type(e).__name__
    return {"sent": sent, "seconds": time.time() - begin, "end": s_end}


def listeners():
    """Every place listens to each connection of this guest's, and reads nothing of what it is told of a thousand of them. How long until
    the service has room again."""
    held = []
    for _ in range(8):
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        s.connect(SERVICE)
        s.sendall(b"GET /v1/events?stream=1&batch=1&delay_ms=0 HTTP/1.1\r\nhost: x\r\n\r\n")
        held.append(s)
    for _ in range(1000):
        socket.create_connection(("192.0.2.1", int(sys.argv[2]))).close()
    begin = time.time()
    while time.time() - begin < 60:
        try:
            connect().close()
            break
        except OSError:
            time.sleep(0.5)
    return {"seconds": time.time() - begin}


def lists():
    """Every place asks for the list of connections again and again, and for what is none."""
    answers = []

    def ask():
        s = connect()
        s.settimeout(30)
        for _ in range(10):
            s.sendall(b"GET /v1/connections HTTP/1.1\r\nhost: x\r\n\r\n")
        s.sendall(b"GET /v1/events?" + b"x" * 9000 + b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        answers.append(end(s, 40)[0])

    asking = [threading.Thread(target=ask) for _ in range(8)]
    [thread.start() for thread in asking]
    [thread.join() for thread in asking]
    return {"lists": sum(a.count(b"HTTP/1.1 200 OK") for a in answers), "refused": sum(a.count(b"HTTP/1.1 400") for a in answers)}


print(json.dumps(globals()[sys.argv[1]]()))
