"""An S3 server on loopback: moto's S3 behind the standard library's HTTP server."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
from botocore.awsrequest import AWSPreparedRequest
from botocore.compat import HTTPHeaders
from botocore.config import Config
from moto.core.botocore_stubber import BotocoreStubber


@contextmanager
def s3_server() -> Iterator[tuple[str, list[str]]]:
    """Yield the server's address and the list of Authorization headers that it received."""
    signatures: list[str] = []
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # a client waits a second for "100 Continue"

        def answer(self) -> None:
            headers = HTTPHeaders()
            for name, value in self.headers.items():
                headers[name] = value
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            signatures.append(self.headers.get("Authorization", ""))
            url = f"https://s3.amazonaws.com{self.path}"
            with lock:
                request = AWSPreparedRequest(self.command, url, headers, body, False)
                status, reply_headers, reply = BotocoreStubber().process_request(request)
            reply = reply.encode() if isinstance(reply, str) else reply
            self.send_response(status)
            for name, value in reply_headers.items():
                if name.lower() not in ("content-length", "connection"):
                    self.send_header(name, str(value))
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        do_GET = do_PUT = do_HEAD = answer

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 128  # of 5, some of eight readers at once would be put off by seconds

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", signatures
        finally:  # else the thread would fail at its closed socket, in the middle of other tests
            server.shutdown()


def _client(endpoint: str):
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
        config=Config(proxies={}),
    )


def upload_one(endpoint: str, bucket: str, key: str, data: bytes) -> None:
    client = _client(endpoint)
    client.put_object(Bucket=bucket, Key=key, Body=data, ACL="public-read")
    client.close()


def upload(endpoint: str, bucket: str, root: Path) -> None:
    client = _client(endpoint)
    client.create_bucket(Bucket=bucket)
    client.put_bucket_acl(Bucket=bucket, ACL="public-read")
    for path in sorted(root.rglob("*.csv.gz")):
        key = path.relative_to(root).as_posix()
        client.put_object(Bucket=bucket, Key=key, Body=path.read_bytes(), ACL="public-read")
    client.close()
