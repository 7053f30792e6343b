# Answers each request with how many there have been and how far a second thread has counted: both are in memory alone.
import socket
import sys
import threading
import time

ticks = 0


def tick():
    global ticks
    while True:
        time.sleep(0.02)
        ticks += 1


def listen(place):
    if place.startswith("/"):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(place)
    else:
        listener = socket.create_server(("", int(place)))
    listener.listen()
    return listener


def serve(listener):
    requests = 0
    while True:
        connection, _ = listener.accept()
        with connection:
            head = b""
            while b"\r\n\r\n" not in head:
                head += connection.recv(4096) or b"\r\n\r\n"
            requests += 1
            body = f"{requests} {ticks}\n".encode()
            length = str(len(body)).encode()
            connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: " + length + b"\r\n\r\n" + body)


threading.Thread(target=tick, daemon=True).start()
with listen(sys.argv[1]) as listener:
    print("ready", flush=True)
    serve(listener)
