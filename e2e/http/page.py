"""What `page.sh` asserts: page.py DRIVER_PORT FIRST_PORT PID PID PID [PICTURE]."""

import base64
import json
import os
import signal
import sys
import time
import urllib.error
import urllib.request

PATIENCE_SECONDS = 30
WIDTH, HEIGHT = 1100, 860


def call(url, body=None, method=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
        return json.load(answer)


def eventually(what, look):
    deadline = time.monotonic() + PATIENCE_SECONDS
    seen = None
    while time.monotonic() < deadline:
        try:
            seen = look()
        except (urllib.error.URLError, ConnectionError, StopIteration) as error:
            seen = error
        if seen and not isinstance(seen, Exception):
            return seen
        time.sleep(0.1)
    sys.exit(f"page.py: not within {PATIENCE_SECONDS} s: {what}; last seen: {seen!r}")


class Page:
    def __init__(self, driver_port, url):
        options = ["--headless=new", "--no-sandbox", "--hide-scrollbars", f"--window-size={WIDTH},{HEIGHT}"]
        wanted = {"alwaysMatch": {"goog:chromeOptions": {"args": options}}}
        base = f"http://127.0.0.1:{driver_port}/session"
        self.session = f"{base}/{call(base, {'capabilities': wanted})['value']['sessionId']}"
        call(f"{self.session}/url", {"url": url})

    def run(self, script):
        return call(f"{self.session}/execute/sync", {"script": f"return {script}", "args": []})["value"]

    def text(self, selector):
        return self.run(f"document.querySelector({json.dumps(selector)}).innerText")

    def picture(self, path):
        with open(path, "wb") as file:
            file.write(base64.b64decode(call(f"{self.session}/screenshot")["value"]))

    def close(self):
        call(self.session, method="DELETE")


def main(driver_port, first_port, pids, picture):
    gateways = [f"http://127.0.0.1:{first_port + 10 * number + 2}" for number in (1, 2, 3)]

    def leading():
        found = [call(f"{gateway}/status") for gateway in gateways]
        # A tuple, because the index 0 alone is no answer for `eventually`.
        return next((index,) for index, status in enumerate(found) if status["role"] == "leader" and status["healthy_nodes"] == 3)

    (leader,) = eventually("one of the three leads", leading)
    gateway, names = gateways[leader], ["node-1", "node-2", "node-3"]
    follower = next(index for index in range(3) if index != leader)
    page = Page(driver_port, f"{gateway}/")
    try:
        eventually("the page says that all is well", lambda: "All 3 voters are up; 1 may fail" in page.text("#health"))
        assert page.run("document.title") == f"{names[leader]} · HeliosDB"
        assert page.run("document.querySelector('#health').className") == "card good"
        rows = page.run("[...document.querySelectorAll('#members tr')].map((row) => [...row.cells].map((cell) => cell.innerText))")
        assert [row[0] for row in rows] == names, rows
        assert [row[1] for row in rows] == ["leader" if name == names[leader] else "follower" for name in names], rows
        assert page.run("document.querySelectorAll('link, img, script[src]').length") == 0, "the page loads something"

        def written(number=[0]):
            number[0] += 1
            for part in range(3 + number[0] % 5):
                call(f"{gateway}/put", {"key": f"key-{number[0]}-{part}", "value": "value"})
            points = page.run("document.querySelector('#rates polyline')?.points.length ?? 0")
            return points >= (40 if picture else 3) and int(page.text("#keys").replace(",", "")) > 0

        global PATIENCE_SECONDS
        PATIENCE_SECONDS = 90
        eventually("keys and rates are counted", written)

        backups = eventually("the page shows the backups", lambda: "Archiving" in page.text("#backups") and page.text("#archivers"))
        assert "archiver /demo" in backups and "; last base " in backups and "no verified restore" in backups, backups

        # A follower is stopped by a signal, which leaves its sockets open; then it continues.
        os.kill(pids[follower], signal.SIGSTOP)
        eventually("the page names who is away", lambda: f"{names[follower]} cannot be reached; no more may fail" in page.text("#health"))
        assert page.run("document.querySelector('#health').className") == "card bad"
        assert "not reached" in page.text("#members")
        os.kill(pids[follower], signal.SIGCONT)
        eventually("the page is well again", lambda: "All 3 voters are up" in page.text("#health"))
        events = page.text("#events")
        assert f"{names[follower]} is not reached" in events and f"{names[follower]} is back" in events, events
        if picture:
            end = time.monotonic() + 6
            while time.monotonic() < end:
                written()
                time.sleep(0.1)
            os.makedirs(os.path.dirname(picture), exist_ok=True)
            page.picture(picture)

        os.kill(pids[leader], signal.SIGKILL)
        eventually("the page says that its member is gone", lambda: "does not answer" in page.text("#health"))
    finally:
        os.kill(pids[follower], signal.SIGCONT)
        page.close()
    print("status page: health, members, rates, backups, a member away and back, a member gone: 6 passed")


if __name__ == "__main__":
    driver, first, *rest = sys.argv[1:]
    main(int(driver), int(first), [int(pid) for pid in rest[:3]], next(iter(rest[3:]), ""))
