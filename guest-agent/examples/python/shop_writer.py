#!/usr/bin/env python3
"""A writer for Stillpoint in Python, made from the .proto files alone.

    pip install grpcio grpcio-tools
    python3 shop_writer.py --proto ../../../proto [--socket /run/stillpoint/writers.sock] [--file orders.txt]

The shop takes orders into a file. While it is frozen it takes none; what it has taken is flushed before it says that it
is quiet. With each checkpoint it keeps how many orders there were. It connects again when the agent is restarted, and
takes orders again when the agent is gone in the middle of a freeze.
"""

import argparse
import os
import queue
import sys
import threading
import time

import grpc


class Shop:
    """The application: it knows nothing of checkpoints but how to pause."""

    def __init__(self, path):
        self.orders = 0
        self.open = threading.Event()
        self.open.set()
        self.busy = threading.Lock()
        self.file = open(path, "a", encoding="ascii")
        threading.Thread(target=self.work, daemon=True).start()

    def work(self):
        while True:
            self.open.wait()
            with self.busy:
                if self.open.is_set():
                    self.orders += 1
                    self.file.write(f"order {self.orders}\n")
                    self.file.flush()
            time.sleep(0.005)

    def pause(self):
        self.open.clear()
        with self.busy:  # the order that is being taken is taken to its end
            os.fsync(self.file.fileno())

    def go_on(self):
        self.open.set()


class Writer:
    """Answers the agent's questions, one after the other."""

    def __init__(self, shop, words):
        self.shop = shop
        self.words = words

    def on(self, event):
        """What came of an event: (metadata to keep, None) or (None, why not)."""
        kind = event.WhichOneof("kind")
        if kind == "freeze":
            self.shop.pause()
            return {"orders": str(self.shop.orders)}, None
        if kind in ("thaw", "abort"):
            self.shop.go_on()
        if kind == "post_restore":
            kept = dict(event.post_restore.restored.metadata)
            print(f"restored to order {kept.get('orders')}", flush=True)
        return {}, None

    def registration(self):
        words = self.words
        return words.Registration(
            name="Shop",
            writer_id="7b0f6c1e-52a3-4a57-8b8e-6a1f0d1c2b3a",
            level=1,  # WRITER_LEVEL_FRONT_END
            version="1.0",
        )


def serve(socket, writer, words, services):
    """Registers, and answers until the agent ends. Leaves the shop open."""
    outgoing = queue.Queue()
    outgoing.put(words.AttachRequest(registration=writer.registration()))
    # Without this, gRPC's C core sends the socket's path as the authority, which HTTP/2 servers in Rust refuse.
    options = [("grpc.default_authority", "agent")]
    with grpc.insecure_channel(f"unix://{socket}", options) as channel:
        try:
            for message in services.WriterRegistryStub(channel).Attach(iter(outgoing.get, None)):
                if message.WhichOneof("message") == "registered":
                    print(f"registered as {message.registered.instance_id}", flush=True)
                    continue
                event = message.event
                kept, why = writer.on(event)
                answer = words.Answer(sequence=event.sequence)
                if why is None:
                    answer.done.SetInParent()  # done, also with nothing to keep
                    answer.done.metadata.update(kept)
                else:
                    answer.failure.message = why
                outgoing.put(words.AttachRequest(answer=answer))
        except grpc.RpcError as error:
            print(f"not registered: {error.code().name} {error.details()}", file=sys.stderr, flush=True)
        finally:
            outgoing.put(None)
            writer.shop.go_on()  # nobody stays quiet for an agent that is gone


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--proto", required=True, help="the folder that has stillpoint/writer/v1")
    arguments.add_argument("--socket", default="/run/stillpoint/writers.sock")
    arguments.add_argument("--file", default="orders.txt")
    chosen = arguments.parse_args()

    sys.path.insert(0, chosen.proto)
    words, services = grpc.protos_and_services("stillpoint/writer/v1/registry.proto")
    writer = Writer(Shop(chosen.file), words)
    while True:
        serve(os.path.abspath(chosen.socket), writer, words, services)
        time.sleep(1)


if __name__ == "__main__":
    main()
