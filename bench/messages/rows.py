"""The rows of the table of messages."""

from typing import Final

from bench.rows import Row

INBOX_MESSAGES: Final = 100_000

MESSAGE_ROWS: Final = (
    Row("rate", "messages of 1 KB, one way, each a call of HTTP", "1/s", True),
    Row("rate_batches", "messages of 1 KB, one way, 50 calls of JSON-RPC in a request", "1/s", True),
    Row("rate_both", "messages of 1 KB, both ways at once, each a call of HTTP, sum", "1/s", True),
    Row("large", "one message of 7 MB, JSON-RPC", "MB/s", True),
    Row("huge", "one message of 100 MB, raw transfer", "MB/s", True),
    Row("latency", "100 bytes, send to pop, median", "ms", False),
    Row("latency_p99", "100 bytes, send to pop, 99th percentile", "ms", False),
    Row("api", "API requests, 50 clients", "1/s", True),
    Row("api_p99", "API requests, 50 clients, 99th percentile", "ms", False),
    Row("inbox", f"memory of the whole node (PSS), {INBOX_MESSAGES} messages of 100 bytes in its inbox", "MB", False),
    Row("inbox_more", "of that, more than before the first message", "MB", False),
)
