"""HTTP/2 on asyncio, both roles, and a small HTTP/1.1 server on the same port (design, sections 7 and 9).

::

    aio                 sockets, TLS, time
    server_connection   client_connection      the two roles
    connection          the frame machine         watch   liveness and progress
    stream              one request               guard   flood budgets
    flow_control        what goes out, and when   http1   the small HTTP/1.1 server
    frames  hpack  headers  limits  errors

Everything but `aio` is pure: no clock, no socket. Read ``docs/internals/http2.md`` for the reasons.
"""
