"""What the applications of tests/e2e_apps.rs need besides themselves, in the world and in guests. Every answer is a known text: the bytes 0 to 250
again and again, whose length is prime, so that nothing of a power of two that is lost, doubled or moved goes unseen."""
import base64, hashlib, json, os, pty, select, socket, struct, sys, threading, time

RAMP = bytes(range(251))
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
DNS_STRING = 251


def ramp(length):
    return (RAMP * (length // len(RAMP) + 1))[:length]


def exactly(s, length):
    got = bytearray()
    while len(got) < length:
        piece = s.recv(min(65536, length - len(got)))
        if not piece:
            raise EOFError(f"{len(got)} bytes of {length}")
        got += piece
    return bytes(got)


# --- the world's HTTP: PUT says the SHA-256 of what came, GET /long?S answers after S seconds, GET with Upgrade is a WebSocket (RFC 6455)


def head(s):
    got = bytearray()
    while not got.endswith(b"\r\n\r\n"):
        byte = s.recv(1)
        if not byte:
            raise EOFError
        got += byte
    first, *rest = got.decode().split("\r\n")
    return first.split(" "), {k.lower(): v for k, v in (line.split(": ", 1) for line in rest if line)}


def reply(s, body):
    s.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


def http(s):
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        while True:
            (method, path, _), fields = head(s)
            if method == "PUT":
                if "expect" in fields:
                    s.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                left, digest = int(fields["content-length"]), hashlib.sha256()
                while left:
                    piece = s.recv(min(left, 1 << 18))
                    if not piece:
                        raise EOFError
                    digest.update(piece)
                    left -= len(piece)
                reply(s, digest.hexdigest().encode())
            elif "upgrade" in fields:
                return web_socket(s, fields)
            else:
                time.sleep(float(path.split("?")[1]))
                reply(s, ramp(100003))
    except (EOFError, ConnectionError):
        pass


def frame(payload, mask=None):
    """A binary frame (RFC 6455, section 5.2); a client masks."""
    bit = 0x80 if mask else 0
    length = bytes([bit | len(payload)]) if len(payload) < 126 else struct.pack("!BH", bit | 126, len(payload))
    if mask:
        payload = mask + bytes(b ^ mask[i % 4] for i, b in enumerate(payload))
    return b"\x82" + length + payload


def read_frame(s):
    opcode, length = exactly(s, 2)
    mask, length = length & 0x80, length & 0x7F
    if length == 126:
        length = struct.unpack("!H", exactly(s, 2))[0]
    key = exactly(s, 4) if mask else bytes(4)
    return opcode & 0xF, bytes(b ^ key[i % 4] for i, b in enumerate(exactly(s, length)))


def accept_of(key):
    return base64.b64encode(hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()).decode()


def web_socket(s, fields):
    accept = accept_of(fields["sec-websocket-key"])
    s.sendall(f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n".encode())
    while True:
        opcode, payload = read_frame(s)
        if opcode == 8:
            return
        s.sendall(frame(payload))


def idle(host, port, seconds):
    """A WebSocket's client: three echoes, silence, three echoes; how long each took."""
    s = socket.create_connection((host, int(port)))
    s.settimeout(30)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    key = base64.b64encode(os.urandom(16)).decode()
    s.sendall(f"GET /socket HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode())
    (_, status, *_), fields = head(s)
    assert status == "101" and fields["sec-websocket-accept"] == accept_of(key), (status, fields)

    def echo(length):
        begin = time.monotonic()
        s.sendall(frame(ramp(length), os.urandom(4)))
        assert read_frame(s) == (2, ramp(length))
        return time.monotonic() - begin

    before = [echo(length) for length in (1, 1009, 60013)]
    time.sleep(float(seconds))
    after = [echo(length) for length in (1, 1009, 60013)]
    s.sendall(b"\x88\x80" + bytes(4))
    print(json.dumps({"before_ms": [1e3 * x for x in before], "after_ms": [1e3 * x for x in after]}))


# --- the world's DNS, UDP and TCP (RFC 1035): TXT of tN.test has N strings of 251 letters


def dns_text(number):
    return ["".join(LETTERS[(i + j) % len(LETTERS)] for j in range(DNS_STRING)) for i in range(number)]


def answer(query, limit):
    end = query.index(0, 12) + 1
    number = int(query[14 : 13 + query[12]])
    question = query[12 : end + 4]
    records = b""
    for text in dns_text(number):
        records += b"\xc0\x0c" + struct.pack("!HHIHB", 16, 1, 60, DNS_STRING + 1, DNS_STRING) + text.encode()
    if query[10:12] != b"\0\0" and limit == 512:
        # EDNS: what the client takes is in the OPT record's class (RFC 6891, section 6.1.2).
        limit = struct.unpack("!H", query[end + 7 : end + 9])[0]
    if 12 + len(question) + len(records) > limit:
        return query[:2] + struct.pack("!HHHHH", 0x8780, 1, 0, 0, 0) + question
    return query[:2] + struct.pack("!HHHHH", 0x8580, 1, number, 0, 0) + question + records


def dns_tcp(s):
    try:
        while True:
            text = answer(exactly(s, struct.unpack("!H", exactly(s, 2))[0]), 65535)
            s.sendall(struct.pack("!H", len(text)) + text)
    except (EOFError, ConnectionError):
        pass


def listen(family, address, port, serve):
    listener = socket.create_server((address, port), family=family, backlog=64)

    def one(connection):
        with connection:
            serve(connection)

    def run():
        while True:
            threading.Thread(target=one, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=run, daemon=True).start()


def world():
    sockets = []
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        listen(family, address, 8001, http)
        listen(family, address, 5353, dns_tcp)
        s = socket.socket(family, socket.SOCK_DGRAM)
        s.bind((address, 5353))
        sockets.append(s)
    print("listening", flush=True)
    while True:
        for s in select.select(sockets, [], [])[0]:
            query, peer = s.recvfrom(4096)
            s.sendto(answer(query, 512), peer)


# --- clients


def type_keys(count, *command):
    """Types into a command's terminal as a person does, one key after the echo of the last; how long the echoes took."""
    child, terminal = pty.fork()
    if child == 0:
        os.execvp(command[0], command)

    def until(wanted):
        got = b""
        while wanted not in got:
            if not select.select([terminal], [], [], 30)[0]:
                raise TimeoutError((wanted, got))
            got += os.read(terminal, 4096)
        return got

    # The name of the terminal, and what the far side's terminal makes of the end of the line.
    greeting = until(b"\r\n")
    assert b"/dev/pts/" in greeting, greeting
    text = "".join(LETTERS[i % len(LETTERS)] for i in range(int(count)))
    took = []
    for key in text.encode():
        begin = time.monotonic()
        os.write(terminal, bytes([key]))
        echo = until(bytes([key]))
        assert echo == bytes([key]), (key, echo)
        took.append(1e3 * (time.monotonic() - begin))
        time.sleep(0.005)
    os.write(terminal, b"\n")
    # The echo of the end of the line, and then cat's own.
    until(text.encode() + b"\r\n")
    os.write(terminal, b"\x04")
    # Not its status: dropbear sometimes closes the channel before it has told it, on a plain loopback as often as here.
    os.waitpid(child, 0)
    took.sort()
    print(json.dumps({"keys": len(took), "median_ms": took[len(took) // 2], "worst_ms": took[-1]}))


def write(path, length):
    with open(path, "wb") as file:
        file.write(ramp(int(length)))


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
