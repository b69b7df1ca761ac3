"""The image's HEALTHCHECK asks the service in this container whether it is well.

Ends with 0 when `/healthz` answers 200 within the time limit, else with 1 and one line that says
what it answered. A proxy of the environment is not asked: this never leaves the container.
"""

import http.client
import os
import sys

TIMEOUT = 4.0
"""Seconds; less than the HEALTHCHECK's own limit, so that it is us who say what is wrong."""


def main() -> int:
    port = os.environ.get("PUBLISHER_HTTP_PORT") or "9108"
    try:
        connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=TIMEOUT)
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        told = answer.read(1000).decode(errors="replace").strip()
    except (OSError, ValueError, http.client.HTTPException) as error:
        why = str(error) or type(error).__name__
        sys.stdout.write(f"no answer on port {port} (PUBLISHER_HTTP_PORT): {why}\n")
        return 1
    sys.stdout.write(f"{told}\n")
    return 0 if answer.status == http.client.OK else 1


if __name__ == "__main__":
    sys.exit(main())
