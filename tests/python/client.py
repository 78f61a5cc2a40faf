"""A client of Conti made from nothing but its proto files.

Creates a container, runs a command in it with stdin, reads its end, drops a stream in the middle
and resumes it without losing or doubling a byte, and looks at an error as a machine would.

Usage: client.py unix:///path/to/contid.sock, with the generated modules on PYTHONPATH.
"""

import queue
import sys

import grpc
from conti.v1 import container_service_pb2 as containers
from conti.v1 import container_service_pb2_grpc as containers_grpc
from conti.v1 import container_pb2 as container
from conti.v1 import process_pb2 as process
from conti.v1 import session_pb2 as session
from conti.v1 import session_service_pb2 as sessions
from conti.v1 import session_service_pb2_grpc as sessions_grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status


class Stream:
    """One bidirectional stream of a session."""

    def __init__(self, stub, **opening):
        self._requests = queue.SimpleQueue()
        self.send(open=sessions.StreamOpen(**opening))
        self._call = stub.Stream(iter(self._requests.get, None), timeout=60)
        self._sent = 0
        first = next(self._call)
        assert first.WhichOneof("message") == "opened", first
        self.opened = first.opened
        self._sent = first.opened.input_offset

    def send(self, **message):
        self._requests.put(sessions.StreamRequest(**message))

    def write(self, data):
        self.send(input=sessions.Input(offset=self._sent, data=data))
        self._sent += len(data)

    def close_input(self):
        self.send(input_eof=sessions.InputEof(offset=self._sent))

    def __iter__(self):
        """Yields messages, and acknowledges output."""
        for response in self._call:
            if response.WhichOneof("message") == "output":
                end = response.output.offset + len(response.output.data)
                self.send(output_ack=sessions.OutputAck(offset=end))
            yield response

    def drop(self):
        """Breaks the connection off, as a bad network does."""
        self._requests.put(None)
        self._call.cancel()

    def finish(self):
        """Reads to the end: stdout, stderr and the end."""
        out, err = bytearray(), bytearray()
        for response in self:
            kind = response.WhichOneof("message")
            if kind == "output":
                to_stderr = response.output.stream == session.OUTPUT_STREAM_STDERR
                (err if to_stderr else out).extend(response.output.data)
            elif kind == "end":
                self._requests.put(None)
                return bytes(out), bytes(err), response.end
        raise AssertionError("the stream closed without an end")


def spec(name, *argv, **policy):
    return session.SessionSpec(
        target=session.SessionTarget(container=name),
        process=process.ProcessSpec(argv=argv, stdin=True),
        policy=session.SessionPolicy(**policy),
    )


def creates_and_executes(container_stub, session_stub):
    wanted = container.ContainerSpec(
        name="from-python",
        labels={"made-by": "python"},
        process=process.ProcessSpec(argv=["sleep", "100000"]),
    )
    request = containers.CreateContainerRequest(spec=wanted, request_id="python-1", start=True)
    made = container_stub.CreateContainer(request).container
    again = container_stub.CreateContainer(request).container
    assert made.id == again.id, "a repeated request makes no second container"
    assert made.state == container.CONTAINER_STATE_RUNNING, made

    stream = Stream(session_stub, start=spec("from-python", "sh", "-c", "cat; echo done >&2; exit 7"))
    data = bytes(range(256)) * 4096
    for at in range(0, len(data), 65536):
        stream.write(data[at : at + 65536])
    stream.close_input()
    out, err, end = stream.finish()
    assert out == data, "stdin came back on stdout"
    assert err == b"done\n", err
    assert end.WhichOneof("reason") == "exit_code" and end.exit_code == 7, end
    assert end.stdout_bytes == len(data) and end.stderr_bytes == 5, end


def resumes(session_stub):
    keep = dict(disconnect_policy=session.DISCONNECT_POLICY_KEEP)
    script = "for i in $(seq 1 2000); do echo line $i; done; exec cat"
    stream = Stream(session_stub, start=spec("from-python", "sh", "-c", script, **keep))
    session_id = stream.opened.session.id
    received = bytearray()
    expected = b"".join(b"line %d\n" % i for i in range(1, 2001))
    for response in stream:
        if response.WhichOneof("message") == "output":
            received.extend(response.output.data)
            if len(received) > 100:
                break
    stream.drop()

    attach = sessions.AttachSession(session_id=session_id, output_offset=len(received))
    stream = Stream(session_stub, attach=attach)
    assert stream.opened.output_offset == len(received), stream.opened
    stream.write(b"typed after the break\n")
    stream.close_input()
    out, _, end = stream.finish()
    received.extend(out)
    assert received == expected + b"typed after the break\n", "every byte came once"
    assert end.exit_code == 0 and end.stdout_bytes == len(received), end


def explains_errors(container_stub):
    try:
        container_stub.GetContainer(containers.GetContainerRequest(container="nobody"))
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.NOT_FOUND, error
        info = error_details_pb2.ErrorInfo()
        details = rpc_status.from_call(error).details
        assert any(detail.Unpack(info) for detail in details), details
        assert (info.domain, info.reason) == ("conti.v1", "CONTAINER_NOT_FOUND"), info
    else:
        raise AssertionError("there is no such container")


def main():
    # gRPC's core would send the socket's path as authority, which is no valid one.
    options = [("grpc.default_authority", "localhost")]
    with grpc.insecure_channel(sys.argv[1], options=options) as channel:
        container_stub = containers_grpc.ContainerServiceStub(channel)
        session_stub = sessions_grpc.SessionServiceStub(channel)
        creates_and_executes(container_stub, session_stub)
        resumes(session_stub)
        explains_errors(container_stub)
        request = containers.DeleteContainerRequest(container="from-python", force=True)
        container_stub.DeleteContainer(request)
    print("created, executed, resumed and explained from Python")


if __name__ == "__main__":
    main()
